"""Neighborhood exchange: each rank sends its neighbors the rows of X they listen to, one message per pair and round.

The topology's edges, lifted to ranks, are a distributed graph communicator; all models travel point to point on it with
persistent requests. On a CPU a message leaves from X itself, unpacked (``rows.py``), or, where models travel as
bfloat16, from a copy of that type. Rows of a GPU are packed (``packed.py``), or torch carries them (``devicelink.py``).

A round posts its receives before training, sends after it, and mixes when all has arrived. X must not change between
``send`` and the end of ``wait``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from mpi4py import MPI

from mpisim.exchange.mixing import mix
from mpisim.exchange.packed import pinned_memory
from mpisim.exchange.rows import Carry, RowMessages, round_rows, row_buffer
from mpisim.graphs.mixing import MixingRule
from mpisim.learning.parameters import row_stride
from mpisim.ranks.waiting import Waiting

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
    def mixed(self) -> np.ndarray:
        """The nodes whose rows of W this rank applies, in the order of the rows of models it has: its own."""
        return self.own

    @property
    def num_messages(self) -> int:
        """The number of messages that this rank sends in a round."""
        return len(np.unique(self.sent_to))

    def bytes_sent(self, num_columns: int, wire: torch.dtype = torch.float32) -> int:
        """Return the bytes of model state that this rank sends in a round, in which models travel as ``wire``."""
        return len(self.sent) * num_columns * wire.itemsize

    def memory(self, num_columns: int, wire: torch.dtype = torch.float32, held: str = "unpacked") -> int:
        """Return the bytes of models that this rank holds for the exchange, beside its own rows of X.

        Parameters
        ----------
        held : a name in HELD
            Where the messages' rows are; of staged ones, only what is on the device counts: see ``staged``.
        """
        if held != "unpacked":
            sent = len(self.sent) if held == "packed" else 0
            return (len(self.received) + sent) * num_columns * wire.itemsize
        copies = 0 if wire == torch.float32 else len(np.unique(self.sent))
        return (len(self.received) + copies) * row_stride(num_columns) * wire.itemsize

    def staged(self, num_columns: int, wire: torch.dtype = torch.float32) -> int:
        """Return the bytes of pinned host memory through which messages to and from a device go."""
        rows = [np.unique(ranks, return_counts=True)[1] for ranks in (self.received_from, self.sent_to)]
        return pinned_memory(np.concatenate(rows) * num_columns * wire.itemsize)


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


def connect(comm: MPI.Intracomm, waiting: Waiting, received_from: np.ndarray, sent_to: np.ndarray) -> MPI.Distgraphcomm:
    """Return the communicator of which ranks listen to which; an edge's weight is its rows per round. Collective.

    Parameters
    ----------
    received_from, sent_to : int arrays
        Of a plan: a rank for each row that comes, or goes.
    """
    sources, rows_in = np.unique(received_from, return_counts=True)
    destinations, rows_out = np.unique(sent_to, return_counts=True)
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
    carry : what carries the rows
        X must be in host memory for ``RowMessages``.
    wire : torch.float32 or torch.bfloat16
        What models travel as.

    Attributes
    ----------
    remote : tensor of ``wire``, shape (num_received, num_columns)
        The rows of ``plan.received``, on the device, valid after ``wait``.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        plan: ExchangePlan,
        parameters: torch.Tensor,
        carry: Carry = RowMessages,
        wire: torch.dtype = torch.float32,
    ):
        self.plan = plan
        self.parameters = parameters
        self.wire = wire
        self._messages = carry(comm, _TAG)
        num_columns, packs = parameters.shape[1], self._messages.packs

        self.remote = row_buffer(len(plan.received), num_columns, wire, parameters.device, packs)
        for rank in np.unique(plan.received_from).tolist():
            start, end = np.searchsorted(plan.received_from, [rank, rank + 1])
            self._messages.receive(self.remote[start:end], rank)

        self._outgoing, positions = parameters, np.searchsorted(plan.own, plan.sent)
        self._leaving: list[torch.Tensor] = []  # what has to be rounded first: nothing where messages leave from X
        if wire != torch.float32 and not packs:
            leaving, positions = np.unique(positions, return_inverse=True)
            self._outgoing = row_buffer(len(leaving), num_columns, wire, parameters.device, packs)
            self._leaving = [parameters[position] for position in leaving.tolist()]
        for rank in np.unique(plan.sent_to).tolist():
            self._messages.send(self._outgoing, rank, positions[plan.sent_to == rank], wire)

    def post(self) -> None:
        """Make the receives of this round ready; at the start of the round, so that no message arrives unexpected."""
        self._messages.start_receives()

    def send(self) -> None:
        """Send this round's rows, as they are now."""
        if self._leaving:
            round_rows(self._leaving, self._outgoing)
        self._messages.start_sends()

    def progress(self) -> bool:
        """Let the messages move on; return whether all have arrived."""
        return self._messages.progress()

    def wait(self, waiting: Waiting) -> None:
        """Wait until the rows of this round are in ``remote``, and X may change."""
        waiting.until(self.progress, self._messages.missing)

    def mix(self, indptr: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> None:
        """Replace this rank's rows of X by their mixtures: see ``exchange.mixing.mix``."""
        mix(self.parameters, self.remote, indptr, positions, weights)

    def complete(self, waiting: Waiting) -> None:
        """Wait until the mixtures are in X. Here they are."""

    def free(self) -> None:
        """Give what was set up back."""
        self._messages.free()
