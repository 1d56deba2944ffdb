"""Carry out many runs from one file.

    python -m mpisim.sweep study.toml --list                       # what would run
    python -m mpisim.sweep study.toml --estimate --ranks 2         # how long it takes, what travels and what is written
    python -m mpisim.sweep study.toml --run --ranks 2              # what is missing, one run after the other
    python -m mpisim.sweep study.toml --run --jobs 2               # two runs at a time, of one rank each
    python -m mpisim.sweep study.toml --status                     # how far it is
    python -m mpisim.sweep study.toml --run --index 7              # the run of this number alone: for job arrays
    python -m mpisim.sweep study.toml --run --executor parsl --machine aurora --ranks 12

What a sweep file says, mpisim/sweep/file.py tells. Each run's log is results/STUDY/NAME.h5. The same command again does
what is missing: what was interrupted goes on from its checkpoint, what failed is tried again, and what another process
is writing is left alone. The message of a run that failed is in NAME.failed.

Exit codes: 0 all runs are done; 1 all were tried and some failed (a line says why, for each), or are done with fewer
rounds than the file says now and have no checkpoint to go on from; 2 the input is wrong (one line says what, nothing on
disk is touched); 3 some are left: a signal or --walltime stopped the sweep, or another process is writing them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mpisim.arguments import OneLineParser, exit_code
from mpisim.errors import InputError
from mpisim.options import flag
from mpisim.sweep.display import Progress, counted, listing, status, too_short
from mpisim.sweep.executors import LAUNCHER, Executor, LocalExecutor, Orders
from mpisim.sweep.expansion import Run, chosen, expand
from mpisim.sweep.file import read_sweep
from mpisim.sweep.machines import MACHINES
from mpisim.sweep.state import (
    DONE,
    FAILED,
    INTERRUPTED,
    LASTING,
    RUNNING,
    SHORT,
    TO_DO,
    check_writable,
    look_at_all,
)

ESTIMATED = {"ranks_per_host": int, "latency": float, "bandwidth": float}  # options of a run that tell of the machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    began = time.monotonic()
    code = 0

    def command() -> None:
        nonlocal code
        options = _parser().parse_args(arguments)
        runs = chosen(expand(read_sweep(options.file)), options.index)
        for name in ESTIMATED:
            if getattr(options, name) is not None and not options.estimate:
                raise InputError(f"{flag(name)}: is for --estimate")
        options.output_dir = options.output_dir or Path("results") / options.file.stem
        if options.list:
            print(listing(runs))
        elif options.status:
            states = look_at_all(runs, options.output_dir)
            print(status(runs, states, options.output_dir, options.jobs or 1))
        elif options.estimate:
            print(_estimate(runs, options))
        else:
            code = _carry_out(runs, options, began)

    try:
        wrong = exit_code(command)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read along has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return wrong or code


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m mpisim.sweep",
        description="Carry out many runs from one file; again, and only what is missing is done.",
        epilog="exit codes: 0 all runs are done, 1 some failed, 2 wrong input, 3 some are left (the same command goes"
        " on)",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE.toml", help="what the runs are")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="print each run's number, name and options")
    what.add_argument(
        "--status", action="store_true", help="print how many runs are done, failed, …, and the time left"
    )
    what.add_argument("--estimate", action="store_true", help="print what the runs that are left take on --ranks")
    what.add_argument("--run", action="store_true", help="carry out the runs that are missing; those that failed again")
    parser.add_argument("--index", type=int, metavar="I", help="the run of this number alone, from 0 (all)")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="where the logs are (results/FILE)")
    parser.add_argument("--ranks", type=_at_least_one, default=1, metavar="N", help="of each run (1)")
    parser.add_argument(
        "--jobs",
        type=_at_least_one,
        metavar="N",
        help="runs at a time (1; in an allocation, as many as it has hosts for)",
    )
    parser.add_argument(
        "--walltime", type=float, metavar="SECONDS", help="that the job may take: the runs stop at a checkpoint before"
    )
    parser.add_argument(
        "--no-download", action="store_true", help="runs take only data that is on disk, whatever the file says"
    )
    parser.add_argument(
        "--keep-checkpoints",
        action="store_true",
        help="of runs that are done, which takes the space of two copies of all models",
    )
    for name, kind in ESTIMATED.items():
        parser.add_argument(flag(name), type=kind, metavar=kind.__name__[0].upper(), help="estimate: as of mpisim.run")
    parser.add_argument("--executor", choices=("local", "parsl"), default="local", help="what starts the runs (local)")
    parser.add_argument(
        "--launcher", metavar="COMMAND", help=f"local: what starts a run's ranks, in front of python ({LAUNCHER!r})"
    )
    parser.add_argument(
        "--machine", choices=sorted(MACHINES), help="parsl: whose PBS allocation this is, or this machine (local)"
    )
    return parser


def _at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


_at_least_one.__name__ = "number of at least 1"  # argparse says it of what is none


def _estimate(runs: list[Run], options: argparse.Namespace) -> str:
    from mpisim.sweep.estimate import estimate_sweep

    states = look_at_all(runs, options.output_dir)
    given = {name: getattr(options, name) for name in ESTIMATED if getattr(options, name) is not None}
    return estimate_sweep(
        runs, states, options.output_dir, options.ranks, options.jobs or 1, options.keep_checkpoints, given
    )


def _carry_out(runs: list[Run], options: argparse.Namespace, began: float) -> int:
    """Carry out the runs that are missing; return the exit code."""
    if options.walltime is not None and not 0 < options.walltime < float("inf"):
        raise InputError(f"--walltime {options.walltime:g}: must be above 0, and finite")
    if options.executor == "local" and options.machine:
        raise InputError(f"--machine {options.machine}: is for --executor parsl")
    if options.executor == "parsl" and options.launcher:
        raise InputError("--launcher: is for --executor local: Parsl brings its own")
    from mpisim.sweep.carrying_out import Sweep

    folder: Path = options.output_dir
    states = look_at_all(runs, folder)
    if any(state.kind not in LASTING for state in states):
        check_writable(folder)
    deadline = None if options.walltime is None else began + options.walltime
    executor = _executor(options, Orders(folder, options.ranks, deadline, options.no_download))
    progress = Progress(runs, states, folder, executor.slots)
    sweep = Sweep(runs, states, folder, progress, options.keep_checkpoints)
    sweep.remove_checkpoints()
    if all(state.kind in (DONE, SHORT) for state in states):
        code = int(any(state.kind == SHORT for state in states))
    else:
        code = sweep.carry_out(executor, deadline)
    kinds = [state.kind for state in sweep.states]
    text = f"{kinds.count(DONE):,} of {counted(len(runs))} done, in {folder}"
    them = "it" if kinds.count(RUNNING) == 1 else "them"
    for kind, words in (
        (FAILED, "failed"),
        (SHORT, SHORT),
        (RUNNING, f"left alone: another process is writing {them}"),
    ):
        text += f"; {kinds.count(kind):,} {words}" if kind in kinds else ""
    if left := kinds.count(INTERRUPTED) + kinds.count(TO_DO):
        text += f"; {left:,} left: the same command goes on"
    print(text, flush=True)
    for run, words in sweep.failures:
        print(f"mpisim: run {run.name}: {words}", file=sys.stderr)
    for run, state in zip(runs, sweep.states, strict=True):
        if state.kind == SHORT:
            print(f"mpisim: run {too_short(run, state)}", file=sys.stderr)
    return code


def _executor(options: argparse.Namespace, orders: Orders) -> Executor:
    if options.executor == "local":
        return LocalExecutor(orders, options.jobs or 1, options.launcher or LAUNCHER)
    from mpisim.sweep.parsl_executor import ParslExecutor

    return ParslExecutor(orders, options.machine or "local", options.jobs)


if __name__ == "__main__":
    sys.exit(main())
