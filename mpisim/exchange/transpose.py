"""Transposed exchange: every rank gets some columns of all rows of X, mixes these, and sends them back.

Where nearly every rank wants nearly every row, each row would travel to every rank. Cut into columns, it travels about
twice, whatever the number of ranks: once away from its rank, a piece to each of the others, and once back, mixed. Ranks
mix the same terms in the same order on columns that start at multiples of 64, so the bits are the same (``mixing.py``).

Where models travel as bfloat16, only trained models are rounded: the sums of a node's neighbors travel back as float32,
and the node's rank, which alone knows its own model unrounded, adds that.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from mpi4py import MPI

from mpisim.exchange.mixing import mix
from mpisim.exchange.packed import pinned_memory
from mpisim.exchange.rows import Carry, RowMessages, round_rows, row_buffer
from mpisim.learning.parameters import row_stride
from mpisim.ranks.waiting import Waiting

COLUMN_ALIGNMENT = 64
_THERE, _BACK = 18, 19


@dataclass(frozen=True)
class TransposePlan:
    """What one rank sends in a round of the transposed exchange; the counterpart of ``ExchangePlan``.

    Attributes
    ----------
    rank_of_node : int64, shape (num_nodes,)
    rank : int
    """

    rank_of_node: np.ndarray
    rank: int

    @property
    def num_ranks(self) -> int:
        """The number of ranks that own nodes."""
        return int(self.rank_of_node.max()) + 1

    @property
    def own(self) -> np.ndarray:
        """The nodes of this rank, ascending."""
        return np.flatnonzero(self.rank_of_node == self.rank)

    @property
    def mixed(self) -> np.ndarray:
        """The nodes whose rows of W this rank applies, in the order of the rows of models it has: all, by rank."""
        return np.argsort(self.rank_of_node, kind="stable")

    @property
    def received(self) -> np.ndarray:
        """The rows that this rank has beside those of ``mixed``: none."""
        return np.empty(0, dtype=np.int64)

    @property
    def received_from(self) -> np.ndarray:
        """The ranks of the other ranks' nodes, ascending."""
        return np.sort(self.rank_of_node[self.rank_of_node != self.rank])

    @property
    def sent_to(self) -> np.ndarray:
        """Every other rank, once for each own node, ascending."""
        return np.repeat(np.setdiff1d(np.arange(self.num_ranks), self.rank), len(self.own))

    @property
    def num_messages(self) -> int:
        """The number of messages that this rank sends in a round."""
        return 2 * (self.num_ranks - 1)

    def column_bounds(self, num_columns: int) -> list[int]:
        """Return where each rank's columns start, and at last where they end."""
        blocks, num_ranks = -(-num_columns // COLUMN_ALIGNMENT), self.num_ranks
        return [min(num_columns, COLUMN_ALIGNMENT * (blocks * rank // num_ranks)) for rank in range(num_ranks + 1)]

    def own_columns(self, num_columns: int) -> tuple[int, int]:
        """Return where this rank's columns start and end: of thousands of ranks, each asks for its own alone."""
        blocks, num_ranks = -(-num_columns // COLUMN_ALIGNMENT), self.num_ranks
        start, end = (COLUMN_ALIGNMENT * (blocks * rank // num_ranks) for rank in (self.rank, self.rank + 1))
        return min(num_columns, start), min(num_columns, end)

    def bytes_sent(self, num_columns: int, wire: torch.dtype = torch.float32) -> int:
        """Return the bytes of model state that this rank sends in a round, in which models travel as ``wire``."""
        start, end = self.own_columns(num_columns)
        num_own, width = len(self.own), end - start
        there = num_own * (num_columns - width) * wire.itemsize
        back = (len(self.rank_of_node) - num_own) * width * torch.float32.itemsize
        return there + back

    def memory(self, num_columns: int, wire: torch.dtype = torch.float32, held: str = "unpacked") -> int:
        """Return the bytes of models that this rank holds for the exchange: see ``ExchangePlan.memory``."""
        start, end = self.own_columns(num_columns)
        num_own, num_nodes, width = len(self.own), len(self.rank_of_node), end - start
        rounds, size = wire != torch.float32, torch.float32.itemsize
        if held == "unpacked":
            return (num_nodes * row_stride(width) + rounds * num_own * row_stride(num_columns)) * size
        buffers = 0
        if held == "packed":  # away and back, in pieces of own rows; and what arrives rounded lies between gaps
            buffers = num_own * (num_columns - width) * (wire.itemsize + size)
            buffers += rounds * (num_nodes - num_own) * width * wire.itemsize
        return (num_nodes * width + rounds * num_own * num_columns) * size + buffers

    def staged(self, num_columns: int, wire: torch.dtype = torch.float32) -> int:
        """Return the bytes of pinned host memory: see ``ExchangePlan.staged``."""
        nodes, widths = np.bincount(self.rank_of_node), np.diff(self.column_bounds(num_columns))
        pieces = np.delete(np.stack([nodes[self.rank] * widths, nodes * widths[self.rank]]), self.rank, axis=1)
        return sum(pinned_memory(pieces * size) for size in (wire.itemsize, torch.float32.itemsize))


def _as_wire(matrix: torch.Tensor, wire: torch.dtype) -> torch.Tensor:
    """Return the memory of a float32 matrix as one of the type that models travel as.

    If that is narrower, it is in the second half of each row: from there, blocks of columns can be turned into sums in
    the whole of the row one after the other, and none is overwritten before it is read.
    """
    if wire == torch.float32 or not matrix.numel():
        return matrix.to(wire)
    whole = matrix.as_strided((len(matrix), matrix.stride(0)), (matrix.stride(0), 1), matrix.storage_offset())
    return whole.view(wire)[:, whole.shape[1] :][:, : matrix.shape[1]]


class TransposedExchange:
    """The messages of a round, set up once; used like ``NeighborhoodExchange``.

    Takes the memory of one more copy of this rank's rows, of two where they are rounded, and what the carrier takes.

    Parameters
    ----------
    comm : communicator
    plan : TransposePlan
    parameters, carry, wire : as for ``NeighborhoodExchange``

    Attributes
    ----------
    remote : tensor of ``wire``, shape (0, width of this rank's columns)
        No whole model but its own ever gets here.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        plan: TransposePlan,
        parameters: torch.Tensor,
        carry: Carry = RowMessages,
        wire: torch.dtype = torch.float32,
    ):
        self.parameters = parameters
        self.wire = wire
        self._rounds = wire != torch.float32
        self._there, self._back = carry(comm, _THERE), carry(comm, _BACK)
        packs = self._there.packs
        device, (num_own, num_columns) = parameters.device, parameters.shape
        bounds = plan.column_bounds(num_columns)
        first_rows = np.searchsorted(np.sort(plan.rank_of_node), np.arange(plan.num_ranks + 1)).tolist()
        columns_of = [slice(*pair) for pair in itertools.pairwise(bounds)]
        rows_of = [slice(*pair) for pair in itertools.pairwise(first_rows)]
        self._own_rows, self._own_columns = rows_of[plan.rank], columns_of[plan.rank]
        width = self._own_columns.stop - self._own_columns.start

        # Trained models leave from the rows and arrive in the columns; mixtures the other way.
        self._rows = row_buffer(num_own, num_columns, torch.float32, device, packs) if self._rounds else parameters
        self._columns = row_buffer(len(plan.rank_of_node), width, torch.float32, device, packs)
        self._trained_rows = parameters if packs else _as_wire(self._rows, wire)
        self._trained = _as_wire(self._columns, wire)
        for rank in np.unique(plan.received_from).tolist():
            self._there.send(self._trained_rows[:, columns_of[rank]], rank, wire=wire)
            self._there.receive(self._trained[rows_of[rank]], rank)
            self._back.send(self._columns[rows_of[rank]], rank)
            self._back.receive(self._rows[:, columns_of[rank]], rank)
        self.remote = self._trained[:0]
        self._own_terms = np.empty(0)

    def post(self) -> None:
        """Make the receives of this round ready; at the start of the round, so that no message arrives unexpected."""
        self._there.start_receives()

    def send(self) -> None:
        """Send this round's rows, as they are now, in columns."""
        if self._trained_rows is not self.parameters:
            round_rows(self.parameters, self._trained_rows)
        self._there.start_sends()
        self._trained[self._own_rows] = self._trained_rows[:, self._own_columns]

    def progress(self) -> bool:
        """Let the messages move on; return whether all have arrived."""
        return self._there.progress()

    def wait(self, waiting: Waiting) -> None:
        """Wait until this round's columns are here, and X may change."""
        waiting.until(self.progress, self._there.missing)

    def mix(self, indptr: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> None:
        """Mix this rank's columns of all nodes, with the rows of W of ``plan.mixed``, and send them back."""
        self._back.start_receives()
        if self._rounds:
            weights = self._without_own_terms(indptr, positions, weights)
        mix(self._trained, self.remote, indptr, positions, weights, out=self._columns)
        self._back.start_sends()
        self._rows[:, self._own_columns] = self._columns[self._own_rows]

    def complete(self, waiting: Waiting) -> None:
        """Wait until the mixtures are in X."""
        waiting.until(self._back.progress, self._back.missing)
        if self._rounds:
            self._add_own_terms()

    def _without_own_terms(self, indptr: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the weights of neighbors only; note what this rank needs to complete the mixtures of its nodes."""
        num_rows = len(indptr) - 1
        row_of = np.repeat(np.arange(num_rows), np.diff(indptr))
        own = positions == row_of
        of_neighbors = np.where(own, 0.0, weights)
        hears = np.bincount(row_of[of_neighbors != 0], minlength=num_rows) > 0
        own_weights = np.bincount(row_of[own], weights=weights[own], minlength=num_rows)
        self._own_terms = np.stack([hears, own_weights], axis=1)[self._own_rows].reshape(-1)
        return of_neighbors

    def _add_own_terms(self) -> None:
        """Make X the sums over neighbors, if there are any, and what each node keeps of its own model."""
        num_own = len(self._rows)
        own = np.arange(num_own)
        positions = np.stack([num_own + own, own], axis=1).reshape(-1)
        mix(self.parameters, self._rows, np.arange(0, 2 * num_own + 1, 2), positions, self._own_terms)

    def free(self) -> None:
        """Give what was set up back."""
        self._there.free()
        self._back.free()
