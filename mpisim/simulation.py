"""A simulation: from the options to a log, on the ranks of a communicator. The rounds are in ``rounds.py``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from mpi4py import MPI

from mpisim.briefing import brief
from mpisim.config import Config
from mpisim.display import Display
from mpisim.errors import InputError, writing
from mpisim.exchange.transport import Transport, choose_transport, tested_transport
from mpisim.experiment import Experiment, decide
from mpisim.learning.device import choose_device, compute_deterministically
from mpisim.opening import attributes, open_log
from mpisim.plan import plan_rows
from mpisim.ranks.messages import from_rank_zero, to_rank_zero
from mpisim.ranks.startup import Place, abort, find_place, stop_all
from mpisim.ranks.stopping import Stopped, StopRequest
from mpisim.ranks.waiting import Waiting
from mpisim.resuming import is_finished, newest_checkpoint
from mpisim.rounds import Rounds
from mpisim.sharing import check_memory, described
from mpisim.storage.checkpoint import Checkpoint
from mpisim.storage.log import Log


@dataclass(frozen=True)
class Prepared:
    """What a run needs to begin: on rank 0 the experiment and every place; the number of ranks that own nodes."""

    experiment: Experiment | None
    num_ranks: int
    place: Place
    device: torch.device
    places: list[dict[str, str | int]]
    transport: Transport


class Simulation:
    """One experiment on the ranks of a communicator.

    Parameters
    ----------
    config : Config
        The same on every rank.
    comm : MPI communicator
        Its ranks own the nodes; those that are left over stay idle.
    stop : StopRequest, optional
        What a caller that listens to signals has heard; by default they are listened to once the log is opened.

    Attributes
    ----------
    complete : bool
        Whether the run has played all its rounds.
    """

    def __init__(self, config: Config, comm: MPI.Intracomm, stop: StopRequest | None = None):
        self.config = config
        self.comm = comm
        self.waiting = Waiting(timeout=config.timeout, comm=comm)
        self.stop = stop or StopRequest()
        self.complete = False

    def run(self) -> Path | None:
        """Run the experiment; return the path of its log, None after a dry run. Collective.

        Whether all rounds were played, or a signal or the walltime stopped it at a checkpoint, ``complete`` tells. An
        exception on any of several ranks ends them all: see ``ranks.startup.abort``.

        Raises
        ------
        InputError
            On every rank, if the options, or the files they name, are wrong; nothing is on disk then.
        OSError
            If there is one rank, and the log or a checkpoint cannot be written.
        Stopped
            On a rank that a signal has come to before the log is opened, if the caller's ``stop`` is at once; and if
            there is one rank, and a round does not fit into the walltime.
        """
        began = False
        try:
            prepared = self._prepare()
            if self.config.dry_run:
                return None
            with ExitStack() as held, self.stop.listening():  # every rank: a signal ends who does not
                self.stop.only_note()
                log, path, resumes = self._open_log(prepared, held)
                checkpoint, self.complete = self._look_back(prepared, log, path) if resumes else (None, False)
                began = True
                return path if self.complete else self._run(prepared, log, path, resumes, checkpoint)
        except BaseException as error:
            wrong_input = isinstance(error, InputError) and not began  # then every rank has it
            if isinstance(error, Stopped):
                if began and self.comm.size > 1:
                    stop_all(self.comm, str(error))
            elif self.comm.size > 1 and not wrong_input:
                abort(self.comm)
            raise

    def _prepare(self) -> Prepared:
        """Decide, find devices and show the plan; return what the run needs. InputError comes on all ranks or none."""
        config, comm, waiting = self.config, self.comm, self.waiting
        experiment: Experiment | None = None

        def decide_on_rank_zero() -> int:
            nonlocal experiment
            experiment = decide(config, comm.size)
            return experiment.num_ranks

        waiting.step = "while rank 0 prepared the experiment (if it downloads data, that counts)"
        num_ranks = from_rank_zero(comm, waiting, decide_on_rank_zero)
        waiting.step = "while each rank looked for its place and device"
        place = find_place(comm, waiting, config.threads)
        torch.set_num_threads(place.threads)
        if config.deterministic:
            compute_deterministically()
        device, places = self._find_devices(place, experiment)
        waiting.step = "while it was tested how models can travel"
        chosen = choose_transport(config.transport, config.gpu_aware, device)
        transport = tested_transport(comm, waiting, chosen, device, config.gpu_aware, num_ranks)
        if experiment is not None:
            Display(config.rounds, config.quiet).plan(plan_rows(experiment, places, comm.size, device, transport))
        return Prepared(experiment, num_ranks, place, device, places, transport)

    def _open_log(self, prepared: Prepared, held: ExitStack) -> tuple[Log | None, Path, bool]:
        """Make the log on rank 0, or open that of the run to go on with; return it, its path, and which it was."""
        log: Log | None = None

        def open_on_rank_zero() -> tuple[str, bool]:
            nonlocal log
            assert prepared.experiment is not None
            log, resumes = open_log(prepared.experiment, prepared.places, held)
            return str(log.path), resumes

        self.waiting.step = "before the log was opened"
        self.waiting.barrier(self.comm)  # no rank stops at once any more: it could end one that makes the log
        self.waiting.step = "while rank 0 opened the log"
        path, resumes = from_rank_zero(self.comm, self.waiting, open_on_rank_zero)
        return log, Path(path), resumes

    def _look_back(self, prepared: Prepared, log: Log | None, path: Path) -> tuple[Checkpoint | None, bool]:
        """Return the checkpoint to go on from, and whether nothing is left to do; nothing on disk changes."""
        config, comm, waiting = self.config, self.comm, self.waiting
        waiting.step = "while the ranks read a checkpoint"

        def sizes() -> list[int]:
            assert prepared.experiment is not None
            assert log is not None
            return [prepared.experiment.topology.num_nodes, log.num_rounds]

        num_nodes, num_logged = from_rank_zero(comm, waiting, sizes)
        checkpoint = newest_checkpoint(comm, waiting, config, path, num_nodes, num_logged)
        finished = bool(from_rank_zero(comm, waiting, lambda: is_finished(config, path, checkpoint)))
        if finished and log is not None:
            Display(config.rounds, config.quiet).line(f"resumed       {path} is complete: nothing is left to do")
        return checkpoint, finished

    def _run(
        self, prepared: Prepared, log: Log | None, path: Path, resumes: bool, checkpoint: Checkpoint | None
    ) -> Path:
        """Play the rounds on the ranks that own nodes; the others sleep until the end."""
        config, comm, waiting = self.config, self.comm, self.waiting
        waiting.step = "while rank 0 told the others what is theirs"
        active = waiting.split(comm, int(comm.rank < prepared.num_ranks))
        if comm.rank < prepared.num_ranks:
            briefing = brief(active, waiting, prepared.experiment)
            # Only the ranks of the rounds may spin: those without nodes sleep until the end.
            patience = Waiting(prepared.place.owns_core, config.timeout, comm)
            patience.step = "while each rank made its nodes"
            rounds = Rounds(config, active, patience, briefing, prepared.device, path, self.stop, prepared.transport)
            first = 1 + self._restore(prepared, rounds, checkpoint, log) if resumes else 1
            display = Display(config.rounds, config.quiet) if log is not None else None
            self.complete = self._play(rounds, first, log, display)
        else:
            waiting = Waiting(comm=comm)  # as long as the rounds take
        waiting.step = "after the last round"
        waiting.barrier(comm)
        active.Free()
        self.complete = from_rank_zero(comm, waiting, lambda: self.complete)
        return path

    def _restore(self, prepared: Prepared, rounds: Rounds, checkpoint: Checkpoint | None, log: Log | None) -> int:
        """Go on from a checkpoint, or from the beginning; return its round, to which the log is taken back."""
        round = 0 if checkpoint is None else checkpoint.round
        if checkpoint is not None:
            rounds.keeping.restore(checkpoint)
        if log is not None and prepared.experiment is not None:
            experiment = prepared.experiment
            with writing(log.path):
                log.tidy()
                log.rewind(round, experiment.rank_of_node, attributes(experiment, prepared.places))
            where = f"after round {round}" if round else "from the beginning: there is no checkpoint"
            Display(self.config.rounds, self.config.quiet).line(f"resumed       {where}")
        return round

    def _play(self, rounds: Rounds, first: int, log: Log | None, display: Display | None) -> bool:
        if display is None:
            return rounds.play(first)
        display.start(first - 1)
        try:
            return rounds.play(first, log, display)
        finally:
            display.stop()

    def _find_devices(
        self, place: Place, experiment: Experiment | None
    ) -> tuple[torch.device, list[dict[str, str | int]]]:
        """Return this rank's device and, on rank 0, where every rank is.

        One rank without a device stops all, and so does one device without room for its ranks' models.
        """
        device = torch.device("cpu")
        mine: dict[str, str | int] = {"host": place.host, "threads": place.threads, "device": "", "error": ""}
        try:
            device = choose_device(self.config.device, place.local_rank)
            mine |= described(device)
            choose_transport(self.config.transport, self.config.gpu_aware, device)
        except InputError as error:
            mine["error"] = f"{error} (rank {self.comm.rank} on {place.host})"
        places = to_rank_zero(self.comm, self.waiting, mine)

        def raise_first_error() -> None:
            for each in places:
                if each["error"]:
                    raise InputError(each["error"])
            if experiment is not None:
                check_memory(experiment, places, device)

        from_rank_zero(self.comm, self.waiting, raise_first_error)
        return device, places
