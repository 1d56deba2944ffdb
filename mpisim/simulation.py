"""The loop of rounds. Read this first.

    X : (its nodes) × (parameters), float32, on the rank's device
    1 post      receives for the remote rows this rank listens to
    2 train     every node on its shard, in place in X
    3 send      one message per neighboring rank
    4 test      the trained models, while the messages travel
    5 wait      giving the core back to whoever still trains
    6 mix       X'[i] = Σ_j W[i, j] · row(j), from the trained rows only
    7 log       small vectors to rank 0, which appends them to the log

The same bits come out whatever the number of ranks: see ``exchange/mixing.py`` for the order of sums, ``streams.py``
for what is drawn, ``learning/parameters.py`` for alignment.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from mpi4py import MPI

from mpisim.briefing import Briefing, brief
from mpisim.config import Config
from mpisim.display import Display
from mpisim.errors import InputError
from mpisim.exchange.consensus import Consensus
from mpisim.exchange.metrics import MetricsGather
from mpisim.exchange.mixing import mix, positions_in_rows
from mpisim.exchange.neighborhood import NeighborhoodExchange, connect
from mpisim.exchange.similarity import least_alike
from mpisim.experiment import Experiment, decide, free_output
from mpisim.learning.device import choose_device, device_name, synchronize
from mpisim.nodes import Nodes
from mpisim.plan import plan_rows
from mpisim.ranks.messages import from_rank_zero, to_rank_zero
from mpisim.ranks.startup import Place, abort, find_place
from mpisim.ranks.waiting import Waiting
from mpisim.storage.log import Log
from mpisim.storage.provenance import provenance

# What each rank hands in after a round: of each node (followed by the recall of each label), and of itself.
NODE_FIGURES = ("iid_accuracy", "ood_accuracy", "iid_loss", "ood_loss", "train_loss", "distance")
RANK_FIGURES = ("train_seconds", "test_seconds", "exchange_seconds", "mix_seconds", "log_seconds", "bytes_sent")
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
        try:
            prepared = self._prepare()
        except InputError:
            raise
        except BaseException:
            abort(self.comm)
            raise
        if self.config.dry_run:
            return None
        try:
            return self._run(*prepared)
        except BaseException:
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
            Display(config.rounds, config.quiet).plan(plan_rows(experiment, places, comm.size))
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
    )
    sizes, variables = experiment.log_sizes(), experiment.log_variables()
    for _ in range(MAX_NAMES_TAKEN):
        try:
            return Log.create(free_output(config), sizes, variables, attributes, config.overwrite)
        except FileExistsError:
            # Another run took the name after the plan was made. Without --output there is a next one.
            if config.output is not None:
                raise
    raise FileExistsError(f"results: {MAX_NAMES_TAKEN} names were taken by others as soon as they were free")


class Rounds:
    """The rounds on one rank.

    Parameters
    ----------
    comm : MPI communicator
        Of the ranks that own nodes.
    """

    def __init__(self, config: Config, comm: MPI.Intracomm, waiting: Waiting, briefing: Briefing, device: torch.device):
        self.config = config
        self.waiting = waiting
        self.device = device
        self.rule, plan = briefing.rule, briefing.plan
        self._log_seconds = 0.0  # of the last append, which a round cannot log itself
        self.nodes = Nodes(config, plan.own, briefing.shards, briefing.test, device)
        self.parameters = self.nodes.parameters
        self.bytes_sent = plan.bytes_sent(self.parameters.shape[1])
        self.positions = positions_in_rows(self.rule.indices, plan.own, plan.received)
        self.graph_comm = connect(comm, waiting, plan)
        self.exchange = NeighborhoodExchange(self.graph_comm, plan, self.parameters)
        self.consensus = Consensus(comm, self.parameters, self.rule.num_nodes)
        per_node = len(NODE_FIGURES) + self.nodes.num_classes
        self.metrics = MetricsGather(comm, briefing.rank_of_node, per_node, len(RANK_FIGURES))

    def play(self) -> None:
        """Play all rounds on a rank that does not log."""
        for round in range(1, self.config.rounds + 1):
            self._play_round(round)
        self._free()

    def play_and_log(self, log: Log, display: Display) -> Path:
        """Play all rounds on rank 0, which logs and shows them; return the log's path."""
        display.start()
        try:
            for round in range(1, self.config.rounds + 1):
                results = self._play_round(round)
                self._log_round(round, results, log)
                display.round(round, results["iid_accuracy"], results["ood_accuracy"])
        finally:
            display.stop()
        self._free()
        log.set_status("complete")
        return log.path

    def _play_round(self, round: int) -> dict[str, np.ndarray]:
        """Play one round; return everybody's results on rank 0, and nothing elsewhere."""
        times = [time.perf_counter()]
        self.exchange.post()
        train_loss = self.nodes.train(round)
        synchronize(self.device)
        times.append(time.perf_counter())

        self.exchange.send()
        self.consensus.start()
        times.append(time.perf_counter())

        scores = self.nodes.test(between=self.exchange.progress)
        times.append(time.perf_counter())

        self.exchange.wait(self.waiting)
        distance = self.consensus.finish(self.waiting)
        times.append(time.perf_counter())

        weights = self.rule.weights(
            self.config.seed,
            round,
            1 / self.config.temperature,
            self._least_alike(round) if self.rule.similarity else None,
        )
        mix(self.parameters, self.exchange.remote, self.rule.indptr, self.positions, weights)
        synchronize(self.device)
        times.append(time.perf_counter())

        train, send, test, wait, mixing = np.diff(times)
        of_nodes = np.array(
            [
                [iid.accuracy, ood.accuracy, iid.loss, ood.loss, loss, far, *iid.recall]
                for (iid, ood), loss, far in zip(scores, train_loss, distance, strict=True)
            ]
        )
        of_rank = np.array([train, test, send + wait, mixing, 0.0, self.bytes_sent])
        gathered = self.metrics.gather(self.waiting, of_nodes, of_rank)
        if gathered is None:
            return {}
        figures, of_ranks = gathered
        results = dict(zip(NODE_FIGURES, figures.T, strict=False)) | dict(zip(RANK_FIGURES, of_ranks.T, strict=True))
        results["iid_recall"] = figures[:, len(NODE_FIGURES) :]
        results["log_seconds"][0] = time.perf_counter() - times[-1] + self._log_seconds
        return results

    def _least_alike(self, round: int) -> np.ndarray:
        """Return, for each own node, the entry of the neighbor whose model is least alike."""
        model = self.nodes.model
        count = len(model.parameters)
        return least_alike(
            model.layout.shapes[:count],
            model.layout.offsets[:count],
            [*self.parameters, *self.exchange.remote],
            self.rule.indptr,
            self.positions,
            np.arange(len(self.parameters)),
            self.rule.answering(self.config.seed, round),
        )

    def _log_round(self, round: int, results: dict[str, np.ndarray], log: Log) -> None:
        values: dict[str, np.ndarray | float] = dict(results)
        values["consensus_distance"] = float(np.mean(results["distance"]))
        values["temperature"] = self.config.temperature
        values["participated"] = np.ones(self.rule.num_nodes)
        del values["distance"]
        started = time.perf_counter()
        log.append(round, values)
        self._log_seconds = time.perf_counter() - started

    def _free(self) -> None:
        self.metrics.free(self.waiting)
        self.exchange.free()
        self.graph_comm.Free()
