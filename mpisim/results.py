"""The results of a round: what each rank hands in of its nodes and of itself, and what rank 0 makes of all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from mpi4py import MPI

from mpisim.config import Config
from mpisim.exchange.metrics import MetricsGather
from mpisim.learning.device import synchronize
from mpisim.nodes import Nodes
from mpisim.ranks.waiting import Waiting
from mpisim.storage.variables import BY_EPOCH, ROUND_SCORES, VARIABLES, WITHOUT_RECALL, logged_variables

PARTS = ("train", "test", "exchange", "mix", "log")
RANK_FIGURES = (*(f"{part}_seconds" for part in PARTS), "bytes_sent")
# What a rank knows of its nodes beside the scores; the distances become the log's consensus distance.
NODE_FIGURES = ("train_loss", "distance")


class Laps:
    """Where the time of a round goes: each lap since the last one counts for a part."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count the time since the last lap for a part."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now


class ResultsGather:
    """Gathers a fixed set of figures.

    Parameters
    ----------
    comm, rank_of_node : as for ``MetricsGather``
    shapes : of each figure of a node: () for a number
    of_rank : names of a rank's figures
    """

    def __init__(
        self,
        comm: MPI.Comm,
        rank_of_node: np.ndarray,
        shapes: Mapping[str, tuple[int, ...]],
        of_rank: tuple[str, ...] = (),
    ):
        self.shapes = dict(shapes)
        self.of_rank = of_rank
        self._ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])
        self._metrics = MetricsGather(comm, rank_of_node, int(self._ends[-1]), len(of_rank))

    def gather(
        self, waiting: Waiting, of_nodes: Mapping[str, np.ndarray], of_rank: Mapping[str, float] | None = None
    ) -> dict[str, np.ndarray] | None:
        """Hand in this rank's figures; return everybody's on rank 0, and None elsewhere.

        Parameters
        ----------
        of_nodes : arrays by name, shape (num_own, ...)
        of_rank : numbers by name

        Returns
        -------
        float64 arrays by name: of nodes, shape (num_nodes, ...), of ranks, shape (num_ranks,)
        """
        columns = [np.asarray(of_nodes[name], dtype=np.float64) for name in self.shapes]
        mine = np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)
        gathered = self._metrics.gather(waiting, mine, np.array([(of_rank or {})[name] for name in self.of_rank]))
        if gathered is None:
            return None
        figures, of_ranks = gathered
        parts = np.split(figures, self._ends[:-1], axis=1)
        return {
            name: part.reshape(len(part), *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        } | dict(zip(self.of_rank, of_ranks.T, strict=True))

    def free(self, waiting: Waiting) -> None:
        """Give the requests back to MPI."""
        self._metrics.free(waiting)


def round_shapes(config: Config, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Return the figures of a node in each round, with their shapes: the log's scores, and NODE_FIGURES."""
    sizes = {"epoch": config.epochs, "label": num_classes}
    scores = {
        name: tuple(sizes[dim] for dim in variable.dims if dim in sizes)
        for name, variable in logged_variables(**config.moments).items()
        if name in ROUND_SCORES
    }
    return scores | dict.fromkeys(NODE_FIGURES, ())


def in_the_logs_order(name: str, values: np.ndarray) -> np.ndarray:
    """Return a round's values of a variable, nodes first, with their dimensions in the log's order."""
    dims = [dim for dim in VARIABLES[name].dims if dim != "round"]
    return np.moveaxis(values, 0, dims.index("node")) if "node" in dims else values


class EpochScores:
    """The scores of a rank's nodes after each epoch: ``nodes.train`` calls it between epochs.

    After the last epoch nothing is tested: those are the scores of the trained models, tested while they travel.
    """

    def __init__(self, nodes: Nodes, num_epochs: int, between: Callable[[], object], laps: Laps):
        self.nodes = nodes
        self.num_epochs = num_epochs
        self._between = between
        self._laps = laps
        self._scores = {name: np.full((len(nodes.own), num_epochs), np.nan) for name in WITHOUT_RECALL}
        self._tested = np.zeros(len(nodes.own), dtype=bool)

    def __call__(self, position: int, epoch: int) -> None:
        """Test a node's model after one of its epochs, counted from 1."""
        if epoch == self.num_epochs:
            return
        synchronize(self.nodes.parameters.device)
        self._laps.lap("train")
        found = self.nodes.test_node(position, self._between)
        for name, values in self._scores.items():
            values[position, epoch - 1] = found[name]
        self._tested[position] = True
        self._laps.lap("test")

    def complete(self, trained: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return all scores, by the log's names, shape (num_own, num_epochs); a model that did not train has its own.

        Parameters
        ----------
        trained : the scores of the trained models, by name
        """
        for name, values in self._scores.items():
            values[:, -1] = trained[name]
            values[~self._tested] = trained[name][~self._tested, np.newaxis]
        return {name + BY_EPOCH: values for name, values in self._scores.items()}
