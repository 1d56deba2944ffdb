"""Devices: what each rank computes on, what can carry models between them, and whether a short run is right there.

Each way that models can travel passes a self-test, or is left out with a word; those that pass carry large rows, from
each rank to the one beside it and back. Then two rounds run on the devices and on CPUs, and their logs are compared.

    python -m mpisim.bench devices --launch "mpiexec -n 12 --ppn 12"    # what starts the ranks on a cluster
    mpiexec -n 2 python -m mpisim.bench.devices                         # what the command starts; prints JSON
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.analysis.logs import open_file
from mpisim.arguments import OneLineParser, exit_code
from mpisim.bench.processes import on_ranks, run
from mpisim.bench.timing import SECONDS, Comparison, Report, at_least_one, timed
from mpisim.config import DEVICES, Config
from mpisim.errors import InputError

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI

    from mpisim.exchange.rows import Carry
    from mpisim.ranks.waiting import Waiting

HELP = "what carries models between the devices of ranks, and two rounds there and on CPUs"
COLUMNS = 5_076_998  # of MNIST's perceptron: 20 MB a row
FLOAT_BYTES = 4
WAYS = {"cpu": ("host", "link"), "cuda": ("staged", "buffers", "link"), "xpu": ("staged", "buffers", "link")}
NAMES = {
    "host": "MPI",
    "staged": "MPI, staged",
    "buffers": "MPI, device buffers",
    "link": "torch.distributed",
}
TWIN = Config(topology="ring:n=24", rounds=2, epochs=1, checkpoint_every=0, quiet=True)
INNER = ("device", "columns", "rows", "timeout")  # options that the ranks get
NOT_RESULTS = ("_seconds", "bytes_sent", "peak_memory")
AGREES = 1e-4  # relative, of losses: a single test sample that is told otherwise changes an accuracy by more
_TAG = 11


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    parser.add_argument("--ranks", type=at_least_one, default=2, metavar="N", help="(2)")
    parser.add_argument("--launch", metavar="COMMAND", help="what starts the ranks, in place of mpiexec -n N")
    _add_inner_options(parser)


def _add_inner_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=DEVICES, default="auto", help="what each rank computes on (auto)")
    parser.add_argument("--columns", type=at_least_one, default=COLUMNS, metavar="N", help=f"of a row ({COLUMNS})")
    parser.add_argument("--rows", type=at_least_one, default=3, metavar="N", help="each way (3)")
    parser.add_argument(
        "--timeout", type=at_least_one, default=120, metavar="SECONDS", help="without a sign of another rank (120)"
    )


def measure(options: argparse.Namespace) -> Report:
    """Run the bench, in this folder: all hosts must see the two logs."""
    inner = [part for name in INNER for part in (f"--{name}", str(getattr(options, name)))]
    python = ["-m", __name__, *inner, "--repeats", str(options.repeats)]
    if options.launch is None:
        command = on_ranks(options.ranks, *python)
    else:
        command = [*_launcher(options.launch), sys.executable, *python]
    _, done = run(command, Path.cwd())
    return report(json.loads(done.stdout.splitlines()[-1]), options.rows * options.columns * FLOAT_BYTES)


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


def report(found: dict[str, Any], num_bytes: int) -> Report:
    """Return what the ranks found as a table of the ways that passed, and a line for each rank, way and comparison.

    Parameters
    ----------
    found : what ``examine`` returned
    num_bytes : int
        That travel each way.
    """
    notes = [f"rank {rank}  {place['host']}  {place['device']}" for rank, place in enumerate(found["places"])]
    passed = {way: seconds for way, seconds in found["seconds"].items() if seconds}
    base = next(iter(passed), None)
    for way, fault in found["faults"].items():
        speed = f", {num_bytes / np.median(passed[way]) / 1e9:.2f} GB/s each way" if way in passed else ""
        notes.append(f"{NAMES[way]}: self-test {'passed' if not fault else 'failed: ' + fault}{speed}")
    worst = max(found["differences"], key=lambda name: found["differences"][name])
    largest = found["differences"][worst]
    how = f"differ by {largest:.1e} of the largest value at the most ({worst})" if largest else "are equal"
    notes.append(f"two rounds on {found['kind']} and on CPUs: the results in the logs {how}")
    notes.append(f"verdict: {'; '.join(wrong(found)) or 'models can travel by way of MPI, and results are right'}")
    comparisons = [
        Comparison(NAMES[way], passed[base], seconds) for way, seconds in passed.items() if base and way != base
    ]
    return Report(NAMES[base] if base else "MPI", "this way", comparisons, notes, found)


def wrong(found: dict[str, Any]) -> list[str]:
    """Return what speaks against runs here: the way that runs take by themselves does not pass, or losses are others.

    Parameters
    ----------
    found : what ``examine`` returned
    """
    first = next(iter(found["faults"]))
    losses = {name: value for name, value in found["differences"].items() if "loss" in name}
    reasons = [f"{NAMES[first]} is not to be trusted"] if found["faults"][first] else []
    return reasons + [f"{name} differs by more than {AGREES:g}" for name, value in losses.items() if value > AGREES]


def examine(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return on rank 0 what all ranks found. Collective."""
    import mpi4py

    mpi4py.rc.thread_level = "funneled"
    import torch
    from mpi4py import MPI

    from mpisim.learning.device import choose_device, device_name
    from mpisim.ranks.messages import to_rank_zero
    from mpisim.ranks.startup import find_place
    from mpisim.ranks.waiting import Waiting

    comm = MPI.COMM_WORLD
    waiting = Waiting(timeout=options.timeout, comm=comm)
    place = find_place(comm, waiting)
    torch.set_num_threads(place.threads)
    device = choose_device(options.device, place.local_rank)
    places = to_rank_zero(comm, waiting, {"host": place.host, "device": device_name(device)})
    faults, seconds = {}, {}
    for way in WAYS[device.type]:
        faults[way], seconds[way] = _try_way(comm, waiting, way, device, options)
        if comm.rank == 0:
            print(f"devices: {NAMES[way]} is done", file=sys.stderr, flush=True)
    differences = _compare_with_cpus(comm, waiting, options)
    if comm.rank != 0:
        return None
    return {"places": places, "kind": device.type, "faults": faults, "seconds": seconds, "differences": differences}


