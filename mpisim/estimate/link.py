"""The link between two ranks of this machine: the time of a small exchange, and the bandwidth of a large one.

mpiexec -n 2 python -m mpisim.estimate.link             # what an estimate starts; prints JSON
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time

import numpy as np

from mpisim.estimate.model import Link
from mpisim.libraries import prepare_libraries

SMALL, LARGE = 64, 2**21  # columns of the row that travels: 256 bytes, 8 MiB
FLOAT_BYTES = 4
REPEATS = {SMALL: 200, LARGE: 9}
PATIENCE = 120.0  # seconds
# Where nobody can measure: between hosts of a machine of today, with MPI and Python on both sides.
USUAL = Link(latency=20e-6, bandwidth=5e9)


def measured_link() -> Link | None:
    """Return what two ranks on this machine find; None where they cannot be started."""
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None:
        return None
    command = [mpiexec, "-n", "2", sys.executable, "-m", __name__]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        return Link(**json.loads(done.stdout))
    except (subprocess.TimeoutExpired, ValueError, TypeError):
        return None


def main() -> int:
    """Exchange a row with the other rank, again and again; rank 0 prints how long it took. Return the exit code."""
    prepare_libraries()
    import torch
    from mpi4py import MPI

    from mpisim.exchange.neighborhood import ExchangePlan, NeighborhoodExchange
    from mpisim.learning.parameters import allocate_rows
    from mpisim.ranks.startup import find_place
    from mpisim.ranks.waiting import Waiting

    comm = MPI.COMM_WORLD
    if comm.size != 2:
        print(f"mpisim: {comm.size} ranks: a link is between two: mpiexec -n 2 python -m {__spec__.name}")
        return 2
    waiting = Waiting(spin=find_place(comm, Waiting(), 1).owns_core)
    own, theirs, other = (np.array([rank]) for rank in (comm.rank, 1 - comm.rank, 1 - comm.rank))
    seconds = {}
    for columns, repeats in REPEATS.items():
        plan = ExchangePlan(own, theirs, other, own, other)
        exchange = NeighborhoodExchange(comm, plan, allocate_rows(1, columns, torch.device("cpu")))
        times = []
        for _ in range(repeats + 1):
            waiting.barrier(comm)
            started = time.perf_counter()
            exchange.post()
            exchange.send()
            exchange.wait(waiting)
            times.append(time.perf_counter() - started)
        seconds[columns] = statistics.median(times[1:])
        exchange.free()
    if comm.rank == 0:
        bandwidth = LARGE * FLOAT_BYTES / max(seconds[LARGE] - seconds[SMALL], seconds[LARGE] / 10)
        print(json.dumps({"latency": seconds[SMALL], "bandwidth": bandwidth}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
