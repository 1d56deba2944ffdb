"""Start-up: a short run and the main job against ranks that only import torch and start MPI; and the slowest imports.

A rank cannot start faster than that. The table of imports is of one process that imports what a rank does; a module's
own time leaves out what the modules take that it imports itself.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from mpisim.bench.processes import on_ranks, run
from mpisim.bench.timing import SECONDS, Comparison, Figures, Report, alternate, at_least_one, plain_time, table

HELP = "a short run and the main job against ranks that only import torch"
IMPORTS, SHORT, MAIN = "imports only", "a short run", "the main job"
TARGETS = {SHORT: None, MAIN: 1.25}
NUM_SLOWEST = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    parser.add_argument("--ranks", type=at_least_one, default=24, metavar="N", help="(24)")
    parser.add_argument("--rounds", type=at_least_one, default=20, metavar="N", help="of the main job (20)")


def measure(options: argparse.Namespace) -> Report:
    """Run the bench."""
    mpisim_run = ["-m", "mpisim.run"]
    with tempfile.TemporaryDirectory(prefix="mpisim-bench-") as name:
        folder = Path(name)  # the runs' logs come to lie in its results/

        def contender(*arguments: str) -> Callable[[], Figures]:
            command = on_ranks(options.ranks, *arguments)
            return lambda: {SECONDS: run(command, folder)[0]}

        contenders = {
            IMPORTS: contender("-c", "import torch, mpi4py.MPI"),
            SHORT: contender(*mpisim_run, "--rounds", "1", "--epochs", "1", "--quiet"),
            MAIN: contender(*mpisim_run, "--rounds", str(options.rounds)),
        }
        series = alternate(contenders, options.repeats, "startup")
        _, done = run([sys.executable, "-X", "importtime", "-c", "import mpisim.simulation"], folder)
    slowest = slowest_imports(done.stderr)
    rows = [["import", "own time", "with its imports"]]
    rows += [[module, plain_time(own), plain_time(whole)] for module, own, whole in slowest]
    comparisons = [
        Comparison(
            f"{name}, {options.ranks} rank{'s' * (options.ranks > 1)}",
            series[IMPORTS][SECONDS],
            series[name][SECONDS],
            target,
        )
        for name, target in TARGETS.items()
    ]
    return Report(IMPORTS, "mpisim", comparisons, ["", *table(rows)], {"slowest_imports": slowest})


def slowest_imports(printed: str) -> list[tuple[str, float, float]]:
    r"""Return the modules that took longest to import, by what ``python -X importtime`` printed.

    Returns
    -------
    list of (module, its own seconds, its seconds with all that it imported), the slowest by itself first

    >>> slowest_imports("import time: self [us] | cumulative | imported package\nimport time:  250 |  900 |   json\n")
    [('json', 0.00025, 0.0009)]
    """
    found = re.findall(r"^import time: +(\d+) \| +(\d+) \| +(\S+)$", printed, re.MULTILINE)
    times = [(module, int(own) / 1e6, int(whole) / 1e6) for own, whole, module in found]
    return sorted(times, key=lambda each: -each[1])[:NUM_SLOWEST]
