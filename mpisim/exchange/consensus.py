"""Consensus distance: how far the models are from their mean, the same bits for any number of ranks.

A sum of floats depends on its order, and which rank adds what depends on the placement. So the mean model is summed in
fixed point: integers add up to the same sum in any order. The distances to that mean are then each node's own affair,
summed in one order.

Both are made where the models are: what leaves a device is its ranks' part of the mean model and a number for each
node, and what comes to it is the mean model, however many nodes a rank has.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from mpi4py import MPI

from mpisim.ranks.waiting import Waiting

MAX_COORDINATES = 65_536
SCALE = 2.0**32  # steps per unit: finer than float32 for all but the smallest weights
# Scalars looked at together: on a CPU, what they become stays in the cache; a GPU is to have few calls.
BLOCK, GPU_BLOCK = 65_536, 1_048_576
LIMIT = 2.0**30  # the sum of all nodes' |x| that still fits; beyond it, the distance is infinite


def fixed_coordinates(num_columns: int) -> torch.Tensor:
    """Return the columns of X to look at, int64: all of them, or MAX_COORDINATES spread evenly."""
    count = min(num_columns, MAX_COORDINATES)
    return torch.from_numpy(np.arange(count, dtype=np.int64) * num_columns // count)


class Consensus:
    """The squared distance of each node's model to the mean model, over fixed coordinates.

    Parameters
    ----------
    parameters : float32 tensor, shape (num_own, num_columns)
    num_nodes : int
        Of the whole topology.
    """

    def __init__(self, comm: MPI.Comm, parameters: torch.Tensor, num_nodes: int):
        self.comm = comm
        self.parameters = parameters
        self.num_nodes = num_nodes
        self.coordinates = fixed_coordinates(parameters.shape[1]).to(parameters.device)
        # The last places count the nodes that do not fit into fixed point, and the ranks with each of two wishes.
        self._sums = np.zeros(len(self.coordinates) + 3, dtype=np.int64)
        self._request = MPI.REQUEST_NULL

    @property
    def stops(self) -> bool:
        """Whether any rank wanted to stop when the sums that are finished were started: the same on every rank."""
        return bool(self._sums[-1])

    @property
    def saves(self) -> bool:
        """Whether any rank wanted a checkpoint then."""
        return bool(self._sums[-2])

    def start(self, stop: bool = False, save: bool = False) -> None:
        """Start to add up the mean model. Collective; X must not change before ``finish``.

        Parameters
        ----------
        stop, save : bool
            Whether this rank wants the run to stop, or a checkpoint: who must agree on it are those who add up here.
        """
        sums = torch.zeros(len(self.coordinates) + 1, dtype=torch.int64, device=self.parameters.device)
        for values in self._blocks():
            leaves = ~(values.abs() < LIMIT / self.num_nodes).all(dim=1)  # true for NaN too
            fitting = values.mul_(SCALE).masked_fill_(leaves.unsqueeze(1), 0)
            sums[:-1].add_(fitting.round_().long().sum(dim=0))
            sums[-1].add_(leaves.sum())
        self._sums[:-2] = sums.cpu().numpy()
        self._sums[-2:] = save, stop
        self._request = self.comm.Iallreduce(MPI.IN_PLACE, self._sums, op=MPI.SUM)

    def finish(self, waiting: Waiting) -> np.ndarray:
        """Return the squared L2 distance of each own node to the mean model, float64, shape (num_own,).

        Infinite where some node's model has left the range of fixed point, or is no number.
        """
        waiting.all([self._request])
        if self._sums[-3]:
            return np.full(len(self.parameters), np.inf)
        mean = torch.from_numpy(self._sums[:-3] / (SCALE * self.num_nodes)).to(self.parameters.device)
        distances = torch.cat([_sum_rows(values.sub_(mean).square_()) for values in self._blocks()])
        return np.asarray(distances.cpu().numpy())

    def _blocks(self) -> Iterator[torch.Tensor]:
        """Yield the fixed coordinates of some rows after the other, float64, in memory of their own."""
        size = BLOCK if self.parameters.device.type == "cpu" else GPU_BLOCK
        count = max(1, size // len(self.coordinates))
        for start in range(0, len(self.parameters), count):
            rows = self.parameters[start : start + count]
            if len(self.coordinates) < rows.shape[1]:
                rows = rows.index_select(1, self.coordinates)
            yield rows.double()


def _sum_rows(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of each row, which changes: halves are added up, so that no device chooses the order.

    >>> _sum_rows(torch.arange(10.0).view(2, 5))
    tensor([10., 35.])
    """
    width = values.shape[1]
    while width > 1:
        half = width // 2
        values[:, :half].add_(values[:, width - half : width])
        width -= half
    return values[:, 0]
