"""Neighborhood exchange: each rank sends its neighbors the rows of X they listen to, one message per pair and round.

The topology's edges, lifted to ranks, are a distributed graph communicator; all models travel point to point on it with
persistent requests. On a CPU a message leaves from X itself: an MPI datatype names its rows, and nothing is packed
(as fast as sending a packed copy, and twice as fast as packing first: 7 rows of 20 MB, 2 ranks, MPICH 5). On a GPU the
rows pass through pinned host memory.

A round posts its receives before training, sends after it, and mixes when all has arrived. X must not change between
``send`` and the end of ``wait``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from mpi4py import MPI

from mpisim.graphs.mixing import MixingRule
from mpisim.learning.device import synchronize
from mpisim.learning.parameters import row_stride
from mpisim.ranks.waiting import Waiting

FLOAT_BYTES = 4
_TAG = 17


@dataclass(frozen=True)
class ExchangePlan:
    """What one rank owns, receives and sends in a round.

    Attributes
    ----------
    own : int64, shape (num_own,)
        The nodes of this rank, ascending.
    received, received_from : int64, shape (num_received,)
        The other ranks' nodes that this rank listens to, and their ranks; sorted by rank, then node.
    sent, sent_to : int64, shape (num_sent,)
        This rank's nodes that others listen to, and who; sorted by rank, then node.
    """

    own: np.ndarray
    received: np.ndarray
    received_from: np.ndarray
    sent: np.ndarray
    sent_to: np.ndarray

    @property
    def num_messages(self) -> int:
        """The number of messages that this rank sends in a round."""
        return len(np.unique(self.sent_to))

    def bytes_sent(self, num_columns: int) -> int:
        """Return the bytes of model state that this rank sends in a round."""
        return len(self.sent) * num_columns * FLOAT_BYTES


def plan_exchange(rule: MixingRule, rank_of_node: np.ndarray, num_ranks: int) -> list[ExchangePlan]:
    """Return every rank's plan: a row travels once to each rank that owns a node which listens to it.

    Parameters
    ----------
    rule : MixingRule
        Of all rows.
    rank_of_node : int array, shape (num_nodes,)
    """
    listener = np.repeat(rank_of_node, np.diff(rule.indptr)).astype(np.int64)
    owner = rank_of_node[rule.indices].astype(np.int64)
    remote = listener != owner
    keys = np.unique((listener[remote] * num_ranks + owner[remote]) * rule.num_nodes + rule.indices[remote])
    pair, node = np.divmod(keys, rule.num_nodes)
    to, sender = np.divmod(pair, num_ranks)
    sending_order = np.lexsort((node, to, sender))
    ranks = np.arange(num_ranks + 1)
    receives = np.searchsorted(to, ranks)
    sends = np.searchsorted(sender[sending_order], ranks)
    plans = []
    for rank in range(num_ranks):
        receive = slice(receives[rank], receives[rank + 1])
        send = sending_order[sends[rank] : sends[rank + 1]]
        own = np.flatnonzero(rank_of_node == rank)
        plans.append(ExchangePlan(own, node[receive], sender[receive], node[send], to[send]))
    return plans


def connect(comm: MPI.Intracomm, waiting: Waiting, plan: ExchangePlan) -> MPI.Distgraphcomm:
    """Return the communicator of which ranks listen to which; an edge's weight is its rows per round. Collective."""
    sources, rows_in = np.unique(plan.received_from, return_counts=True)
    destinations, rows_out = np.unique(plan.sent_to, return_counts=True)
    return waiting.connect(comm, sources.tolist(), destinations.tolist(), (rows_in.tolist(), rows_out.tolist()))


