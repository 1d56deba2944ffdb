"""Rows as messages: what leaves from rows of one matrix and arrives in rows of another, on another rank.

An MPI datatype names the rows, and nothing is packed: as fast as sending a packed copy, and twice as fast as packing
first (7 rows of 20 MB, 2 ranks, MPICH 5). The requests are persistent, set up once for all rounds. They are point to
point where a collective would do, too: a rank that sleeps between two looks gets 16 KiB further at each look into
MPICH 5's ``Ialltoallv`` (8.5 s for 4 MB), and all the way in a persistent message (3 ms).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import torch
from mpi4py import MPI

from mpisim.learning.parameters import FLOAT_BYTES, host_rows, row_stride
from mpisim.ranks.waiting import named_ranks

WIRES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# What MPI takes a scalar for. It has no bfloat16, and need not add any.
SCALARS = {torch.float32: MPI.FLOAT, torch.bfloat16: MPI.UINT16_T}


class Carrier(Protocol):
    """What carries rows between ranks: messages set up once, and started anew each round.

    Attributes
    ----------
    packs : bool
        Whether it sends copies, of the type that models travel as; else rows leave from where they are, as they are.
    """

    packs: bool

    def receive(self, rows: torch.Tensor, source: int) -> None:
        """Set up the message that comes from a rank into these rows; none is set up for nothing."""

    def send(
        self,
        rows: torch.Tensor,
        destination: int,
        which: np.ndarray | None = None,
        wire: torch.dtype | None = None,
    ) -> None:
        """Set up the message that goes to a rank from these rows, or some of them, as the type ``wire``."""

    def start_receives(self) -> None:
        """Make this round's receives ready."""

    def start_sends(self) -> None:
        """Send this round's rows, as they are now."""

    def progress(self) -> bool:
        """Let the messages move on; return whether all have arrived, here and there."""

    def missing(self) -> str:
        """Say which ranks have not sent, or do not take what this rank sends."""

    def free(self) -> None:
        """Give what was set up back."""


Carry = Callable[[MPI.Comm, int], Carrier]  # a kind of carrier; the int is the messages' tag


def row_buffer(num_rows: int, num_columns: int, dtype: torch.dtype, device: torch.device, packs: bool) -> torch.Tensor:
    """Return a matrix of zeros for rows of the exchange, without gaps in its rows.

    Parameters
    ----------
    packs : bool
        Whether the carrier does: then there are no gaps between the rows either, and what arrives is there at once.
    """
    if packs:
        return torch.zeros((num_rows, num_columns), dtype=dtype, device=device)
    stride = row_stride(num_columns)
    return host_rows(num_rows, stride * dtype.itemsize // FLOAT_BYTES).view(dtype)[:, :num_columns]


def round_rows(source: Iterable[torch.Tensor], target: Iterable[torch.Tensor]) -> None:
    """Copy rows to others, rounded to their type."""
    for row, copy in zip(source, target, strict=True):
        copy.copy_(row)


class RowMessages:
    """Messages of rows of host memory from and to other ranks, one of each kind per pair of ranks at the most.

    Parameters
    ----------
    comm : communicator
    tag : int
        Different for messages that may be under way at the same time.
    """

    packs = False

    def __init__(self, comm: MPI.Comm, tag: int):
        self.comm = comm
        self.tag = tag
        self._receives: list[MPI.Prequest] = []
        self._sources: list[int] = []
        self._destinations: list[int] = []
        self._sends: list[MPI.Prequest] = []
        self._datatypes: list[MPI.Datatype] = []

    def receive(self, rows: torch.Tensor, source: int) -> None:
        """Set up the message that comes from a rank into these rows of host memory; none is set up for nothing."""
        if rows.numel():
            self._receives.append(self.comm.Recv_init(self._message(rows), source, self.tag))
            self._sources.append(source)

    def send(
        self,
        rows: torch.Tensor,
        destination: int,
        which: np.ndarray | None = None,
        wire: torch.dtype | None = None,  # noqa: ARG002
    ) -> None:
        """Set up the message that goes to a rank from these rows of host memory, or some of them, as they are."""
        if rows.numel():
            self._sends.append(self.comm.Send_init(self._message(rows, which), destination, self.tag))
            self._destinations.append(destination)

    def _message(self, rows: torch.Tensor, which: np.ndarray | None = None) -> list[object]:
        """Return what MPI calls a message: where the rows start is in its datatype, which may reach beyond 2³¹."""
        numbers = range(len(rows)) if which is None else which.tolist()
        offsets = [(int(rows.storage_offset()) + row * rows.stride(0)) * rows.element_size() for row in numbers]
        datatype = SCALARS[rows.dtype].Create_hindexed_block(rows.shape[1], offsets).Commit()
        self._datatypes.append(datatype)
        memory = torch.empty(0, dtype=torch.uint8).set_(rows.untyped_storage())
        return [memory.numpy(), 1, datatype]

    def start_receives(self) -> None:
        """Make this round's receives ready."""
        MPI.Prequest.Startall(self._receives)

    def start_sends(self) -> None:
        """Send this round's rows, as they are now."""
        MPI.Prequest.Startall(self._sends)

    def progress(self) -> bool:
        """Let the messages move on; return whether all have arrived, here and there."""
        return MPI.Request.Testall([*self._receives, *self._sends])

    def missing(self) -> str:
        """Say which ranks have not sent, or do not take what this rank sends."""
        ranks = [*self._sources, *self._destinations]
        requests = [*self._receives, *self._sends]
        return named_ranks(sorted({rank for rank, one in zip(ranks, requests, strict=True) if not one.Test()}))

    def free(self) -> None:
        """Give the requests and datatypes back to MPI."""
        for request in (*self._receives, *self._sends):
            request.Free()
        for datatype in self._datatypes:
            datatype.Free()
        self._receives, self._sends, self._datatypes = [], [], []
