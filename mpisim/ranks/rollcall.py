"""Roll call: which ranks still answer, once one of them has waited too long.

Whoever waits for a rank that stands still is soon waited for in turn. So who is late is not asked of the messages that
lack, but of all ranks: those that wait answer, and the others are named.
"""

from __future__ import annotations

import time

from mpi4py import MPI

_TAG = 5
SECONDS = 2.0  # for answers to come, on hosts with more ranks than cores
PAUSE = 0.01  # seconds between two looks at them


class RollCall:
    """The roll call of all ranks of a communicator. The job ends after it: there is one.

    Parameters
    ----------
    comm : MPI communicator
    """

    def __init__(self, comm: MPI.Comm):
        self._comm = comm
        self._present = {comm.rank}
        self._said: list[MPI.Request] = []  # to live as long as they are under way

    def answer(self) -> None:
        """Say that this rank is here, if another has called."""
        status = MPI.Status()
        while self._comm.Iprobe(MPI.ANY_SOURCE, _TAG, status):
            self._comm.Recv([bytearray(), MPI.BYTE], status.source, _TAG)
            self._present.add(status.source)
        if len(self._present) > 1:
            self._say_here()

    def absent(self) -> list[int]:
        """Call all ranks; return those that do not answer."""
        self._say_here()
        until = time.perf_counter() + SECONDS
        while time.perf_counter() < until:
            self.answer()
            time.sleep(PAUSE)
        return sorted(set(range(self._comm.size)) - self._present)

    def _say_here(self) -> None:
        """Tell all others, once: it is call and answer in one."""
        if not self._said:
            others = (rank for rank in range(self._comm.size) if rank != self._comm.rank)
            self._said = [self._comm.Isend([bytearray(), MPI.BYTE], rank, _TAG) for rank in others]
