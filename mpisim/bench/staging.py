"""Staging: how much of the time that models travel through host memory is hidden behind the tests.

On two ranks, all models of each go to the other and come through pinned host memory, as those of a GPU do in a run,
while the models are tested. Timed are the tests alone, the exchange alone, and both as a round makes them: with the
run's own exchange, nodes and order (``rounds.py``, steps 3 to 5).

    python -m mpisim.bench staging --trace round.json       # what rank 0's device did in such a round, stream by stream
    mpiexec -n 2 python -m mpisim.bench.staging             # what the command starts; prints JSON
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpisim.arguments import OneLineParser, exit_code
from mpisim.bench.drawn import CASES
from mpisim.bench.processes import on_ranks, run
from mpisim.bench.timing import (
    REPEATS,
    SECONDS,
    Comparison,
    Report,
    alternate,
    at_least_one,
    check_writable,
    plain_time,
)
from mpisim.config import DEVICES
from mpisim.errors import InputError
from mpisim.libraries import prepare_libraries
from mpisim.units import plain_bytes

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI

    from mpisim.bench.staged_round import StagedRound
    from mpisim.ranks.waiting import Waiting

HELP = "a round's tests and messages through host memory, at once against one after the other"
TESTS, EXCHANGE, BOTH = "tests", "exchange", "both"
NUM_TESTS, NUM_TESTS_ON_CPU = 10_000, 500
TRACE = "trace.json"  # what the ranks call it, in a folder that goes
INNER = ("device", "model", "nodes", "timeout")  # options that the ranks always get


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    parser.add_argument("--device", choices=DEVICES, default="auto", help="what each rank computes on (auto)")
    parser.add_argument("--model", choices=CASES, default="mnist", help="what is tested and travels (mnist)")
    parser.add_argument("--nodes", type=at_least_one, default=8, metavar="N", help="of each rank (8)")
    parser.add_argument(
        "--tests", type=at_least_one, metavar="N", help=f"test images ({NUM_TESTS}; on a CPU {NUM_TESTS_ON_CPU})"
    )
    parser.add_argument("--trace", metavar="FILE", help="write what rank 0 does in a round, as a Chrome trace")
    parser.add_argument(
        "--timeout", type=at_least_one, default=120, metavar="SECONDS", help="without a sign of another rank (120)"
    )


def measure(options: argparse.Namespace) -> Report:
    """Run the bench: two ranks that take turns with all three."""
    inner = [part for name in INNER for part in (f"--{name}", str(getattr(options, name)))]
    if options.tests is not None:
        inner += ["--tests", str(options.tests)]
    if options.trace is not None:
        path = Path(options.trace)
        check_writable(path, "--trace")
        if options.json is not None and options.json.absolute() == path.absolute():
            raise InputError(f"--trace {path}: is the file of --json too: name another one")
        inner += ["--trace", TRACE]
    with tempfile.TemporaryDirectory(prefix="mpisim-bench-") as folder:
        command = on_ranks(2, "-m", __name__, *inner, "--repeats", str(options.repeats))
        _, done = run(command, Path(folder))
        trace = None if options.trace is None else (Path(folder) / TRACE).read_bytes()
    found = report(json.loads(done.stdout.splitlines()[-1]), options.model)
    if trace is not None:
        found.notes.extend(_keep(trace, path))
    return found


def _keep(trace: bytes, path: Path) -> list[str]:
    """Write the trace where it is wanted; return what to say of it."""
    try:
        path.write_bytes(trace)
    except OSError as error:
        raise InputError(f"--trace {path}: cannot be written: {error.strerror}") from error
    notes = [f"a round on rank 0: {path}, for ui.perfetto.dev or chrome://tracing"]
    copies, beside = copies_beside_kernels(json.loads(trace)["traceEvents"])
    if copies:
        share = 100 * beside / copies
        notes.append(f"in it {plain_time(copies)} of copies on side streams, {share:.0f} % of that while kernels ran")
    return notes


def report(found: dict[str, Any], model: str) -> Report:
    """Return what the ranks found, and how much is hidden.

    Parameters
    ----------
    found : what ``examine`` returned
    """
    tests, exchange, both = (found["seconds"][part] for part in (TESTS, EXCHANGE, BOTH))
    in_turn = [one + other for one, other in zip(tests, exchange, strict=True)]
    shares = [hidden_share(*turn) for turn in zip(tests, exchange, both, strict=True)]
    low, share, high = (round(100 * figure(shares)) for figure in (min, statistics.median, max))
    medians = [plain_time(statistics.median(seconds)) for seconds in (tests, exchange, both)]
    models = f"{found['nodes']} model{'s' * (found['nodes'] > 1)} of {model}"
    notes = [f"rank {rank}  {device}" for rank, device in enumerate(found["devices"])]
    if set(found["devices"]) == {"cpu"}:
        notes.append("on a CPU there is no side stream: copies to and from the buffers are made at once")
    notes += [
        f"{models}, {plain_bytes(found['bytes'])} each way; {found['tests']:,} test images",
        "tests alone {}, exchange alone {}, both as in a round {}".format(*medians),
        f"hidden: {share} % ({low} to {high}), (tests + exchange - both) / the shorter of tests and exchange",
    ]
    comparison = Comparison(models, in_turn, both)
    return Report("one after the other", "at once", [comparison], notes, found | {"hidden": shares})


def hidden_share(tests: float, exchange: float, both: float) -> float:
    """Return how much of the shorter of two times passes within the longer: 1 if all of it, 0 if nothing.

    >>> hidden_share(tests=3.0, exchange=1.0, both=3.25)
    0.75
    """
    return (tests + exchange - both) / min(tests, exchange)


def copies_beside_kernels(events: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return how long a device copied on streams that have no kernels, and for how much of that time kernels ran.

    Parameters
    ----------
    events : of a Chrome trace, as torch's profiler writes it: times in microseconds

    Returns
    -------
    (seconds, seconds); of copies at the same time, each counts
    """
    copies, kernels = ([event for event in events if event.get("cat") == kind] for kind in ("gpu_memcpy", "kernel"))
    computing = {event["args"].get("stream") for event in kernels}
    busy: list[list[float]] = []  # the times in which at least one kernel ran
    for start, end in sorted((event["ts"], event["ts"] + event["dur"]) for event in kernels):
        if busy and start <= busy[-1][1]:
            busy[-1][1] = max(busy[-1][1], end)
        else:
            busy.append([start, end])
    whole = beside = 0.0
    for event in copies:
        if event["args"].get("stream") not in computing:
            start, end = event["ts"], event["ts"] + event["dur"]
            whole += end - start
            beside += sum(max(0.0, min(end, last) - max(start, first)) for first, last in busy)
    return whole / 1e6, beside / 1e6


