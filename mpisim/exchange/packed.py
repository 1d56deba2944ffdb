"""Packed rows: for each neighboring rank one buffer without gaps, through which rows of a device come and go.

With host staging the buffers are in pinned host memory, and a side stream of the device fills and empties them beside
what it computes: while models are tested, each buffer's message leaves as soon as its own copy is done. With device
buffers MPI gets the address of device memory, which not every MPI can read: see ``selftest.py``.

On the wire there is no difference between these, and none to messages that leave from X itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import torch
from mpi4py import MPI

from mpisim.learning.device import synchronize
from mpisim.ranks.waiting import named_ranks


class SideStream:
    """Copies that a device makes beside what it computes; on a CPU, at once.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._module: ModuleType | None = {"cuda": torch.cuda, "xpu": torch.xpu}.get(device.type)
        self._stream = None if self._module is None else self._module.Stream(device)

    def follow(self) -> None:
        """Let the copies to come wait for all that the device has been given so far."""
        if self._module is not None and self._stream is not None:
            self._stream.wait_stream(self._module.current_stream(self.device))

    def copy(self, source: Iterable[torch.Tensor], target: Iterable[torch.Tensor]) -> Callable[[], bool]:
        """Start to copy rows to others, rounded to their type; return the function that says whether it is done.

        Row by row, since only memory without gaps goes to and from a device in one piece.
        """
        if self._module is None or self._stream is None:
            _copy(source, target)
            return lambda: True
        with self._module.stream(self._stream):
            _copy(source, target)
            event = self._module.Event()
            event.record(self._stream)
        return lambda: bool(event.query())


def pinned_memory(sizes: np.ndarray) -> int:
    """Return the bytes of the host that pinned buffers take: torch makes each as large as the next power of two.

    Parameters
    ----------
    sizes : number array
        Bytes of each buffer; nothing is made for 0.

    >>> pinned_memory(np.array([0, 1, 4096, 4097]))
    12289
    """
    mantissa, exponent = np.frexp(sizes[sizes > 0])
    return int(np.ldexp(1.0, exponent - (mantissa == 0.5)).sum())


def _copy(source: Iterable[torch.Tensor], target: Iterable[torch.Tensor]) -> None:
    for row, copy in zip(source, target, strict=True):
        copy.copy_(row.to(copy.dtype), non_blocking=True)


@dataclass
class Parcel:
    """What goes to a rank, or comes from it, in one message.

    Attributes
    ----------
    rank : int
    rows : list of tensors, shape (width,)
        On the device; none where the buffer is their own memory.
    buffer : tensor of the type on the wire, shape (num_rows, width), contiguous
    request : persistent request of MPI, if that carries it
    copied : whether the last copy between the rows and the buffer is done
    """

    rank: int
    rows: list[torch.Tensor]
    buffer: torch.Tensor
    request: MPI.Prequest = field(default_factory=MPI.Prequest)
    copied: Callable[[], bool] = lambda: True

    @property
    def packed(self) -> list[torch.Tensor]:
        """The rows of the buffer that are copies of ``rows``."""
        return list(self.buffer) if self.rows else []


