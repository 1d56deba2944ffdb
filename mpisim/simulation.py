"""A simulation: from the options to a log, on the ranks of a communicator. The rounds are in ``rounds.py``."""

from __future__ import annotations

from pathlib import Path

import torch
from mpi4py import MPI

from mpisim.briefing import brief
from mpisim.config import Config
from mpisim.dealing import dataset_of
from mpisim.display import Display
from mpisim.errors import InputError
from mpisim.experiment import Experiment, decide, free_output
from mpisim.learning.device import choose_device, device_name
from mpisim.plan import plan_rows
from mpisim.ranks.messages import from_rank_zero, to_rank_zero
from mpisim.ranks.startup import Place, abort, find_place
from mpisim.ranks.waiting import Waiting
from mpisim.rounds import Rounds
from mpisim.storage.log import Log
from mpisim.storage.provenance import provenance
from mpisim.storage.variables import logged_variables

MAX_NAMES_TAKEN = 100


class Simulation:
    """One experiment on the ranks of a communicator.

    Parameters
    ----------
    config : Config
        The same on every rank.
    comm : MPI communicator
        Its ranks own the nodes; those that are left over stay idle.
    """

    def __init__(self, config: Config, comm: MPI.Intracomm):
        self.config = config
        self.comm = comm
        self.waiting = Waiting()

    def run(self) -> Path | None:
        """Run the experiment; return the path of its log, None after a dry run. Collective.

        An exception on any of several ranks ends them all: see ``ranks.startup.abort``.

        Raises
        ------
        InputError
            On every rank, if the options, or the files they name, are wrong; nothing is on disk then.
        OSError
            If there is one rank, and the log cannot be written.
        """
        prepared = None
        try:
            prepared = self._prepare()
            return None if self.config.dry_run else self._run(*prepared)
        except BaseException as error:
            wrong_input = isinstance(error, InputError) and prepared is None  # then every rank has it
            if self.comm.size > 1 and not wrong_input:
                abort(self.comm)
            raise

    def _prepare(self) -> tuple[Experiment | None, int, Place, torch.device, list[dict[str, str | int]]]:
        """Decide, find devices and show the plan; return what the run needs. InputError comes on all ranks or none."""
        config, comm, waiting = self.config, self.comm, self.waiting
        experiment: Experiment | None = None

        def decide_on_rank_zero() -> int:
            nonlocal experiment
            experiment = decide(config, comm.size)
            return experiment.num_ranks

        num_ranks = from_rank_zero(comm, waiting, decide_on_rank_zero)
        place = find_place(comm, waiting, config.threads)
        torch.set_num_threads(place.threads)
        device, places = self._find_devices(place)
        if experiment is not None:
            Display(config.rounds, config.quiet).plan(plan_rows(experiment, places, comm.size, device))
        return experiment, num_ranks, place, device, places

    def _run(
        self,
        experiment: Experiment | None,
        num_ranks: int,
        place: Place,
        device: torch.device,
        places: list[dict[str, str | int]],
    ) -> Path:
        """Play the rounds on the ranks that own nodes; the others sleep until the end."""
        config, comm, waiting = self.config, self.comm, self.waiting
        active = waiting.split(comm, int(comm.rank < num_ranks))
        path = None
        if comm.rank < num_ranks:
            # Only the ranks of the rounds may spin: those without nodes sleep until the end.
            rounds = Rounds(config, active, Waiting(spin=place.owns_core), brief(active, waiting, experiment), device)
            if experiment is not None:
                log, display = _create_log(experiment, places), Display(config.rounds, config.quiet)
                path = rounds.play_and_log(log, display)
            else:
                rounds.play()
        waiting.barrier(comm)
        active.Free()
        return Path(from_rank_zero(comm, waiting, lambda: str(path)))

    def _find_devices(self, place: Place) -> tuple[torch.device, list[dict[str, str | int]]]:
        """Return this rank's device and, on rank 0, where every rank is. One rank without a device stops all."""
        device = torch.device("cpu")
        mine: dict[str, str | int] = {"host": place.host, "threads": place.threads, "device": "", "error": ""}
        try:
            device = choose_device(self.config.device, place.local_rank)
            mine["device"] = device_name(device)
        except InputError as error:
            mine["error"] = f"{error} (rank {self.comm.rank} on {place.host})"
        places = to_rank_zero(self.comm, self.waiting, mine)

        def raise_first_error() -> None:
            for each in places:
                if each["error"]:
                    raise InputError(each["error"])

        from_rank_zero(self.comm, self.waiting, raise_first_error)
        return device, places


def _create_log(experiment: Experiment, places: list[dict[str, str | int]]) -> Log:
    config = experiment.config
    active = places[: experiment.num_ranks]
    attributes = provenance(
        config.as_dict(),
        [str(place["host"]) for place in active],
        [str(place["device"]) for place in active],
        [int(place["threads"]) for place in active],
        MPI.Get_library_version().split("\n")[0].strip(),
    ) | {"data_kind": dataset_of(config).kind}
    sizes, static = experiment.log_sizes(), experiment.log_variables()
    variables = logged_variables(**config.moments)
    for _ in range(MAX_NAMES_TAKEN):
        try:
            return Log.create(free_output(config), sizes, static, attributes, config.overwrite, variables)
        except FileExistsError:
            # Another run took the name after the plan was made. Without --output there is a next one.
            if config.output is not None:
                raise
    raise FileExistsError(f"results: {MAX_NAMES_TAKEN} names were taken by others as soon as they were free")
