"""What the bench of devices starts, with a fault: ``faulty_examination.py FAULT`` and the command that it stands for.

Each fault is one that a machine has had, or might: a way that loses messages, a rank that dies, a call that stands
still. The ranks start together, with all imports behind them, which may take longer than a test's timeout.
"""

import os
import signal
import sys
import time

import h5py  # noqa: F401
import torch
from mpi4py import MPI

import mpisim.learning.device
import mpisim.simulation
from mpisim.bench import examination, ways
from mpisim.errors import InputError
from mpisim.exchange import transport
from mpisim.exchange.selftest import SIZES

RANK = MPI.COMM_WORLD.rank
COLUMNS = 7  # of the rows that the tests let travel in turns


def stand_still():
    time.sleep(1000)


def before_torch_sends(act):
    """Let something happen before rows are sent by torch.distributed."""

    class Faulty(transport.WAYS["link"]):
        def start_sends(self):
            act()
            super().start_sends()

    transport.WAYS["link"] = Faulty


def all_stand_still():
    ways.MARGIN_SECONDS = 1.0
    before_torch_sends(stand_still)


def losing():
    """Let rank 1 send nothing by MPI."""

    class Losing(transport.WAYS["host"]):
        def start_sends(self):
            if RANK != 1:
                super().start_sends()

    transport.WAYS["host"] = Losing


def wrong_for_models():
    """Let a way that carries all rows of the self-test, and of the turns, get models wrong."""

    class Wrong(transport.WAYS["link"]):
        def progress(self):
            done = super().progress()
            for parcel in self._arriving if done else []:
                if parcel.buffer.shape[1] not in (*SIZES, COLUMNS):
                    parcel.buffer.add_(0.01)
            return done

    transport.WAYS["link"] = Wrong


def device_of_rank_one(answer):
    """Let rank 1 find another device than the others, or none."""
    original = mpisim.learning.device.choose_device

    def choose(wanted, local_rank):
        if RANK != 1:
            return original(wanted, local_rank)
        if isinstance(answer, Exception):
            raise answer
        return answer

    mpisim.learning.device.choose_device = choose
    mpisim.learning.device.device_name = str


FAULTS = {
    "killed": lambda: before_torch_sends(lambda: RANK == 1 and os.kill(os.getpid(), signal.SIGKILL)),
    "rank 1 stands still": lambda: before_torch_sends(lambda: RANK == 1 and stand_still()),
    "all stand still": all_stand_still,
    "MPI loses messages": losing,
    "torch gets models wrong": wrong_for_models,
    "no device": lambda: device_of_rank_one(InputError("--device cpu: torch finds none here")),
    "another device": lambda: device_of_rank_one(torch.device("cuda:0")),
}

if __name__ == "__main__":
    fault, _python, _m, module, *arguments = sys.argv[1:]
    assert module == examination.__name__
    FAULTS[fault]()
    MPI.COMM_WORLD.Barrier()
    code = examination.main(arguments)

    from mpisim.ranks.startup import end

    end(code)
