"""Rows from device to device by torch.distributed, whose process group ``group.py`` starts and ends.

A round is one batch of sends and receives, sends first: oneCCL waits for ever where both sides receive first.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from mpi4py import MPI

from mpisim.exchange.group import distributed
from mpisim.exchange.packed import PackedMessages, Parcel
from mpisim.learning.device import select, synchronize
from mpisim.ranks.aside import Aside
from mpisim.ranks.waiting import named_ranks


class LinkMessages(PackedMessages):
    """Messages of packed rows by torch.distributed, between ``open_group`` and ``close_group``."""

    def __init__(self, comm: MPI.Comm, tag: int):
        super().__init__(comm, tag)
        self._batch: Batch | None = None

    def _request(self, parcel: Parcel, arrives: bool) -> MPI.Prequest:  # noqa: ARG002
        return MPI.Prequest()  # of MPI there is none

    def start_receives(self) -> None:
        """Make this round's receives ready: they are, with its sends."""

    def start_sends(self) -> None:
        """Send this round's rows, as they are now, and receive the others'."""
        if not self._leaving and not self._arriving:
            return
        for parcel in self._leaving:
            for row, copy in zip(parcel.rows, parcel.packed, strict=True):
                copy.copy_(row)
        device = (self._leaving or self._arriving)[0].buffer.device
        synchronize(device)  # a backend need not know what the device has still to do
        self._batch = Batch(self._leaving, self._arriving, device, self.tag)

    def progress(self) -> bool:
        """Return whether all messages have arrived, here and there.

        Raises
        ------
        RuntimeError
            If the link to another rank is broken.
        """
        if self._batch is None:
            return True
        if not self._batch.done():
            return False
        self._batch = None
        for parcel in self._arriving:
            for row, copy in zip(parcel.rows, parcel.packed, strict=True):
                row.copy_(copy)
        return True

    def missing(self) -> str:
        """Say which rank has not sent, or does not take what this rank sends."""
        return self._batch.missing() if self._batch is not None else "the device"


class Batch:
    """A round's sends and receives, under way.

    nccl can be asked whether it is done. gloo says so only to who waits, and oneCCL's device does not wait for it; so
    there a thread waits, which takes no core.
    """

    def __init__(self, leaving: list[Parcel], arriving: list[Parcel], device: torch.device, tag: int):
        dist = distributed()
        tag = tag if device.type == "cpu" else 0  # the others know none, and match messages by their order
        sends = [dist.P2POp(dist.isend, _in_bytes(parcel.buffer), parcel.rank, tag=tag) for parcel in leaving]
        receives = [dist.P2POp(dist.irecv, _in_bytes(parcel.buffer), parcel.rank, tag=tag) for parcel in arriving]
        self._ranks = [parcel.rank for parcel in (*leaving, *arriving)]
        self._works = dist.batch_isend_irecv([*sends, *receives])
        self._device = device
        self._num_done = 0
        self._waiter = None if device.type == "cuda" else Aside(self._wait_aside)

    def done(self) -> bool:
        """Return whether all messages have arrived, and what came is on the device.

        Raises
        ------
        RuntimeError
            If the link to another rank is broken.
        """
        if self._waiter is not None:
            if self._waiter.is_alive():
                return False
            if self._waiter.failure is not None:
                self._break(self._waiter.failure)
            return True
        if not all(work.is_completed() for work in self._works):
            return False
        try:
            self._wait()
        except Exception as error:
            self._break(error)
        return True

    def _wait_aside(self) -> None:
        select(self._device)
        self._wait()

    def _wait(self) -> None:
        for work in self._works:
            work.wait()
            self._num_done += 1
        synchronize(self._device)

    def _break(self, error: Exception) -> NoReturn:
        raise RuntimeError(f"the link to {self.missing()} is broken: {error}") from error

    def missing(self) -> str:
        """Say whose message is waited for; where all are one work, all ranks."""
        if len(self._works) != len(self._ranks) or self._num_done == len(self._ranks):
            return named_ranks(sorted(set(self._ranks)))
        return named_ranks([self._ranks[self._num_done]])


def _in_bytes(buffer: torch.Tensor) -> torch.Tensor:
    """Return the same memory as bytes: every backend carries them, and no bits change."""
    return buffer.view(-1).view(torch.uint8)
