"""The process group of torch.distributed: its backend, whether it can be had, its beginning and its end.

It is started from the MPI communicator, whose ranks are its own: rank 0 makes the store in which processes find each
other, and MPI tells the others where it is.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from mpi4py import MPI

from mpisim.errors import InputError
from mpisim.exchange.meeting import meeting_point
from mpisim.learning.device import device_identity, select, synchronize
from mpisim.ranks.messages import first_word, from_rank_zero, to_rank_zero
from mpisim.ranks.waiting import Waiting

# How much later than mpisim the backend gives up: by then the rank that stands still is named.
MARGIN_SECONDS = 60.0
LONGEST_SECONDS = 1e7  # for a backend to wait
LOOPBACK = "127.0.0.1"
STARTS_ALONE = ("gloo", "nccl")
_IN_ITS_SOURCE = re.compile(r"\[enforce fail at [^]]*\] ")  # where gloo's messages begin


def backend_of(device: torch.device) -> str:
    """Return the backend of torch.distributed for a device.

    Raises
    ------
    InputError
        If this torch has none.
    """
    dist = distributed()
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
    if distributed().is_initialized():
        raise InputError("--transport device: this process uses torch.distributed already: take --transport mpi")


def distributed() -> Any:
    """Return torch.distributed, which is imported where it is used."""
    import torch.distributed

    return torch.distributed


def _has_xccl() -> bool:
    return bool(getattr(distributed(), "is_xccl_available", lambda: False)())  # not in torch before 2.8


def _has_ccl() -> bool:
    """Whether oneCCL's own bindings are there; to import them makes their backend known."""
    try:
        __import__("oneccl_bindings_for_pytorch")
    except ImportError:
        return False
    return True


def check_group(comm: MPI.Intracomm, waiting: Waiting, device: torch.device, num_ranks: int) -> None:
    """Find out whether the first ranks can have a process group: on their devices, and by what each tells. Collective.

    Raises
    ------
    InputError
        On every rank.
    """
    check_devices(comm, waiting, device, num_ranks)
    reason = first_word(comm, waiting, _obstacle(comm.rank, waiting, device) if comm.rank < num_ranks else "")
    if reason:
        backend = backend_of(device)
        raise InputError(
            f"--transport device: {backend} does not start {reason}: look at what its variables in the environment say,"
            " or take --transport mpi"
        )


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


def _obstacle(rank: int, waiting: Waiting, device: torch.device) -> str:
    """Return why the backend does not start on this rank; nothing if it does.

    It is started for this rank alone: where one of several fails, the others would wait for it. Not so oneCCL, whose
    processes may be those of the whole MPI job, by its variables in the environment.
    """
    here = f"on rank {rank} on {socket.gethostname()}"
    if backend_of(device) not in STARTS_ALONE:
        by_mpi = os.environ.get("CCL_ATL_TRANSPORT", "mpi") == "mpi"  # which is what it goes by if nobody says
        if by_mpi and MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            return f"{here}: its threads call MPI, which mpisim lets them with CCL_ATL_TRANSPORT=mpi, if this MPI can"
        return ""
    try:
        with _interface(one_host=True):
            waiting.aside(lambda: _join(distributed().HashStore(), 0, 1, device, waiting.timeout))
    except RuntimeError as error:
        told = _IN_ITS_SOURCE.sub("", str(error).partition("\n")[0])
        return f"{here}: {told}"
    finally:
        if distributed().is_initialized():
            waiting.aside(distributed().destroy_process_group)
    return ""


def open_group(comm: MPI.Intracomm, waiting: Waiting, device: torch.device) -> None:
    """Start torch.distributed on the ranks of a communicator. Collective; ``close_group`` ends it."""
    seconds = waiting.timeout + MARGIN_SECONDS
    host_comm = waiting.split_by_host(comm)
    one_host = host_comm.size == comm.size
    host_comm.Free()
    store: Any = None

    def new_store(address: str, port: int, serves: bool) -> Any:
        limit = _limit(seconds)
        return distributed().TCPStore(address, port, comm.size, serves, timeout=limit, wait_for_workers=False)

    def make_store() -> tuple[str, int]:
        nonlocal store
        address, port = meeting_point()
        address = address or (LOOPBACK if one_host else socket.gethostname())
        store = new_store(address, port, True)
        return address, store.port

    address, port = from_rank_zero(comm, waiting, make_store)
    with _interface(one_host):
        waiting.aside(lambda: _join(store or new_store(address, port, False), comm.rank, comm.size, device, seconds))


def _join(store: Any, rank: int, size: int, device: torch.device, seconds: float) -> None:
    """Become a rank of the process group whose ranks meet in a store."""
    dist = distributed()
    select(device)
    dist.init_process_group(backend_of(device), store=store, rank=rank, world_size=size, timeout=_limit(seconds))
    # The first call makes connections, and so all ranks must take part in it; in a round some may have no message.
    dist.all_reduce(torch.zeros(1, device=device))
    synchronize(device)


def _limit(seconds: float) -> timedelta:
    return timedelta(seconds=min(seconds, LONGEST_SECONDS))


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
    waiting.barrier(comm)
    waiting.aside(distributed().destroy_process_group)
