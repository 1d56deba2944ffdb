"""A signal is noted, or stops at once, while somebody listens; one press counts once; handlers are put back."""

import os
import signal
import threading
import time

import pytest

from mpisim.ranks import stopping
from mpisim.ranks.stopping import Stopped, StopRequest, no_longer_than


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handler_put_back(number):
    before, stop = signal.getsignal(number), StopRequest()
    with stop.listening():
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
        os.kill(os.getpid(), number)  # the launcher passes on the same press
    assert signal.getsignal(number) is before


def test_a_second_press_is_an_interrupt(monkeypatch):
    monkeypatch.setattr(stopping, "SAME_PRESS_SECONDS", -1.0)
    with StopRequest().listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_once_and_is_named_as_long_as_that_is_wanted(monkeypatch, number):
    monkeypatch.setattr(stopping, "SAME_PRESS_SECONDS", -1.0)
    stop = StopRequest()
    with stop.listening():
        stop.stop_at_once()
        for _ in range(2):  # the first one may have met code that stops for nothing
            with pytest.raises(Stopped, match=f"^stopped by {number.name} before the first round$"):
                os.kill(os.getpid(), number)
        assert stop.asked
        stop.only_note()
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_came_before_stops_as_soon_as_that_is_wanted():
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            stop.stop_at_once()


def test_the_same_press_does_not_stop_what_is_stopping():
    stop = StopRequest()
    with stop.listening():
        stop.stop_at_once()
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread_nothing_is_noted_and_nothing_fails():
    entered = []

    def listen():
        with StopRequest().listening():
            entered.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert entered == [before]


@pytest.mark.parametrize("seconds", [-3.0, 0.0, 0.05])
def test_what_takes_longer_than_it_may_is_stopped_and_the_clock_put_back(seconds):
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(Stopped, match="late"), no_longer_than(seconds, "late"):
        time.sleep(60)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("seconds", [30.0, 1e300, float("inf")])
def test_what_ends_in_time_is_left_alone(seconds):
    with no_longer_than(seconds, "late"):
        assert signal.getitimer(signal.ITIMER_REAL)[0] <= 30
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