def examine(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return on rank 0 the seconds of each turn. Collective, on two ranks.

    Raises
    ------
    InputError
        On every rank, if they are not two or have no such device.
    """
    prepare_libraries()
    import torch
    from mpi4py import MPI

    from mpisim.bench.staged_round import StagedRound
    from mpisim.learning.device import device_name
    from mpisim.ranks.messages import to_rank_zero
    from mpisim.ranks.startup import find_place
    from mpisim.ranks.waiting import Waiting

    comm = MPI.COMM_WORLD
    if comm.size != 2:
        raise InputError(f"{comm.size} ranks: models travel between two: mpiexec -n 2 python -m {__spec__.name}")
    place = find_place(comm, Waiting(timeout=options.timeout, comm=comm))
    waiting = Waiting(place.owns_core, options.timeout, comm)
    torch.set_num_threads(place.threads)
    device = _find_device(comm, waiting, options.device, place.local_rank)
    devices = to_rank_zero(comm, waiting, device_name(device))
    tests = options.tests or (NUM_TESTS_ON_CPU if device.type == "cpu" else NUM_TESTS)
    rank = StagedRound(comm, waiting, device, options.model, options.nodes, tests)
    contenders = {
        TESTS: rank.together(rank.test, travels=False),
        EXCHANGE: rank.together(rank.travel),
        BOTH: rank.together(rank.round),
    }
    for contender in contenders.values():  # the first time touches memory and sets up libraries and connections
        contender()
    rank.check()
    series = alternate(contenders, options.repeats, "staging")
    if options.trace is not None:
        _trace(rank, comm.rank, device, Path(options.trace))
    rank.free()
    if comm.rank != 0:
        return None
    seconds = {part: figures[SECONDS] for part, figures in series.items()}
    sizes = {"nodes": options.nodes, "tests": tests, "bytes": rank.bytes_sent}
    return {"devices": devices, "seconds": seconds} | sizes


def _find_device(comm: MPI.Intracomm, waiting: Waiting, wanted: str, local_rank: int) -> torch.device:
    """Return this rank's device; InputError on every rank, if one has none."""
    import torch

    from mpisim.learning.device import choose_device
    from mpisim.ranks.messages import first_word

    device, reason = torch.device("cpu"), ""
    try:
        device = choose_device(wanted, local_rank)
    except InputError as error:
        reason = str(error)
    reason = first_word(comm, waiting, reason)
    if reason:
        raise InputError(reason)
    return device


def _trace(rank: StagedRound, number: int, device: torch.device, path: Path) -> None:
    """Play one round; write what rank 0 did, on the host and on its device, as a Chrome trace."""
    from torch.profiler import ProfilerActivity, profile, record_function

    from mpisim.learning.device import synchronize

    if number != 0:
        rank.begin()
        rank.round()
        return
    of_device = {"cuda": [ProfilerActivity.CUDA], "xpu": [ProfilerActivity.XPU]}.get(device.type, [])
    with profile(activities=[ProfilerActivity.CPU, *of_device]) as profiler:
        rank.begin()
        rank.round(named=record_function)
        synchronize(device)
    profiler.export_chrome_trace(str(path))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on one of the two ranks; return the exit code."""
    parser = OneLineParser(prog=f"mpiexec -n 2 python -m {__spec__.name}", description="Two ranks test and exchange.")
    add_options(parser)
    parser.add_argument("--repeats", type=at_least_one, default=REPEATS, metavar="N", help=f"turns of each ({REPEATS})")

    def examined() -> None:
        options = parser.parse_args(arguments)
        if options.trace is not None:
            check_writable(Path(options.trace), "--trace")
        found = examine(options)
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
