"""The paper's figures, and some more, from whatever logs are given.

A figure is made by one function, which returns matplotlib's object, or None where the logs have nothing for it. They
are in the files ``figure_….py``; here they have their file names, and are written.
"""

from __future__ import annotations

import functools
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpisim.analysis.figure_bars import ood_auc_bars, relative_difference_bars
from mpisim.analysis.figure_curves import curves, time_split
from mpisim.analysis.figure_graphs import graphs, same_but_strategy
from mpisim.analysis.figure_influence import arrival_rounds, influence, mixing
from mpisim.analysis.figure_trends import trend
from mpisim.analysis.outputs import replacing
from mpisim.analysis.runs import Run, load_runs
from mpisim.errors import InputError, unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 12  # logs that each have figures of their own; and figures of graphs
DOTS_PER_INCH = 160
LONGEST_NAME = 150  # characters; file systems take 255 bytes
# What a file says of itself beside its picture; without the date, the same logs give the same file.
METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "png": {}, "pdf": {"CreationDate": None}}

# File name, the function that makes the figure, and what it needs.
OF_RUNS: dict[str, tuple[Callable[[Sequence[Run]], Figure | None], str]] = {
    "ood_auc": (ood_auc_bars, "a run with OOD accuracies"),
    "relative_difference": (relative_difference_bars, "a run with IID and OOD accuracies"),
    "degree_rank": (
        functools.partial(trend, name="degree_rank"),
        "runs that differ in the degree rank of the OOD node",
    ),
    "total_degree": (
        functools.partial(trend, name="total_degree"),
        "topologies of as many nodes that differ in their total degree, by more than the seed",
    ),
    "modularity": (
        functools.partial(trend, name="modularity"),
        "topologies of as many nodes that differ in their modularity, by more than the seed",
    ),
    "num_nodes": (
        functools.partial(trend, name="num_nodes"),
        "topologies of one kind that differ in their number of nodes",
    ),
}
OF_A_LOG: dict[str, tuple[Callable[[Path], Figure | None], str]] = {
    "curves": (curves, "a round with accuracies"),
    "mixing_matrix": (mixing, "weights that follow from the topology, not from the models"),
    "time": (time_split, "a round"),
    "influence": (influence, "an OOD node, OOD accuracies in a round, and weights that follow from the topology"),
    "arrival": (arrival_rounds, "an OOD node, OOD accuracies in a round, and another node in its reach"),
}


def write_figures(
    paths: Iterable[str | Path],
    out: Path,
    formats: Sequence[str] = ("svg", "png"),
    say: Callable[[str], object] | None = None,
) -> list[Path]:
    """Write every figure that some logs can give; return the files. Those of the same name are replaced.

    Parameters
    ----------
    paths : of logs, of runs that are complete or not
    out : Path
        The folder for the figures; made if it is not there.
    formats : of "svg", "png" and "pdf"
    say : function of a line
        Is told which figures are left out, and why; by default, stderr is.

    Raises
    ------
    InputError
        If a file is no log, or one of the logs would be replaced, or there is no such format, or the folder cannot be
        written, or matplotlib is not installed.
    """
    for name in formats:
        if name not in METADATA:
            raise unknown_name("format", name, METADATA)
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise InputError("figures need matplotlib: pip install 'mpisim[report]'") from error
    out, runs = Path(out), load_runs(paths)
    _check(out, runs, formats)
    # The salt makes the names within an SVG file the same each time; a dollar sign in a name is no formula.
    with matplotlib.rc_context({"svg.hashsalt": "mpisim", "text.parse_math": False}):
        return [
            _written(figure, out / f"{name}.{ending}", ending)
            for name, figure in _figures(runs, say or functools.partial(print, file=sys.stderr))
            for ending in formats
        ]


def _check(out: Path, runs: list[Run], formats: Sequence[str]) -> None:
    if not runs:
        raise InputError("figures need a log to show")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is no folder: figures are several files")
    for run in runs:
        if run.path.resolve().parent == out.resolve() and run.path.suffix[1:] in formats:
            raise InputError(f"{run.path}: is a log that a figure could replace: write the figures to another folder")


def _written(figure: Figure, path: Path, ending: str) -> Path:
    with replacing(path) as successor:
        metadata = METADATA[ending] | {"Title": path.stem}
        figure.savefig(successor, format=ending, dpi=DOTS_PER_INCH, metadata=metadata)
    return path


def _figures(runs: list[Run], say: Callable[[str], object]) -> Iterator[tuple[str, Figure]]:
    """Make the figures one after the other; yield each with its name."""
    yield from _graphs(runs, say)
    for name, (make, needs) in OF_RUNS.items():
        figure = make(runs)
        if figure is None:
            say(f"left out: {name} (needs {needs})")
        else:
            yield name, figure
    if len(runs) > MOST:
        say(f"left out: {', '.join(OF_A_LOG)} (each is of one run: give {MOST} logs at most, not {len(runs):,})")
        return
    names = _unique([run.path.stem for run in runs])
    for name, (make_one, needs) in OF_A_LOG.items():
        without = []
        for of_run, run in zip(names, runs, strict=True):
            figure = make_one(run.path)
            if figure is None:
                without.append(of_run)
            else:
                yield name if len(runs) == 1 else f"{name}-{of_run}", figure
        if without:
            of_runs = "" if len(runs) == 1 else f" of {', '.join(without)}"
            say(f"left out: {name}{of_runs} (needs {needs})")


def _graphs(runs: list[Run], say: Callable[[str], object]) -> Iterator[tuple[str, Figure]]:
    """Make the figures of graphs, those that compare the most strategies first."""
    groups = sorted(same_but_strategy(runs), key=lambda group: -len(group[1]))
    if not groups:
        say("left out: graphs (needs a round)")
    if len(groups) > MOST:
        say(f"left out: {len(groups) - MOST:,} more figures of graphs ({MOST} at most)")
    names = _unique([_name_of(members[0]) for _, members in groups[:MOST]])
    for name, (shared, members) in zip(names, groups, strict=False):
        figure = graphs(members, shared)
        if figure is not None:
            yield "graphs" if len(groups) == 1 else f"graphs-{name}", figure


def _name_of(run: Run) -> str:
    """Return what tells the graphs of a run, and of those that differ in their strategy alone, from others in short."""
    return _file_name(f"{run.option('topology')} {run.dataset} seed{run.option('seed')} {run.placement}")


def _file_name(text: str) -> str:
    """Return a text as the name of a file.

    >>> _file_name("ba:n=16,m=2,seed=0 digits seed1 OOD at node 3")
    'ba-n16-m2-seed0-digits-seed1-OOD-at-node-3'
    """
    words = re.findall(r"[\w.]+", re.sub(r"\S*/", "", text).replace("=", ""))
    return "-".join(words)[:LONGEST_NAME]


def _unique(names: Sequence[str]) -> list[str]:
    """Return names of which no two are equal: a number is added to those that were there before.

    >>> _unique(["run", "run", "run-2"])
    ['run', 'run-2', 'run-2-2']
    """
    found: list[str] = []
    for name in names:
        numbers = itertools.count(2)
        unique = name
        while unique in found:
            unique = f"{name}-{next(numbers)}"
        found.append(unique)
    return found
