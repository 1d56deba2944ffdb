"""Training: mpisim against the plain loop (``plain.py``), on the same data and the same number of cores, without a GPU.

Both start, load, train, test, aggregate and end; mpisim also logs, and tests once more after the last aggregation.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from mpisim.bench.images import write_mnist
from mpisim.bench.processes import IID, OOD, REST, ROUNDS, WHOLE, on_ranks, run, simulate
from mpisim.bench.timing import Comparison, Figures, Report, Series, alternate, at_least_one

HELP = "mpisim against a plain loop over nodes, whole process and time in rounds"
PLAIN, OURS = "plain loop", "mpisim"
NUM_TRAIN, NUM_TEST = 4_000, 1_000  # images of MNIST's form


@dataclass(frozen=True)
class Case:
    """What both contenders simulate, with the data set's recipe; targets of the ratio by what is timed."""

    dataset: str
    topology: str
    rounds: int
    epochs: int
    targets: dict[str, float] = field(default_factory=dict)


CASES = {
    "mnist-33": Case("mnist", "ba:n=33,m=2,seed=0", 2, 5, {WHOLE: 0.70}),
    "mnist-8": Case("mnist", "ba:n=8,m=2,seed=0", 2, 5, {WHOLE: 0.62}),
    "digits-33": Case("digits", "ba:n=33,m=2,seed=0", 20, 5, {WHOLE: 0.45, ROUNDS: 0.10}),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), help="what to simulate (all)")
    parser.add_argument(
        "--cores", type=at_least_one, default=2, metavar="N", help="the plain loop's threads, and mpisim's ranks (2)"
    )
    parser.add_argument("--rounds", type=at_least_one, metavar="N", help="in place of each case's (2, 2, 20)")
    parser.add_argument("--epochs", type=at_least_one, metavar="N", help="in place of each case's (5)")


def measure(options: argparse.Namespace) -> Report:
    """Run the bench."""
    on_ranks(options.cores)  # if there is no mpiexec, say so before the plain loop has run
    report = Report(PLAIN, OURS, [])
    with tempfile.TemporaryDirectory(prefix="mpisim-bench-") as name:
        folder = Path(name)
        if any(CASES[case].dataset == "mnist" for case in options.case):
            source = write_mnist(folder, NUM_TRAIN, NUM_TEST)
            report.notes.append(f"mnist: {NUM_TRAIN:,} and {NUM_TEST:,} {source}")
        for case in dict.fromkeys(options.case):
            series = _measure_case(case, options, folder)
            for figure in (WHOLE, ROUNDS):
                target = CASES[case].targets.get(figure)
                report.comparisons.append(
                    Comparison(f"{case}, {figure}", series[PLAIN][figure], series[OURS][figure], target)
                )
            report.notes.append(f"{case}: {_accuracies(series)}")
            shares = [rest / rounds for rest, rounds in zip(series[OURS][REST], series[OURS][ROUNDS], strict=True)]
            report.notes.append(f"{case}: {REST}: {100 * median(shares):.1f} % of mpisim's rounds")
            report.figures[case] = {
                contender: {key: each[key] for key in (IID, OOD)} for contender, each in series.items()
            }
    return report


def _measure_case(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Series]:
    case = CASES[name]
    rounds, epochs = options.rounds or case.rounds, options.epochs or case.epochs
    common = ["--dataset", case.dataset, "--data-dir", str(folder), "--no-download", "--topology", case.topology]
    common += ["--rounds", str(rounds), "--epochs", str(epochs), "--device", "cpu"]

    def plain() -> Figures:
        command = [sys.executable, "-m", "mpisim.bench.plain", *common, "--threads", str(options.cores)]
        seconds, done = run(command, folder)
        found: Figures = json.loads(done.stdout)
        return {WHOLE: seconds} | found

    def ours() -> Figures:
        return simulate(folder, options.cores, *common, "--threads", "1", "--quiet")

    return alternate({PLAIN: plain, OURS: ours}, options.repeats, name)


def _accuracies(series: dict[str, Series]) -> str:
    """Return both contenders' accuracies side by side: about equal, if both did the same work."""
    return "; ".join(
        f"{figure} {series[PLAIN][figure][-1]:.4f} ({PLAIN}), {series[OURS][figure][-1]:.4f} ({OURS})"
        for figure in (IID, OOD)
    )
