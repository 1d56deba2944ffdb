"""A signal is noted while somebody listens, one press counts once, and handlers are put back."""

import os
import signal
import threading

import pytest

from mpisim.ranks import stopping
from mpisim.ranks.stopping import StopRequest


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
