"""Consensus distance: how far the models are from their mean, the same bits for any number of ranks.

A sum of floats depends on its order, and which rank adds what depends on the placement. So the mean model is summed in
fixed point: integers add up to the same sum in any order. The distances to that mean are then each node's own affair.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from mpi4py import MPI

from mpisim.ranks.waiting import Waiting

MAX_COORDINATES = 65_536
SCALE = 2.0**32  # steps per unit: finer than float32 for all but the smallest weights
BLOCK = 65_536  # scalars looked at together: what they become stays in the cache
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
        # The last places count the nodes that do not fit into fixed point, and the ranks that want to stop.
        self._sums = np.zeros(len(self.coordinates) + 2, dtype=np.int64)
        self._request = MPI.REQUEST_NULL

    @property
    def stops(self) -> bool:
        """Whether any rank wanted to stop when the sums that are finished were started: the same on every rank."""
        return bool(self._sums[-1])

    def start(self, stop: bool = False) -> None:
        """Start to add up the mean model. Collective; X must not change before ``finish``.

        Parameters
        ----------
        stop : bool
            Whether this rank wants the run to stop: those who must agree on it are those who add up here.
        """
        self._sums[:] = 0
        self._sums[-1] = stop
        for values in self._blocks():
            fits = (values.abs() < LIMIT / self.num_nodes).all(dim=1)  # false for NaN too
            self._sums[:-2] += (values[fits] * SCALE).round().long().sum(dim=0).numpy()
            self._sums[-2] += len(fits) - int(fits.sum())
        self._request = self.comm.Iallreduce(MPI.IN_PLACE, self._sums, op=MPI.SUM)

    def finish(self, waiting: Waiting) -> np.ndarray:
        """Return the squared L2 distance of each own node to the mean model, float64, shape (num_own,).

        Infinite where some node's model has left the range of fixed point, or is no number.
        """
        waiting.all([self._request])
        if self._sums[-2]:
            return np.full(len(self.parameters), np.inf)
        mean = self._sums[:-2] / (SCALE * self.num_nodes)
        return np.concatenate([np.square(values.numpy() - mean).sum(axis=1) for values in self._blocks()])

    def _blocks(self) -> Iterator[torch.Tensor]:
        """Yield the fixed coordinates of some rows after the other, float64, on the host."""
        count = max(1, BLOCK // len(self.coordinates))
        for start in range(0, len(self.parameters), count):
            rows = self.parameters[start : start + count]
            if len(self.coordinates) < rows.shape[1]:
                rows = rows[:, self.coordinates]
            yield rows.cpu().double()
