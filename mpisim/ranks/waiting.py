"""Waiting: the one file that knows how a rank waits.

Ranks often outnumber cores. A rank inside a blocking MPI call spins, and takes the core from the one it waits for: one
blocking broadcast at start-up cost 18 s at 24 ranks on 2 cores. So every wait here polls, and between two looks sleeps
5 % of the time waited so far, 4 ms at the most: a message of many hops waits for a look at each of them, and at 24
ranks on 2 cores a round with looks 20 ms apart took a quarter longer. Only a rank with a core of its own may spin.
Nobody calls a blocking collective but through this file.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
from mpi4py import MPI

from mpisim.ranks.aside import Aside
from mpisim.ranks.rollcall import RollCall

SLEEP_SHARE = 0.05
LONGEST_SLEEP = 0.004  # seconds; 20 ranks that look so often, some 25 µs each, take 13 % of a core
SPINS_BEFORE_SLEEP = 3  # looks that find what is already there, or nearly
LISTENS_EVERY = 0.25  # seconds of a wait: whether another rank calls the roll
FORWARDING_SECONDS = 0.5  # a launcher forwards the last words of a rank before it kills all; not always at once


def named_ranks(ranks: Sequence[int]) -> str:
    """Return ranks as a person names them.

    >>> named_ranks([3]), named_ranks([0, 3])
    ('rank 3', 'ranks 0, 3')
    """
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


class Waiting:
    """How one rank waits.

    Parameters
    ----------
    spin : bool
        Whether to look without a pause: only where each rank of the host has a core of its own.
    timeout : float
        Seconds after which a wait is given up.
    comm : MPI communicator, optional
        Of all ranks, which answer each other while they wait, so that the one that stands still is named.

    Attributes
    ----------
    step : str
        When or while what this rank waits: it is told with who does not answer.
    """

    def __init__(self, spin: bool = False, timeout: float = math.inf, comm: MPI.Comm | None = None):
        self.spin = spin
        self.timeout = timeout
        self.step = "in start-up"
        self._roll_call = None if comm is None else RollCall(comm)

    def until(self, done: Callable[[], bool], missing: Callable[[], str] = lambda: "the other ranks") -> None:
        """Wait until ``done()`` is true.

        Parameters
        ----------
        done : function
            It must let MPI make progress (any Test does).
        missing : function
            Says who is waited for, once that takes too long and all answer.

        Raises
        ------
        TimeoutError
            After ``timeout`` seconds.
        """
        for _ in range(SPINS_BEFORE_SLEEP):
            if done():
                return
        started, next_listening = time.perf_counter(), LISTENS_EVERY
        while not done():
            waited = time.perf_counter() - started
            if waited > self.timeout:
                late = missing()
                absent = [] if self._roll_call is None else self._roll_call.absent()
                raise TimeoutError(self._no_answer(named_ranks(absent) if absent else late))
            if self._roll_call is not None and waited > next_listening:
                self._roll_call.answer()
                next_listening = waited + LISTENS_EVERY
            if not self.spin:
                time.sleep(min(LONGEST_SLEEP, SLEEP_SHARE * waited))

    def all(self, requests: Sequence[MPI.Request], owners: Sequence[int] | None = None) -> None:
        """Wait until all requests are complete.

        Parameters
        ----------
        owners : sequence of ranks, optional
            Whom each request waits for, to be named if that takes too long.
        """
        pending = list(requests)

        def missing() -> str:
            late = [rank for rank, request in zip(owners or (), pending, strict=False) if not request.Test()]
            return named_ranks(late) if late else "the other ranks"

        self.until(lambda: MPI.Request.Testall(pending), missing)

    def barrier(self, comm: MPI.Comm) -> None:
        """Wait until every rank of the communicator is here."""
        self.all([comm.Ibarrier()])

    def broadcast(self, comm: MPI.Comm, array: np.ndarray) -> None:
        """Fill ``array`` on every rank with rank 0's."""
        self.all([comm.Ibcast(array, root=0)])

    def split(self, comm: MPI.Intracomm, color: int) -> MPI.Intracomm:
        """Return the communicator of the ranks of the same color. Collective; ranks enter it together."""
        with self.together(comm):
            return MPI.Intracomm(comm.Split(color, comm.rank))

    def split_by_host(self, comm: MPI.Intracomm) -> MPI.Intracomm:
        """Return the communicator of the ranks that share this host. Collective; ranks enter it together."""
        with self.together(comm):
            return MPI.Intracomm(comm.Split_type(MPI.COMM_TYPE_SHARED))

    def connect(
        self,
        comm: MPI.Intracomm,
        sources: Sequence[int],
        destinations: Sequence[int],
        rows: tuple[list[int], list[int]],
    ) -> MPI.Distgraphcomm:
        """Return the distributed graph communicator whose edges are who sends to whom.

        Collective; ranks enter it together.

        Parameters
        ----------
        sources, destinations : sequences of ranks
            Whom this rank receives from, and sends to.
        rows : (list of int, list of int)
            The weight of each of those edges: rows of X per round.
        """
        with self.together(comm):
            return comm.Create_dist_graph_adjacent(sources, destinations, *rows)

    def aside(self, work: Callable[[], object]) -> None:
        """Do what blocks, though not in MPI, in a thread; wait for it where this rank answers the others.

        Raises
        ------
        TimeoutError
            After ``timeout`` seconds.
        Exception
            That the work raises.
        """
        doing = Aside(work)
        self.until(lambda: not doing.is_alive())
        if doing.failure is not None:
            raise doing.failure

    @contextmanager
    def together(self, comm: MPI.Comm) -> Iterator[None]:
        """Enter together what blocks in MPI, where this rank cannot look at the clock: a thread does."""
        self.barrier(comm)
        watch = threading.Timer(min(self.timeout, threading.TIMEOUT_MAX), self._end)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _end(self) -> None:
        """End this rank, and so the job, from a thread, which may not call MPI."""
        with suppress(OSError):
            sys.stderr.write(f"mpisim: {self._no_answer('another rank')}\n")
            sys.stderr.flush()
        time.sleep(FORWARDING_SECONDS)
        os._exit(1)

    def _no_answer(self, who: str) -> str:
        return f"{who} did not answer for {self.timeout:g} s {self.step} (--timeout)"
