"""Devices: what each rank computes on, what can carry models between them, and whether a short run is right there.

Each way that models can travel passes a self-test, or is left out with a word; those that pass carry large rows, from
each rank to the one beside it and back. Then two rounds are played twice, by means that must not make a difference.
The ranks (``examination.py``) tell all that at once, on standard error; here it becomes a table and a verdict.

    python -m mpisim.bench devices --launch "mpiexec -n 12 --ppn 12"    # what starts the ranks on a cluster
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mpisim.bench import examination
from mpisim.bench.processes import given_input_error, on_ranks, run_in_sight
from mpisim.bench.timing import Comparison, Report, at_least_one
from mpisim.bench.twins import of_runs
from mpisim.bench.ways import FLOAT_BYTES, NAMES, of_self_test, of_speed
from mpisim.errors import InputError

HELP = "what carries models between the devices of ranks, and two rounds there and on CPUs"
RANKS = 2
INNER = ("device", "columns", "rows", "timeout", "repeats")  # options that the ranks get
AGREES = 1e-4  # relative, of losses: a single test sample that is told otherwise changes an accuracy by more


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    parser.add_argument("--ranks", type=at_least_one, metavar="N", help=f"({RANKS})")
    parser.add_argument("--launch", metavar="COMMAND", help="what starts the ranks, in place of mpiexec -n N")
    examination.add_options(parser)


def measure(options: argparse.Namespace) -> Report:
    """Run the bench; rank 0's host must see this folder, where the runs' logs come to lie.

    Raises
    ------
    InputError
    SystemExit
        With the line that says so, if the ranks end before all is found.
    """
    inner = [part for name in INNER for part in (f"--{name}", str(getattr(options, name)))]
    python = ["-m", examination.__name__, *inner]
    if options.launch is None:
        command = on_ranks(options.ranks or RANKS, *python)
    elif options.ranks is None:
        command = [*_launcher(options.launch), sys.executable, *python]
    else:
        raise InputError(f"--ranks {options.ranks}: --launch says itself how many there are: leave one of them out")
    try:
        folder = tempfile.TemporaryDirectory(prefix="mpisim-bench-", dir=Path.cwd(), ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(
            f"{Path.cwd()}: cannot be written: {error.strerror}: two short runs leave their logs there for a moment:"
            " go to another folder"
        ) from error
    with folder as name:
        done = run_in_sight([*command, "--folder", name], Path.cwd())
    return report(_found(command, done), options.rows * options.columns * FLOAT_BYTES)


def _launcher(text: str) -> list[str]:
    """Return the words of what starts the ranks.

    Raises
    ------
    InputError
        If a quote is open, or there is no such command.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"--launch {text!r}: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise InputError(f"--launch {text!r}: {words[0] if words else 'it'} is no command on PATH")
    return words


def _found(command: list[str], done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return what the ranks found: rank 0's line among what they and their libraries have printed."""
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"places"')]
    if lines:  # all was found, however they ended: a way that has failed may let MPI end badly
        if done.returncode:
            print(f"devices: {command[0]} ended with code {done.returncode}, after all was found", file=sys.stderr)
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    error = given_input_error(done.returncode, done.stdout)
    if error is not None:
        raise error
    print(done.stdout, end="", file=sys.stderr)
    if done.returncode == 0:
        raise InputError(f"{command[0]}: no rank has told what it found: does it start the command behind it?")
    sys.exit(
        f"mpisim: {command[0]} ended with code {done.returncode} before all was found: the lines above say what was,"
        " and what was tried last"
    )


def report(found: dict[str, Any], num_bytes: int) -> Report:
    """Return what the ranks found as a table of the ways that passed, and a line for each rank, way and comparison.

    Parameters
    ----------
    found : what ``examination.examine`` returned
    num_bytes : int
        That travel each way.
    """
    notes = [examination.of_place(rank, place) for rank, place in enumerate(found["places"])]
    passed = {way: seconds for way, seconds in found["seconds"].items() if seconds}
    for way, fault in found["faults"].items():
        speed = f", {of_speed(passed[way], num_bytes)}" if way in passed else ""
        notes.append(of_self_test(way, fault) + speed)
    notes += [of_runs(what, differences) for what, differences in found["differences"].items()]
    reasons = wrong(found)
    notes.append(f"verdict: {'; '.join(reasons) or _right(found)}")
    base = next(iter(passed), None)
    comparisons = [
        Comparison(NAMES[way], passed[base], seconds) for way, seconds in passed.items() if base and way != base
    ]
    return Report(NAMES[base] if base else "MPI", "this way", comparisons, notes, found, failed=bool(reasons))


def wrong(found: dict[str, Any]) -> list[str]:
    """Return what speaks against runs here: the way that runs take by themselves does not pass, or losses are others.

    Parameters
    ----------
    found : what ``examination.examine`` returned
    """
    reasons = [f"{NAMES[way]} is not to be trusted" for way, fault in list(found["faults"].items())[:1] if fault]
    for what, differences in found["differences"].items():
        far = [name for name, value in differences.items() if "loss" in name and value > AGREES]
        reasons += [f"{', '.join(far)} differ{'s' * (len(far) == 1)} by more than {AGREES:g} {what}"] if far else []
    return reasons


def _right(found: dict[str, Any]) -> str:
    """Return what can be said where nothing speaks against runs."""
    said = ["models can travel by way of MPI"] if found["faults"] else []
    said += ["results are right"] if found["differences"] else []
    return ", and ".join(said) or "one rank on a CPU has nothing to be compared with"
