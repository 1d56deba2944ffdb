"""Scaling: the time of a node in a round, with ten and a hundred times as many nodes.

Each node has as many samples, so it has as much to do; what grows beyond that is what many nodes cost.

    mpiexec -n 2 python -m mpisim.bench.scaling --nodes 330 --topology ring:n=330 --output run.h5   # what it starts
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mpisim.arguments import OneLineParser
from mpisim.bench.processes import ROUNDS, simulate
from mpisim.bench.timing import SECONDS, Comparison, Figures, Report, alternate, at_least_one
from mpisim.config import Config
from mpisim.data.datasets import DATASETS
from mpisim.data.labeled import Labeled
from mpisim.errors import InputError, line_of
from mpisim.libraries import prepare_libraries

HELP = "the time of a node in a round, with more and more nodes"
TARGET = 1.15
SAMPLES_PER_NODE, NUM_TEST = 48, 360
TOPOLOGIES = {"ring": "ring:n={}", "ba": "ba:n={},m=2,seed=0"}
GENERATED = "generated-digits"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    parser.add_argument(
        "--nodes", type=at_least_one, nargs="+", default=[33, 330, 3300], metavar="N", help="(33 330 3300)"
    )
    parser.add_argument("--ranks", type=at_least_one, nargs="+", default=[1, 2], metavar="N", help="(1 2)")
    parser.add_argument("--topology", nargs="+", choices=TOPOLOGIES, default=list(TOPOLOGIES), help="(both)")
    _add_sizes(parser)


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=at_least_one, default=5, metavar="N", help="(5)")
    parser.add_argument("--epochs", type=at_least_one, default=5, metavar="N", help="in each round (5)")


def measure(options: argparse.Namespace) -> Report:
    """Run the bench."""
    fewest, *more = sorted(set(options.nodes))
    if not more:
        raise InputError(f"--nodes {fewest}: is compared with nothing: give two numbers or more")
    comparisons = []
    with tempfile.TemporaryDirectory(prefix="mpisim-bench-") as name:
        for topology in dict.fromkeys(options.topology):
            for ranks in dict.fromkeys(options.ranks):
                title = f"{topology}, {ranks} rank{'s' * (ranks > 1)}"
                contenders = {
                    str(nodes): _contender(Path(name), topology, nodes, ranks, options) for nodes in (fewest, *more)
                }
                series = alternate(contenders, options.repeats, title)
                comparisons += [
                    Comparison(
                        f"{title}, {nodes} nodes", series[str(fewest)][SECONDS], series[str(nodes)][SECONDS], TARGET
                    )
                    for nodes in more
                ]
    note = f"seconds of a node and round: {SAMPLES_PER_NODE} samples, --epochs {options.epochs}, {NUM_TEST} test images"
    return Report(f"{fewest} nodes", "more nodes", comparisons, [note])


def _contender(
    folder: Path, topology: str, nodes: int, ranks: int, options: argparse.Namespace
) -> Callable[[], Figures]:
    arguments = ["--nodes", str(nodes), "--topology", TOPOLOGIES[topology].format(nodes)]
    arguments += ["--rounds", str(options.rounds), "--epochs", str(options.epochs)]

    def contender() -> Figures:
        figures = simulate(folder, ranks, *arguments, module=__name__)
        return {SECONDS: figures[ROUNDS] / (nodes * options.rounds)}

    return contender


def register(num_nodes: int) -> None:
    """Make generated data of digits' form known to mpisim in this process: enough for some nodes."""

    def load(data_dir: Path, download: bool) -> tuple[Labeled, Labeled]:  # noqa: ARG001
        return generated(SAMPLES_PER_NODE * num_nodes), generated(NUM_TEST)

    DATASETS[GENERATED] = replace(DATASETS["digits"], load=load)


def generated(count: int) -> Labeled:
    """Return some images of random pixels, as many of each label."""
    rng = np.random.default_rng(0)
    return Labeled(rng.integers(0, 17, (count, 1, 8, 8), dtype=np.uint8), np.arange(count) % 10)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one simulation on the ranks of this job; return the exit code."""
    prepare_libraries()
    from mpi4py import MPI

    from mpisim.simulation import Simulation

    parser = OneLineParser(prog=f"python -m {__spec__.name}", description="Simulate on generated data.")
    parser.add_argument("--nodes", type=at_least_one, required=True, metavar="N", help="to have samples for")
    parser.add_argument("--topology", required=True, help="of so many nodes")
    parser.add_argument("--output", required=True, metavar="FILE.h5", help="the log")
    _add_sizes(parser)
    try:
        given = vars(parser.parse_args(arguments))
        register(given.pop("nodes"))
        Simulation(Config(dataset=GENERATED, threads=1, device="cpu", quiet=True, **given), MPI.COMM_WORLD).run()
    except InputError as error:
        if MPI.COMM_WORLD.rank == 0:
            print(line_of(error), file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    code = main()

    from mpisim.ranks.startup import end

    end(code)
