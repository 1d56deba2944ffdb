"""Stopping: for SIGTERM or SIGINT, at once while there is nothing to keep, then after the round that runs; in time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A terminal and a launcher may both pass on one Ctrl-C: only what comes later is a second one.
SAME_PRESS_SECONDS = 1.0
MOST_SECONDS, LEAST_SECONDS = 1e8, 1e-3  # that the system's clock can be set to; 0 would be never


class Stopped(BaseException):
    """A rank is to stop at once; the message says why."""


@contextmanager
def no_longer_than(seconds: float, reason: str) -> Iterator[None]:
    """Raise Stopped inside, with this reason, once it has taken so many seconds.

    Python lets its main thread alone handle signals: in another one there is no limit.
    """
    if seconds > MOST_SECONDS or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise Stopped(reason)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, LEAST_SECONDS))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class StopRequest:
    """Whether this rank has been asked to stop.

    Attributes
    ----------
    asked : bool
    """

    def __init__(self) -> None:
        self.asked = False
        self._first = 0.0
        self._name = ""
        self._at_once = False

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

    def stop_at_once(self) -> None:
        """From here on, raise Stopped at a signal; here, if one has come already."""
        self._at_once = True
        if self.asked:
            raise Stopped(self._reason())

    def only_note(self) -> None:
        """From here on, note signals and go on."""
        self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now, again = time.monotonic(), self.asked
        if not again:
            self.asked, self._first, self._name = True, now, signal.Signals(number).name
        elif now - self._first <= SAME_PRESS_SECONDS:
            return
        if self._at_once:
            raise Stopped(self._reason())
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt

    def _reason(self) -> str:
        return f"stopped by {self._name} before the first round"