def _try_way(
    comm: MPI.Intracomm, waiting: Waiting, way: str, device: torch.device, options: argparse.Namespace
) -> tuple[str, list[float]]:
    """Return why a way cannot be trusted, or nothing and the seconds of its turns. Collective."""
    from mpisim.exchange.group import check_group
    from mpisim.exchange.selftest import first_word, self_test
    from mpisim.exchange.transport import Transport, choose_transport, refusal

    transport, doubt = Transport(way), ""
    try:
        if way == "link":
            choose_transport("device", gpu_aware=False, device=device)
    except InputError as error:
        doubt = str(error)
    if way == "buffers":
        doubt = refusal(device, os.environ)
    fault = first_word(comm, waiting, doubt)
    if not fault and way == "link":
        try:
            check_group(comm, waiting, device, comm.size)
        except InputError as error:  # on every rank
            fault = str(error)
    if fault:
        return fault, []
    transport.open(comm, waiting, device)
    fault = self_test(comm, waiting, transport.carry, device)
    seconds = [] if fault or comm.size == 1 else _turns(comm, waiting, transport.carry, device, options)
    waiting.barrier(comm)
    transport.close(comm, waiting)
    return fault, seconds


def _turns(
    comm: MPI.Intracomm, waiting: Waiting, carry: Carry, device: torch.device, options: argparse.Namespace
) -> list[float]:
    """Return the seconds of each turn: rows to the rank beside this one, and from it; the slowest rank's."""
    import torch
    from mpi4py import MPI

    rows, columns, other = options.rows, options.columns, comm.rank ^ 1
    carrier = carry(comm, _TAG)
    if other < comm.size:
        carrier.send(torch.full((2 * rows, columns), float(comm.rank), device=device), other, 2 * np.arange(rows))
        carrier.receive(torch.zeros((rows, columns), device=device), other)

    def travel() -> None:
        carrier.start_receives()
        carrier.start_sends()
        waiting.until(carrier.progress, carrier.missing)

    seconds = []
    for _ in range(options.repeats + 1):  # the first time touches memory and sets up connections
        waiting.barrier(comm)
        longest = np.array([timed(travel)()[SECONDS]])
        waiting.all([comm.Iallreduce(MPI.IN_PLACE, longest, op=MPI.MAX)])
        seconds.append(float(longest[0]))
    carrier.free()
    return seconds[1:]


def _compare_with_cpus(comm: MPI.Intracomm, waiting: Waiting, options: argparse.Namespace) -> dict[str, float]:
    """Return how far the logs of two rounds differ, on the devices and on CPUs, on rank 0. Collective."""
    from mpisim import Simulation
    from mpisim.ranks.messages import from_rank_zero

    folder = Path(from_rank_zero(comm, waiting, lambda: tempfile.mkdtemp(prefix="mpisim-bench-", dir=Path.cwd())))
    logs = [folder / "devices.h5", folder / "cpus.h5"]
    for log, kind in zip(logs, (options.device, "cpu"), strict=True):
        config = dataclasses.replace(TWIN, device=kind, output=str(log), timeout=float(options.timeout))
        Simulation(config, comm).run()
    if comm.rank != 0:
        return {}
    found = differences(*logs)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    return found


def differences(first: Path, second: Path) -> dict[str, float]:
    """Return, of each result that two logs have of every round, the largest difference relative to its largest value.

    Infinite where one of them has no number, and the other has one.
    """
    found = {}
    with open_file(first) as one, open_file(second) as other:
        for name in one:
            if name == "round" or one[name].shape[:1] != one["round"].shape or name.endswith(NOT_RESULTS):
                continue
            values = [np.asarray(file[name][:], dtype=float) for file in (one, other)]
            if (np.isfinite(values[0]) != np.isfinite(values[1])).any():
                found[name] = float("inf")
                continue
            values = [np.nan_to_num(each) for each in values]
            largest = max(float(np.abs(each).max()) for each in values)
            found[name] = float(np.abs(values[0] - values[1]).max()) / (largest or 1.0)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on one of the ranks; return the exit code."""
    parser = OneLineParser(prog=f"mpiexec -n 2 python -m {__spec__.name}", description="Ranks examine their devices.")
    _add_inner_options(parser)
    parser.add_argument("--repeats", type=at_least_one, default=5, metavar="N", help="turns of each way (5)")

    def examined() -> None:
        found = examine(parser.parse_args(arguments))
        if found is not None:
            print(json.dumps(found))

    try:
        return exit_code(examined)
    except Exception:
        from mpi4py import MPI

        from mpisim.ranks.startup import abort

        abort(MPI.COMM_WORLD)
        raise


if __name__ == "__main__":
    sys.exit(main())
