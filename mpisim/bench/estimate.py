"""Estimate: what ``--estimate`` says of a run, against the run itself, on several numbers of ranks.

The estimate and the runs take turns, so that both find the machine in the same mood. The ratio is measured / estimated.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from mpisim.bench.processes import ROUNDS, WHOLE, simulate
from mpisim.bench.timing import Comparison, Figures, Report, alternate, at_least_one
from mpisim.libraries import prepare_libraries

HELP = "a run against its estimate"
ESTIMATE = "estimate"
OF_ROUNDS = ("train", "test", "exchange", "mix", "log")  # what the log has the seconds of


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    parser.add_argument("--ranks", type=at_least_one, nargs="+", default=[1, 2, 4], metavar="N", help="(1 2 4)")
    parser.add_argument("--topology", default="ba:n=24,m=2,seed=0", help="(ba:n=24,m=2,seed=0)")
    parser.add_argument("--rounds", type=at_least_one, default=20, metavar="N", help="(20)")
    parser.add_argument("--epochs", type=at_least_one, default=5, metavar="N", help="in each round (5)")


def measure(options: argparse.Namespace) -> Report:
    """Run the bench."""
    all_ranks = list(dict.fromkeys(options.ranks))
    config = {"topology": options.topology, "rounds": options.rounds, "epochs": options.epochs, "device": "cpu"}
    flags = [part for name, value in config.items() for part in (f"--{name}", str(value))]
    names = {ranks: f"{ranks} rank{'s' * (ranks > 1)}" for ranks in all_ranks}
    with tempfile.TemporaryDirectory(prefix="mpisim-bench-") as folder:
        contenders: dict[str, Callable[[], Figures]] = {
            ESTIMATE: partial(_estimated, config | {"output": str(Path(folder) / "run.h5")}, names)
        }
        contenders |= {name: partial(simulate, Path(folder), ranks, *flags, "--quiet") for ranks, name in names.items()}
        series = alternate(contenders, options.repeats, "estimate")
    comparisons = [
        Comparison(f"{name}, {figure}", series[ESTIMATE][f"{name}, {figure}"], series[name][figure])
        for name in names.values()
        for figure in (WHOLE, ROUNDS)
    ]
    return Report(
        "estimated",
        "measured",
        comparisons,
        [f"{options.topology}, {options.rounds} rounds", *_errors(comparisons)],
        {"estimated": series[ESTIMATE]},
    )


def _estimated(config: Mapping[str, object], names: Mapping[int, str]) -> Figures:
    """Return what the estimate says of each number of ranks: seconds of the whole process, and of its rounds."""
    prepare_libraries()
    from mpisim.config import Config
    from mpisim.estimate.of_run import estimate_run

    estimates, _ = estimate_run(Config(**config, estimate=tuple(names)))  # type: ignore[arg-type]
    found = {}
    for each in estimates:
        found[f"{names[each.ranks]}, {WHOLE}"] = each.total
        found[f"{names[each.ranks]}, {ROUNDS}"] = sum(each.seconds[part] for part in OF_ROUNDS)
    return found


def _errors(comparisons: list[Comparison]) -> list[str]:
    """Return a line for each comparison: how far the estimate is from what was measured, in percent of that."""
    return [
        f"error of the estimate, {each.what}: {100 * (1 / each.ratio - 1):+.0f} %"
        f" ({100 * (1 / statistics.median(each.ratios) - 1):+.0f} % in the median turn)"
        for each in comparisons
    ]
