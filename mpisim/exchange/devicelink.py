"""Rows from device to device by torch.distributed: nccl on CUDA GPUs, xccl or ccl on Intel's, gloo on CPUs.

The process group is started from the MPI communicator, whose ranks are its own: rank 0 makes the store in which
processes find each other, and MPI tells the others where it is. A round is one batch of sends and receives, sends
first: oneCCL waits for ever where both sides receive first.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from mpi4py import MPI

from mpisim.errors import InputError
from mpisim.exchange.meeting import meeting_point
from mpisim.exchange.packed import PackedMessages, Parcel
from mpisim.learning.device import device_identity, synchronize
from mpisim.ranks.messages import from_rank_zero, to_rank_zero
from mpisim.ranks.waiting import Waiting, named_ranks

# How much later than mpisim the backend gives up: by then the rank that stands still is named.
MARGIN_SECONDS = 60.0
LONGEST_SECONDS = 1e7  # for a backend to wait
LOOPBACK = "127.0.0.1"


def backend_of(device: torch.device) -> str:
    """Return the backend of torch.distributed for a device.

    Raises
    ------
    InputError
        If this torch has none.
    """
    dist = _distributed()
    has: dict[str, Callable[[], bool]] = {
        "cuda": lambda: bool(dist.is_nccl_available()),
        "xpu": lambda: _has_xccl() or _has_ccl(),
        "cpu": lambda: bool(dist.is_gloo_available()),
    }
    names = {"cuda": "nccl", "xpu": "xccl", "cpu": "gloo"}
    if not dist.is_available() or not has[device.type]():
        also = ", and there is no oneccl_bindings_for_pytorch" if device.type == "xpu" else ""
        raise InputError(
            f"--transport device: this torch has no {names[device.type]} for {device.type}{also}: take --transport mpi"
        )
    return "ccl" if device.type == "xpu" and not _has_xccl() else names[device.type]


def check_unused() -> None:
    """Find out whether torch.distributed is there for mpisim to start it.

    Raises
    ------
    InputError
        If this process uses it already: it has but one default group.
    """
    if _distributed().is_initialized():
        raise InputError("--transport device: this process uses torch.distributed already: take --transport mpi")


def _distributed() -> Any:
    """Return torch.distributed, which is imported where it is used."""
    import torch.distributed

    return torch.distributed


def _has_xccl() -> bool:
    return bool(getattr(_distributed(), "is_xccl_available", lambda: False)())  # not in torch before 2.8


def _has_ccl() -> bool:
    """Whether oneCCL's own bindings are there; to import them makes their backend known."""
    try:
        __import__("oneccl_bindings_for_pytorch")
    except ImportError:
        return False
    return True


def check_devices(comm: MPI.Intracomm, waiting: Waiting, device: torch.device, num_ranks: int) -> None:
    """Find out whether the first ranks have devices of one kind, one each where the backend wants that. Collective.

    And whether they can meet where they are told to.

    Raises
    ------
    InputError
        On every rank.
    """
    mine = [device.type, socket.gethostname(), device_identity(device)]
    found = to_rank_zero(comm, waiting, mine)[:num_ranks]

    def refuse() -> None:
        meeting_point()
        for rank, (kind, host, _) in enumerate(found):
            if kind != found[0][0]:
                raise InputError(
                    f"--transport device: rank 0 computes on {found[0][0]} and rank {rank}, on {host}, on {kind}: name"
                    " one --device for all, or take --transport mpi"
                )
        places = [place for _, *place in found]
        for rank, place in enumerate(places):
            first = places.index(place)
            if device.type != "cpu" and first != rank:
                raise InputError(
                    f"--transport device: ranks {first} and {rank} share a device of {place[0]}, which"
                    " torch.distributed does not take: use as many ranks as devices, or --transport mpi"
                )

    from_rank_zero(comm, waiting, refuse)


def open_group(comm: MPI.Intracomm, waiting: Waiting, device: torch.device) -> None:
    """Start torch.distributed on the ranks of a communicator. Collective; ``close_group`` ends it."""
    dist = _distributed()
    seconds = timedelta(seconds=min(waiting.timeout + MARGIN_SECONDS, LONGEST_SECONDS))
    host_comm = waiting.split_by_host(comm)
    one_host = host_comm.size == comm.size
    host_comm.Free()
    store: Any = None

    def make_store() -> tuple[str, int]:
        nonlocal store
        address, port = meeting_point()
        address = address or (LOOPBACK if one_host else socket.gethostname())
        store = dist.TCPStore(address, port, comm.size, True, timeout=seconds, wait_for_workers=False)
        return address, store.port

    address, port = from_rank_zero(comm, waiting, make_store)
    with waiting.together(comm), _interface(one_host):
        if store is None:
            store = dist.TCPStore(address, port, comm.size, False, timeout=seconds)
        dist.init_process_group(backend_of(device), store=store, rank=comm.rank, world_size=comm.size, timeout=seconds)
        # The first call makes connections, and so all ranks must take part in it; in a round some may have no message.
        dist.all_reduce(torch.zeros(1, device=device))
        synchronize(device)


@contextmanager
def _interface(one_host: bool) -> Iterator[None]:
    """Let gloo use the loopback interface within one host: a host's own name need not lead anywhere."""
    variable = "GLOO_SOCKET_IFNAME"
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if not one_host or variable in os.environ or not loopback:
        yield
        return
    os.environ[variable] = loopback[0]
    try:
        yield
    finally:
        del os.environ[variable]


def close_group(comm: MPI.Comm, waiting: Waiting) -> None:
    """End torch.distributed. Collective; no message is under way any more on any rank."""
    with waiting.together(comm):
        _distributed().destroy_process_group()


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
        dist = _distributed()
        tag = tag if device.type == "cpu" else 0  # the others know none, and match messages by their order
        sends = [dist.P2POp(dist.isend, _in_bytes(parcel.buffer), parcel.rank, tag=tag) for parcel in leaving]
        receives = [dist.P2POp(dist.irecv, _in_bytes(parcel.buffer), parcel.rank, tag=tag) for parcel in arriving]
        self._ranks = [parcel.rank for parcel in (*leaving, *arriving)]
        self._works = dist.batch_isend_irecv([*sends, *receives])
        self._device = device
        self._num_done = 0
        self._failure: Exception | None = None
        self._waiter: threading.Thread | None = None
        if device.type != "cuda":
            self._waiter = threading.Thread(target=self._wait, daemon=True)
            self._waiter.start()

    def done(self) -> bool:
        """Return whether all messages have arrived, and what came is on the device."""
        if self._waiter is not None:
            if self._waiter.is_alive():
                return False
        elif all(work.is_completed() for work in self._works):
            self._wait()
        else:
            return False
        if self._failure is not None:
            raise RuntimeError(f"the link to {self.missing()} is broken: {self._failure}") from self._failure
        return True

    def _wait(self) -> None:
        try:
            for work in self._works:
                work.wait()
                self._num_done += 1
            synchronize(self._device)
        except Exception as error:
            self._failure = error

    def missing(self) -> str:
        """Say whose message is waited for; where all are one work, all ranks."""
        if len(self._works) != len(self._ranks) or self._num_done == len(self._ranks):
            return named_ranks(sorted(set(self._ranks)))
        return named_ranks([self._ranks[self._num_done]])


def _in_bytes(buffer: torch.Tensor) -> torch.Tensor:
    """Return the same memory as bytes: every backend carries them, and no bits change."""
    return buffer.view(-1).view(torch.uint8)
