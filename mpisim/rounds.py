"""The loop of rounds. Read this first.

    X : (its nodes) × (parameters), float32, on the rank's device
    1 post      receives for the remote rows this rank listens to
    2 train     every node on its shard, in place in X
    3 send      one message per neighboring rank
    4 test      the trained models, while the messages travel
    5 wait      giving the core back to whoever still trains
    6 mix       X'[i] = Σ_j W[i, j] · row(j), from the trained rows only
    7 log       small vectors to rank 0, which appends them to the log
    8 save      every few rounds a checkpoint, by all ranks

Where most listen to most, columns of X travel there and back in place of rows: see ``exchange/transpose.py``.

The same bits come out whatever the number of ranks: see ``exchange/mixing.py`` for the order of sums, ``streams.py``
for what is drawn, ``learning/parameters.py`` for alignment.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from mpi4py import MPI

from mpisim.briefing import Briefing
from mpisim.config import Config
from mpisim.display import Display
from mpisim.errors import writing
from mpisim.exchange.choice import make_exchange
from mpisim.exchange.consensus import Consensus
from mpisim.exchange.mixing import mix, positions_in_rows
from mpisim.exchange.neighborhood import connect
from mpisim.exchange.rows import WIRES
from mpisim.exchange.similarity import least_alike
from mpisim.exchange.transport import HOST, Transport
from mpisim.graphs.participation import participants
from mpisim.graphs.schedule import inverse_temperature
from mpisim.keeping import Keeping
from mpisim.learning.device import synchronize
from mpisim.memory import peak_memory
from mpisim.nodes import Nodes
from mpisim.ranks.stopping import Stopped, StopRequest, no_longer_than
from mpisim.ranks.waiting import Waiting
from mpisim.results import RANK_FIGURES, EpochScores, Laps, ResultsGather, in_the_logs_order, round_shapes
from mpisim.storage.log import Log
from mpisim.storage.variables import AGGREGATED, FINAL, WITHOUT_RECALL


class Rounds:
    """The rounds on one rank.

    Parameters
    ----------
    comm : MPI communicator
        Of the ranks that own nodes.
    log_path : Path
        The log's, beside which the checkpoints lie.
    transport : Transport
        How models travel.
    """

    def __init__(
        self,
        config: Config,
        comm: MPI.Intracomm,
        waiting: Waiting,
        briefing: Briefing,
        device: torch.device,
        log_path: Path,
        stop: StopRequest,
        transport: Transport = HOST,
    ):
        self.config = config
        self._comm = comm
        self.waiting = waiting
        self.device = device
        self.rule, plan = briefing.rule, briefing.plan
        self._diverged: set[int] = set()
        self._log_seconds = 0.0  # of the last append, which a round cannot log itself
        self.nodes = Nodes(
            config, plan.own, briefing.shards, briefing.own_tests, briefing.test, briefing.largest_shard, device
        )
        self.parameters = self.nodes.parameters
        self.wire = WIRES[config.wire]
        self.bytes_sent = plan.bytes_sent(self.parameters.shape[1], self.wire) * config.exchanges
        self.positions = positions_in_rows(self.rule.indices, plan.mixed, plan.received)
        self.graph_comm = connect(comm, waiting, plan.received_from, plan.sent_to)
        self.transport = transport
        transport.open(comm, waiting, device)
        self.exchange = make_exchange(self.graph_comm, plan, self.parameters, self.wire, transport.carry)
        self.keeping = Keeping(config, comm, waiting, self.nodes, log_path, stop)
        self.consensus = Consensus(comm, self.parameters, self.rule.num_nodes)
        shapes = round_shapes(config, self.nodes.num_classes)
        self.results = ResultsGather(comm, briefing.rank_of_node, shapes, RANK_FIGURES)
        self.final_results = ResultsGather(
            comm, briefing.rank_of_node, dict.fromkeys(WITHOUT_RECALL, ()), ("peak_memory",)
        )

    def play(self, first: int, log: Log | None = None, display: Display | None = None) -> bool:
        """Play the rounds from ``first`` on; return whether all are played, or a stop was asked for before.

        Parameters
        ----------
        log, display : on rank 0, which logs and shows the rounds
        """
        complete = first > self.config.rounds
        self.waiting.step = "before the first round"
        self.waiting.barrier(self._comm)  # who starts late delays the start, not the first round's messages
        for round in range(first, self.config.rounds + 1):
            self.waiting.step = f"in round {round}"
            self.keeping.begin_round()
            results = self._play_in_time(round, log)
            if log is not None and display is not None:
                self._log_round(round, results, log)
                suffix = "" if self.config.moments["trained"] else AGGREGATED
                display.round(round, results[f"iid_accuracy{suffix}"], results[f"ood_accuracy{suffix}"])
            if self.keeping.end_round(round, self.consensus.stops, self.consensus.saves) and log is not None:
                log.note_checkpoint(round)
            complete = round == self.config.rounds
            if self.consensus.stops:
                break
        self.waiting.step = "after the last round"
        final_values = self._final_values() if complete else None
        if log is not None:
            with writing(log.path):
                log.set_status("complete" if complete else "interrupted", final_values)
        self._free()
        return complete

    def _play_in_time(self, round: int, log: Log | None) -> dict[str, np.ndarray]:
        """Play one round; if it does not fit into the walltime, abandon it."""
        too_long = f"round {round} does not fit into --walltime {self.config.walltime}"
        reason = f"{too_long}: it is abandoned; --resume goes on, with more time"
        try:
            with no_longer_than(self.keeping.time_left(), reason):
                return self._play_round(round)
        except Stopped:
            if log is not None:
                with writing(log.path):
                    log.set_status("interrupted")
            raise

    def _play_round(self, round: int) -> dict[str, np.ndarray]:
        """Play one round; return everybody's results on rank 0, and nothing elsewhere."""
        config, moments = self.config, self.config.moments
        takes_part = participants(self.rule.num_nodes, config.participation, config.seed, round)
        laps = Laps()
        neighbor_sums = self._neighbor_sums(round, takes_part) if config.exchanges == 2 else None
        laps.lap("exchange")
        self.exchange.post()
        by_epoch = EpochScores(self.nodes, config.epochs, self.exchange.progress, laps) if moments["epochs"] else None
        results = {"train_loss": self.nodes.train(round, takes_part[self.nodes.own], neighbor_sums, by_epoch)}
        synchronize(self.device)
        laps.lap("train")

        self.exchange.send()
        self.consensus.start(self.keeping.wants_to_stop(), self.keeping.wants_to_save())
        laps.lap("exchange")

        if moments["trained"]:
            results |= self.nodes.test(between=self.exchange.progress)
        if by_epoch is not None:
            results |= by_epoch.complete(results)
        laps.lap("test")

        self.exchange.wait(self.waiting)
        results["distance"] = self.consensus.finish(self.waiting)
        laps.lap("exchange")

        self._mix(round, takes_part, laps)
        if moments["aggregated"]:
            aggregated = self.nodes.test(between=lambda: None)
            results |= {name + AGGREGATED: values for name, values in aggregated.items()}
            laps.lap("test")

        of_rank = {f"{part}_seconds": seconds for part, seconds in laps.seconds.items()}
        gathered = self.results.gather(self.waiting, results, of_rank | {"bytes_sent": self.bytes_sent})
        if gathered is None:
            return {}
        laps.lap("log")
        gathered["log_seconds"][0] = laps.seconds["log"] + self._log_seconds
        return gathered

    def _mix(self, round: int, takes_part: np.ndarray, laps: Laps) -> None:
        """Aggregate: replace the own rows of X by their mixtures."""
        unlike = self._least_alike(round, takes_part) if self.rule.similarity else None
        weights = self.rule.weights(
            self.config.seed, round, self._inverse_temperature(round), takes_part=takes_part, least_alike=unlike
        )
        self.exchange.mix(self.rule.indptr, self.positions, weights)
        synchronize(self.device)
        laps.lap("mix")
        self.exchange.complete(self.waiting)
        laps.lap("exchange")

    def _final_values(self) -> dict[str, np.ndarray]:
        """Test the models that the last aggregation made; return the log's final values on rank 0, else nothing."""
        scores = self.nodes.test(between=lambda: None)
        values = self.final_results.gather(self.waiting, scores, {"peak_memory": peak_memory()}) or {}
        return {name + FINAL if name in WITHOUT_RECALL else name: value for name, value in values.items()}

    def _inverse_temperature(self, round: int) -> float:
        config = self.config
        return inverse_temperature(
            config.schedule,
            round,
            config.temperature,
            period=config.schedule_period,
            multiplier=config.schedule_multiplier,
            floor=config.schedule_floor,
            decay=config.schedule_decay,
        )

    def _neighbor_sums(self, round: int, takes_part: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Return the sum of the models that each own node hears from its neighbors as the round begins, and how many.

        Takes an exchange of its own.
        """
        self.exchange.post()
        self.exchange.send()
        self.exchange.wait(self.waiting)
        neighbors = self.rule.answering(self.config.seed, round, takes_part) & (self.rule.edge >= 0)
        sums = torch.zeros_like(self.parameters)
        ones = neighbors.astype(np.float64)
        mix(self.parameters, self.exchange.remote, self.rule.indptr, self.positions, ones, out=sums)
        return sums, np.add.reduceat(ones, self.rule.indptr[:-1]).astype(np.int64)

    def _least_alike(self, round: int, takes_part: np.ndarray) -> np.ndarray:
        """Return, for each own node, the entry of the neighbor whose model is least alike."""
        model = self.nodes.model
        count = len(model.parameters)
        return least_alike(
            model.layout.shapes[:count],
            model.layout.offsets[:count],
            [*self.parameters.to(self.wire), *self.exchange.remote],  # alike as they travel
            self.rule.indptr,
            self.positions,
            np.arange(len(self.parameters)),
            self.rule.answering(self.config.seed, round, takes_part),
        )

    def _log_round(self, round: int, results: dict[str, np.ndarray], log: Log) -> None:
        distance = results.pop("distance")
        values: dict[str, np.ndarray | float] = {
            name: in_the_logs_order(name, values) for name, values in results.items()
        }
        values["consensus_distance"] = float(np.mean(distance))
        inverse = self._inverse_temperature(round)
        values["temperature"] = 1 / inverse if inverse else np.inf
        values["participated"] = participants(self.rule.num_nodes, self.config.participation, self.config.seed, round)
        started = time.perf_counter()
        with writing(log.path):
            log.append(round, values)
        self._log_seconds = time.perf_counter() - started
        self._warn(round, results["train_loss"], np.asarray(values["participated"], dtype=bool))

    def _warn(self, round: int, loss: np.ndarray, participated: np.ndarray) -> None:
        """Say once of each node that its loss is no number; end the job if that is asked for."""
        for node in np.flatnonzero(~np.isfinite(loss) & participated).tolist():
            if self.config.no_train or node in self._diverged:
                continue
            self._diverged.add(node)
            text = f"the loss of node {node} is not finite in round {round}"
            if self.config.stop_on_nan:
                raise FloatingPointError(f"{text} (--stop-on-nan)")
            print(f"mpisim: {text}: it goes on, and so may what it spreads", file=sys.stderr, flush=True)

    def _free(self) -> None:
        self.results.free(self.waiting)
        self.final_results.free(self.waiting)
        self.exchange.free()
        self.transport.close(self._comm, self.waiting)
        self.graph_comm.Free()
