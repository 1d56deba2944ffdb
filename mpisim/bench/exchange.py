"""Exchange: the models of a round between two ranks, against a bare ping-pong of the same bytes.

Both move the same number of rows each way at once, a few rounds in a row. The ping-pong sends them from one contiguous
buffer of numpy's into another with Isend, Irecv and Waitall. mpisim sends every second row of X, as in a run where not
all nodes are listened to from elsewhere, with its own messages and its own way to wait.

    mpiexec -n 2 python -m mpisim.bench.exchange            # what the command starts; prints JSON
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mpisim.arguments import OneLineParser, exit_code
from mpisim.bench.processes import on_ranks, run
from mpisim.bench.timing import SECONDS, Comparison, Figures, Report, alternate, at_least_one, timed
from mpisim.errors import InputError
from mpisim.libraries import prepare_libraries
from mpisim.units import plain_bytes

HELP = "a round's messages against a bare ping-pong of the same bytes"
BARE, OURS = "ping-pong", "mpisim"
TARGET = 1.25
COLUMNS = 5_076_998  # of MNIST's perceptron: 20 MB a row
FLOAT_BYTES = 4
_TAG = 3


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    parser.add_argument("--columns", type=at_least_one, default=COLUMNS, metavar="N", help=f"of a row ({COLUMNS})")
    parser.add_argument("--rows", type=at_least_one, default=3, metavar="N", help="each way (3)")
    parser.add_argument("--rounds", type=at_least_one, default=5, metavar="N", help="in a row, in each turn (5)")


def measure(options: argparse.Namespace) -> Report:
    """Run the bench: two ranks that take turns with both contenders."""
    sizes = ["--columns", options.columns, "--rows", options.rows, "--rounds", options.rounds]
    with tempfile.TemporaryDirectory(prefix="mpisim-bench-") as folder:
        command = on_ranks(2, "-m", __name__, *map(str, sizes), "--repeats", str(options.repeats))
        _, done = run(command, Path(folder))
    seconds = json.loads(done.stdout)
    sent = plain_bytes(options.rows * options.columns * FLOAT_BYTES)
    what = f"{options.rows} rows each way"
    note = f"{sent} each way and round, the longer of both ranks' times, by round"
    return Report(BARE, OURS, [Comparison(what, seconds[BARE], seconds[OURS], TARGET)], [note])


def take_turns(options: argparse.Namespace) -> dict[str, list[float]] | None:
    """Return the seconds of each contender's turns on rank 0, and nothing on rank 1. Collective, on two ranks.

    Raises
    ------
    InputError
        On every rank, if they are not two.
    """
    prepare_libraries()
    import torch
    from mpi4py import MPI

    from mpisim.exchange.neighborhood import ExchangePlan, NeighborhoodExchange
    from mpisim.learning.parameters import allocate_rows
    from mpisim.ranks.startup import find_place
    from mpisim.ranks.waiting import Waiting

    comm = MPI.COMM_WORLD
    if comm.size != 2:
        raise InputError(f"{comm.size} ranks: models travel between two: mpiexec -n 2 python -m {__spec__.name}")
    waiting = Waiting(spin=find_place(comm, Waiting(), 1).owns_core)
    other = 1 - comm.rank

    first_row = 2 * options.rows * np.arange(2)  # each rank owns twice as many rows as it sends
    own, theirs = (first_row[rank] + np.arange(2 * options.rows) for rank in (comm.rank, other))
    others = np.full(options.rows, other)
    plan = ExchangePlan(own, theirs[::2], others, own[::2], others)
    parameters = allocate_rows(len(own), options.columns, torch.device("cpu"))
    parameters += torch.from_numpy(own)[:, None]
    exchange = NeighborhoodExchange(comm, plan, parameters)

    def ours() -> None:
        for _ in range(options.rounds):
            exchange.post()
            exchange.send()
            exchange.wait(waiting)

    outgoing, incoming = (np.full(options.rows * options.columns, rank, dtype=np.float32) for rank in (comm.rank, -1))

    def bare() -> None:
        for _ in range(options.rounds):
            MPI.Request.Waitall([comm.Irecv(incoming, other, _TAG), comm.Isend(outgoing, other, _TAG)])

    def together(work: Callable[[], None]) -> Callable[[], Figures]:
        """Return a contender whose time counts from when both ranks are there, and is the longer of theirs."""

        def contender() -> Figures:
            waiting.barrier(comm)
            longest = np.array([timed(work)()[SECONDS] / options.rounds])
            waiting.all([comm.Iallreduce(MPI.IN_PLACE, longest, op=MPI.MAX)])
            return {SECONDS: float(longest[0])}

        return contender

    for work in (bare, ours):  # the first time touches memory and sets up connections
        work()
    if not (bool((exchange.remote == torch.from_numpy(plan.received)[:, None]).all()) and (incoming == other).all()):
        raise RuntimeError("what arrived is not what was sent")
    series = alternate({BARE: together(bare), OURS: together(ours)}, options.repeats, "exchange")
    exchange.free()
    return {name: figures[SECONDS] for name, figures in series.items()} if comm.rank == 0 else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on one of the two ranks; return the exit code."""
    parser = OneLineParser(prog=f"mpiexec -n 2 python -m {__spec__.name}", description="Two ranks exchange models.")
    add_options(parser)
    parser.add_argument("--repeats", type=at_least_one, default=5, metavar="N", help="turns of each contender (5)")

    def measured() -> None:
        seconds = take_turns(parser.parse_args(arguments))
        if seconds is not None:
            print(json.dumps(seconds))

    return exit_code(measured)


if __name__ == "__main__":
    sys.exit(main())