class NeighborhoodExchange:
    """The messages of a round, set up once.

    Parameters
    ----------
    comm : communicator
        From ``connect``.
    plan : ExchangePlan
    parameters : float32 tensor, shape (num_own, num_columns)
        This rank's rows of X, from ``allocate_rows``, in the order of ``plan.own``.
    staged : bool, optional
        Whether rows pass through host memory; by default where they are on a device.

    Attributes
    ----------
    remote : float32 tensor, shape (num_received, num_columns)
        The rows of ``plan.received``, on the device, valid after ``wait``.
    """

    def __init__(self, comm: MPI.Comm, plan: ExchangePlan, parameters: torch.Tensor, staged: bool | None = None):
        self.plan = plan
        self.parameters = parameters
        self.staged = parameters.device.type != "cpu" if staged is None else staged
        num_columns = parameters.shape[1]
        self._outgoing, positions = self._outgoing_rows()
        self._incoming = self._host_rows(len(plan.received))
        self._datatypes: list[MPI.Datatype] = []
        self._receives = [
            comm.Recv_init(self._message(self._incoming, np.flatnonzero(plan.received_from == rank)), int(rank), _TAG)
            for rank in np.unique(plan.received_from)
        ]
        self._sends = [
            comm.Send_init(self._message(self._outgoing, positions[plan.sent_to == rank]), int(rank), _TAG)
            for rank in np.unique(plan.sent_to)
        ]
        self.remote = self._incoming[:, :num_columns]
        if self.staged:
            self.remote = torch.zeros_like(self._incoming, device=parameters.device)[:, :num_columns]

    def _outgoing_rows(self) -> tuple[torch.Tensor, np.ndarray]:
        """Return the host rows that messages leave from, and which of them each entry of ``plan.sent`` is."""
        if not self.staged:
            stride = row_stride(self.parameters.shape[1])
            whole_rows = self.parameters.as_strided((len(self.parameters), stride), (stride, 1))
            return whole_rows, np.searchsorted(self.plan.own, self.plan.sent)
        self._staged_nodes, positions = np.unique(self.plan.sent, return_inverse=True)
        self._staged_rows = torch.from_numpy(np.searchsorted(self.plan.own, self._staged_nodes))
        return self._host_rows(len(self._staged_nodes)), positions

    def _host_rows(self, num_rows: int) -> torch.Tensor:
        # Pinned memory is what a GPU copies from and to at full speed.
        pinned = self.parameters.device.type != "cpu"
        return torch.zeros((num_rows, row_stride(self.parameters.shape[1])), pin_memory=pinned)

    def _message(self, rows: torch.Tensor, positions: np.ndarray) -> list[object]:
        """Return what MPI calls a message: these rows of a host matrix, padding left out."""
        offsets = positions * (rows.shape[1] * FLOAT_BYTES)
        datatype = MPI.FLOAT.Create_hindexed_block(self.parameters.shape[1], offsets.tolist()).Commit()
        self._datatypes.append(datatype)
        return [rows.numpy(), 1, datatype]

    def post(self) -> None:
        """Make the receives of this round ready; at the start of the round, so that no message arrives unexpected."""
        MPI.Prequest.Startall(self._receives)

    def send(self) -> None:
        """Send this round's rows, as they are now."""
        if self.staged:
            num_columns = self.parameters.shape[1]
            self._outgoing[:, :num_columns].copy_(self.parameters[self._staged_rows.to(self.parameters.device)])
        synchronize(self.parameters.device)
        MPI.Prequest.Startall(self._sends)

    def progress(self) -> bool:
        """Let the messages move on; return whether all have arrived."""
        return MPI.Request.Testall([*self._receives, *self._sends])

    def wait(self, waiting: Waiting) -> None:
        """Wait until the rows of this round are in ``remote``, and X may change."""
        waiting.until(self.progress)
        if self.staged:
            self.remote.copy_(self._incoming[:, : self.parameters.shape[1]])

    def free(self) -> None:
        """Give the requests and datatypes back to MPI."""
        for request in (*self._receives, *self._sends):
            request.Free()
        for datatype in self._datatypes:
            datatype.Free()
        self._receives, self._sends, self._datatypes = [], [], []
