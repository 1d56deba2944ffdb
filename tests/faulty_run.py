"""A run in which one step fails on one rank: ``faulty_run.py STEP RANK CALL FAULT`` and the options of a run.

The fault comes when the rank comes to the step for the CALL-th time, before the step itself. The ranks start together,
with all imports behind them, which may take longer than a test's timeout.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py  # noqa: F401
from mpi4py import MPI

import mpisim.arguments
import mpisim.exchange.neighborhood
import mpisim.keeping
import mpisim.nodes
import mpisim.ranks.startup
import mpisim.ranks.waiting
import mpisim.results
import mpisim.rounds
import mpisim.simulation
import mpisim.storage.log
from mpisim import run
from mpisim.config import Config

STEPS = {
    "options": (mpisim.arguments, "parse_config"),
    "decide": (mpisim.simulation, "decide"),
    "place": (mpisim.simulation, "find_place"),
    "device": (mpisim.simulation, "choose_device"),
    "open": (mpisim.simulation, "open_log"),
    "split": (mpisim.ranks.waiting.Waiting, "split"),
    "within MPI": (threading, "Timer"),  # made when all ranks have come to a call of MPI that blocks
    "brief": (mpisim.simulation, "brief"),
    "nodes": (mpisim.nodes.Nodes, "__init__"),
    "aside": (mpisim.ranks.waiting.Waiting, "aside"),  # to start a group of one, end that, start that of all, end that
    "connect": (mpisim.rounds, "connect"),
    "restore": (mpisim.simulation, "newest_checkpoint"),
    "play": (mpisim.rounds.Rounds, "play"),
    "set_status": (mpisim.storage.log.Log, "set_status"),
    "post": (mpisim.exchange.neighborhood.NeighborhoodExchange, "post"),
    "train": (mpisim.nodes.Nodes, "train"),
    "send": (mpisim.exchange.neighborhood.NeighborhoodExchange, "send"),
    "test": (mpisim.nodes.Nodes, "test"),
    "wait": (mpisim.exchange.neighborhood.NeighborhoodExchange, "wait"),
    "mix": (mpisim.rounds.Rounds, "_mix"),
    "gather": (mpisim.results.ResultsGather, "gather"),
    "append": (mpisim.storage.log.Log, "append"),
    "write_shard": (mpisim.keeping, "write_shard"),
    "commit": (mpisim.keeping, "commit"),
    "end": (mpisim.ranks.startup.faulthandler, "dump_traceback_later"),
}
DISK = Path("disk")  # where the log of a run is whose disk fails
MESSAGE = "the tile is gone"


def fail():
    raise RuntimeError(MESSAGE)


def fill_disk():
    with (DISK / "ballast").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


def linger():
    Path("lingers").touch()
    time.sleep(600)


FAULTS = {
    "raise": fail,
    "exit": lambda: os._exit(9),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "linger": linger,
    "full": fill_disk,
    "limit": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY)),
    "vanish": lambda: shutil.rmtree(DISK),
    "read-only": lambda: subprocess.run(["chattr", "+i", str(DISK)], check=True),
}


def inject(step, rank, call, fault):
    owner, name = STEPS[step]
    original, calls = getattr(owner, name), 0

    def with_fault(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == call:
            FAULTS[fault]()
        return original(*arguments, **options)

    if MPI.COMM_WORLD.rank == rank:
        setattr(owner, name, with_fault)


if __name__ == "__main__":
    Config.timeout = 4.0  # until the options are known
    mpisim.ranks.startup.FINALIZE_SECONDS = 4.0
    mpisim.ranks.waiting.Waiting().barrier(MPI.COMM_WORLD)
    inject(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    mpisim.ranks.startup.end(run.main(sys.argv[5:]))
