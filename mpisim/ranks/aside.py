"""A thread for what blocks, so that its rank can go on looking and answering meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Aside(threading.Thread):
    """Does some work, from now on, while ``is_alive()``. A process does not wait for it at its end.

    Parameters
    ----------
    work : function
        It must not call MPI, which other threads than the first may not, but for what oneCCL does where they may
        (``libraries.thread_level``); and it must let go of Python's lock.

    Attributes
    ----------
    failure : the exception that ended it, if one did
    """

    def __init__(self, work: Callable[[], object]):
        super().__init__(daemon=True)
        self._work = work
        self.failure: Exception | None = None
        self.start()

    def run(self) -> None:
        """Do the work."""
        try:
            self._work()
        except Exception as error:
            self.failure = error
