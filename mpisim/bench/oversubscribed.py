"""Oversubscribed: a rank for every node, however few cores there are, against as many ranks as cores."""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from mpisim.bench.processes import ROUNDS, WHOLE, simulate
from mpisim.bench.timing import Comparison, Report, alternate, at_least_one, usable_cores
from mpisim.errors import InputError

HELP = "more ranks than cores against as many as cores"
TARGETS = {ROUNDS: 1.6, WHOLE: None}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    parser.add_argument("--ranks", type=at_least_one, default=24, metavar="N", help="and as many nodes (24)")
    parser.add_argument("--against", type=at_least_one, metavar="N", help="ranks to compare with (the cores)")
    parser.add_argument("--rounds", type=at_least_one, default=20, metavar="N", help="(20)")


def measure(options: argparse.Namespace) -> Report:
    """Run the bench."""
    few, many = options.against or usable_cores(), options.ranks
    if many <= few:
        raise InputError(f"--ranks {many}: to be too many they must be more than {few}: take {few + 1} or more")
    names = {ranks: f"{ranks} rank{'s' * (ranks > 1)}" for ranks in (few, many)}
    config = [
        "--topology",
        f"ba:n={many},m=2,seed=0",
        "--rounds",
        str(options.rounds),
        "--threads",
        "1",
        "--engine",
        "sequential",
    ]
    with tempfile.TemporaryDirectory(prefix="mpisim-bench-") as folder:
        contenders = {
            name: partial(simulate, Path(folder), ranks, *config, "--device", "cpu", "--quiet")
            for ranks, name in names.items()
        }
        series = alternate(contenders, options.repeats, "oversubscribed")
    comparisons = [
        Comparison(figure, series[names[few]][figure], series[names[many]][figure], target)
        for figure, target in TARGETS.items()
    ]
    return Report(
        names[few], names[many], comparisons, [f"{many} nodes, {options.rounds} rounds; a thread for each rank"]
    )
