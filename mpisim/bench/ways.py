"""Ways that models can travel between the devices of ranks: whether each can be trusted, and how fast it is.

Each passes a self-test, or is left out with a word; those that pass carry large rows, from each rank to the one beside
it and back.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from mpisim.bench.timing import SECONDS, timed
from mpisim.errors import InputError

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI

    from mpisim.exchange.rows import Carry
    from mpisim.exchange.transport import Transport
    from mpisim.ranks.waiting import Waiting

FLOAT_BYTES = 4
WAYS = {"cpu": ("host", "link"), "cuda": ("staged", "buffers", "link"), "xpu": ("staged", "buffers", "link")}
NAMES = {
    "host": "MPI",
    "staged": "MPI, staged",
    "buffers": "MPI, device buffers",
    "link": "torch.distributed",
}
MARGIN_SECONDS = 10.0  # for ranks that have given up to say so
_TAG = 11


def of_self_test(way: str, fault: str) -> str:
    """Return how a way's self-test went; without a fault it has passed."""
    return f"{NAMES[way]}: self-test {'failed: ' + fault if fault else 'passed'}"


def of_speed(seconds: Sequence[float], num_bytes: int) -> str:
    """Return how fast so many bytes travelled each way, in turns of so many seconds."""
    return f"{num_bytes / np.median(seconds) / 1e9:.2f} GB/s each way"


def try_way(
    comm: MPI.Intracomm,
    waiting: Waiting,
    way: str,
    device: torch.device,
    options: argparse.Namespace,
    tell: Callable[[str], None],
) -> tuple[str, list[float]]:
    """Return why a way cannot be trusted, or nothing and the seconds of its turns. Collective.

    Parameters
    ----------
    tell : function
        Gets a line as soon as something is known: what comes next may never end.
    """
    from mpisim.exchange.selftest import self_test
    from mpisim.exchange.transport import Transport

    transport = Transport(way)
    fault = _refusal(comm, waiting, transport, device)
    if not fault:
        with _ended_after(2 * options.timeout + MARGIN_SECONDS):
            fault = self_test(comm, waiting, transport.carry, device)
    tell(of_self_test(way, fault))
    if fault:  # its messages may still be under way, and so what carries them stays open
        return fault, []
    seconds = _turns(comm, waiting, transport.carry, device, options)
    tell(f"{NAMES[way]}: {of_speed(seconds, options.rows * options.columns * FLOAT_BYTES)}")
    waiting.barrier(comm)
    transport.close(comm, waiting)
    return "", seconds


def _refusal(comm: MPI.Intracomm, waiting: Waiting, transport: Transport, device: torch.device) -> str:
    """Return why a way cannot be had, the same on every rank; nothing once it is open. Collective."""
    from mpisim.exchange.group import check_group
    from mpisim.exchange.transport import choose_transport, refusal
    from mpisim.ranks.messages import first_word

    doubt = refusal(device, os.environ) if transport.way == "buffers" else ""
    try:
        if transport.way == "link":
            choose_transport("device", gpu_aware=False, device=device)
    except InputError as error:
        doubt = str(error)
    doubt = first_word(comm, waiting, doubt)
    if doubt:
        return doubt
    try:
        if transport.way == "link":
            check_group(comm, waiting, device, comm.size)
        transport.open(comm, waiting, device)
    except InputError as error:  # on every rank
        return str(error)
    return ""


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End this rank, and so the job, if what is inside takes longer; say where it stands.

    Waits look at the clock by themselves. This is for calls of MPI or of a driver from which no rank comes back.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _turns(
    comm: MPI.Intracomm, waiting: Waiting, carry: Carry, device: torch.device, options: argparse.Namespace
) -> list[float]:
    """Return the seconds of each turn: rows to the rank beside this one, and from it; the slowest rank's."""
    import torch
    from mpi4py import MPI

    rows, columns, other = options.rows, options.columns, comm.rank ^ 1
    carrier = carry(comm, _TAG)
    if other < comm.size:
        carrier.send(torch.full((2 * rows, columns), float(comm.rank), device=device), other, 2 * np.arange(rows))
        carrier.receive(torch.zeros((rows, columns), device=device), other)

    def travel() -> None:
        carrier.start_receives()
        carrier.start_sends()
        waiting.until(carrier.progress, carrier.missing)

    seconds = []
    for _ in range(options.repeats + 1):  # the first time touches memory and sets up connections
        with _ended_after(2 * options.timeout + MARGIN_SECONDS):
            waiting.barrier(comm)
            longest = np.array([timed(travel)()[SECONDS]])
            waiting.all([comm.Iallreduce(MPI.IN_PLACE, longest, op=MPI.MAX)])
        seconds.append(float(longest[0]))
    carrier.free()
    return seconds[1:]
