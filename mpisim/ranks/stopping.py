"""Being asked to stop: SIGTERM and SIGINT are noted, and the round that runs is finished before the run ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A terminal and a launcher may both pass on one Ctrl-C: only what comes later is a second one.
SAME_PRESS_SECONDS = 1.0


class StopRequest:
    """Whether this rank has been asked to stop.

    Attributes
    ----------
    asked : bool
    """

    def __init__(self) -> None:
        self.asked = False
        self._first = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note SIGTERM and SIGINT while inside; a second SIGINT raises KeyboardInterrupt.

        Python lets its main thread alone handle signals: in another one nothing is noted.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, self._note) for number in signals]
        try:
            yield
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now = time.monotonic()
        if not self.asked:
            self.asked, self._first = True, now
        elif number == signal.SIGINT and now - self._first > SAME_PRESS_SECONDS:
            raise KeyboardInterrupt