class PackedMessages:
    """Messages of packed rows by MPI, from device memory; used like ``RowMessages``.

    Parameters
    ----------
    comm : communicator
    tag : int
        Different for messages that may be under way at the same time.
    """

    packs = True
    on_device = True  # where the buffers are

    def __init__(self, comm: MPI.Comm, tag: int):
        self.comm = comm
        self.tag = tag
        self._stream: SideStream | None = None
        self._arriving: list[Parcel] = []
        self._leaving: list[Parcel] = []
        self._packing: list[Parcel] = []  # whose copy is not done, and message not sent
        self._awaited: list[Parcel] = []  # whose message is not here

    def receive(self, rows: torch.Tensor, source: int) -> None:
        """Set up the message that comes from a rank into these rows; none is set up for nothing."""
        if rows.numel():
            parcel = self._parcel(source, rows, list(rows), rows.dtype)
            self._arriving.append(parcel)
            parcel.request = self._request(parcel, arrives=True)

    def send(
        self,
        rows: torch.Tensor,
        destination: int,
        which: np.ndarray | None = None,
        wire: torch.dtype | None = None,
    ) -> None:
        """Set up the message that goes to a rank from these rows, or some of them, rounded to the type ``wire``."""
        if rows.numel():
            chosen = [*rows] if which is None else [rows[number] for number in which.tolist()]
            parcel = self._parcel(destination, rows if which is None else None, chosen, wire or rows.dtype)
            self._leaving.append(parcel)
            parcel.request = self._request(parcel, arrives=False)

    def _parcel(self, rank: int, whole: torch.Tensor | None, rows: list[torch.Tensor], wire: torch.dtype) -> Parcel:
        device = rows[0].device
        self._stream = self._stream or SideStream(device)
        if self.on_device and whole is not None and whole.is_contiguous() and whole.dtype == wire:
            return Parcel(rank, [], whole)
        shape = (len(rows), len(rows[0]))
        if self.on_device:
            return Parcel(rank, rows, torch.zeros(shape, dtype=wire, device=device))
        return Parcel(rank, rows, torch.zeros(shape, dtype=wire, pin_memory=device.type != "cpu"))

    def _request(self, parcel: Parcel, arrives: bool) -> MPI.Prequest:
        buffer = parcel.buffer
        # By its address: what memory it is, is between MPI and the device.
        memory = MPI.buffer.fromaddress(buffer.data_ptr(), buffer.numel() * buffer.element_size())
        start = self.comm.Recv_init if arrives else self.comm.Send_init
        return start([memory, MPI.BYTE], parcel.rank, self.tag)

    def start_receives(self) -> None:
        """Make this round's receives ready."""
        self._follow()
        if self.on_device and self._arriving:  # MPI writes there whenever it likes
            synchronize(self._arriving[0].buffer.device)
        MPI.Prequest.Startall([parcel.request for parcel in self._arriving])
        self._awaited = list(self._arriving)

    def start_sends(self) -> None:
        """Send this round's rows, as they are now: each message once its copy is done."""
        self._follow()
        self._pack()
        self._packing = list(self._leaving)
        self.progress()

    def progress(self) -> bool:
        """Let copies and messages move on; return whether all have arrived, here and there."""
        for parcel in [parcel for parcel in self._packing if parcel.copied()]:
            parcel.request.Start()
            self._packing.remove(parcel)
        for parcel in [parcel for parcel in self._awaited if parcel.request.Test()]:
            self._unpack(parcel)
            self._awaited.remove(parcel)
        sent = MPI.Request.Testall([parcel.request for parcel in self._leaving])
        return sent and not self._packing and not self._awaited and all(parcel.copied() for parcel in self._arriving)

    def missing(self) -> str:
        """Say which ranks have not sent, or do not take what this rank sends."""
        late = [*self._awaited, *(parcel for parcel in self._leaving if not parcel.request.Test())]
        return named_ranks(sorted({parcel.rank for parcel in late})) if late else "the device"

    def free(self) -> None:
        """Give the requests back to MPI."""
        for parcel in (*self._arriving, *self._leaving):
            if parcel.request:
                parcel.request.Free()
        self._arriving, self._leaving = [], []

    def _follow(self) -> None:
        if self._stream is not None:
            self._stream.follow()

    def _pack(self) -> None:
        for parcel in self._leaving:
            assert self._stream is not None
            parcel.copied = self._stream.copy(parcel.rows, parcel.packed)

    def _unpack(self, parcel: Parcel) -> None:
        assert self._stream is not None
        parcel.copied = self._stream.copy(parcel.packed, parcel.rows)


class StagedMessages(PackedMessages):
    """The same from pinned host memory, one buffer per neighboring rank."""

    on_device = False
