"""The round's results on their way to rank 0: one small message per rank, into receives that are always ready."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from mpisim.ranks.waiting import Waiting

_TAG = 29


class MetricsGather:
    """Gathers a fixed number of figures per node and per rank.

    Parameters
    ----------
    rank_of_node : int array, shape (num_nodes,)
    per_node, per_rank : int
        How many figures there are of each node, and of each rank.
    """

    def __init__(self, comm: MPI.Comm, rank_of_node: np.ndarray, per_node: int, per_rank: int):
        self.comm = comm
        self.per_node, self.per_rank = per_node, per_rank
        self._nodes = [np.flatnonzero(rank_of_node == rank) for rank in range(comm.size)]
        sizes = [len(nodes) * per_node + per_rank for nodes in self._nodes]
        self._mine = np.zeros(sizes[comm.rank])
        self._received: list[np.ndarray] = []
        self._requests: list[MPI.Prequest] = []
        if comm.rank == 0:
            self._received = [np.zeros(size) for size in sizes[1:]]
            self._requests = [
                comm.Recv_init(buffer, source, _TAG) for source, buffer in enumerate(self._received, start=1)
            ]
        else:
            self._requests = [comm.Send_init(self._mine, 0, _TAG)]

    def gather(
        self, waiting: Waiting, of_nodes: np.ndarray, of_rank: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Hand in this rank's figures; return everybody's on rank 0, and None elsewhere.

        A rank other than 0 returns at once: its message travels while the next round trains.

        Parameters
        ----------
        of_nodes : float64, shape (num_own, per_node)
        of_rank : float64, shape (per_rank,)

        Returns
        -------
        (float64 of shape (num_nodes, per_node), float64 of shape (num_ranks, per_rank)), on rank 0
        """
        if self.comm.rank != 0:
            waiting.all(self._requests)  # the last round's message has long left
        else:
            MPI.Prequest.Startall(self._requests)
        self._mine[:] = np.concatenate([of_nodes.reshape(-1), of_rank])
        if self.comm.rank != 0:
            MPI.Prequest.Startall(self._requests)
            return None
        waiting.all(self._requests, owners=range(1, self.comm.size))
        nodes = np.empty((sum(map(len, self._nodes)), self.per_node))
        ranks = np.empty((self.comm.size, self.per_rank))
        for rank, (own, figures) in enumerate(zip(self._nodes, [self._mine, *self._received], strict=True)):
            split = len(own) * self.per_node
            nodes[own] = figures[:split].reshape(-1, self.per_node)
            ranks[rank] = figures[split:]
        return nodes, ranks

    def free(self, waiting: Waiting) -> None:
        """Let the last message leave, and give the requests back to MPI."""
        waiting.all(self._requests)
        for request in self._requests:
            request.Free()
        self._requests = []
