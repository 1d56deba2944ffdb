"""Timing: contenders take turns, ratios of their medians, a table for people and every figure as JSON.

On a machine that others use too, or whose clock speed drifts, two contenders are only comparable if they run close
together: so they alternate (A B A B …), and beside the ratio of the medians stands the range of the turns' own ratios.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpisim.errors import InputError

Figures = dict[str, float]  # what one turn of one contender found, by name
Series = dict[str, list[float]]  # the same of all turns

SECONDS = "seconds"
REPEATS = 5
LIBRARIES = ("mpi4py", "mpisim", "numpy", "torch")


def timed(work: Callable[[], object]) -> Callable[[], Figures]:
    """Return the contender that does some work in this process."""

    def contender() -> Figures:
        started = time.perf_counter()
        work()
        return {SECONDS: time.perf_counter() - started}

    return contender


def alternate(contenders: Mapping[str, Callable[[], Figures]], repeats: int, name: str) -> dict[str, Series]:
    """Let contenders take turns: each once, in their order, then all once more.

    Parameters
    ----------
    repeats : int
        Turns of each.
    name : str
        What the progress lines on standard error start with.

    Returns
    -------
    of each contender, by name: its figures, by name, turn by turn
    """
    series: dict[str, Series] = {contender: {} for contender in contenders}
    for turn in range(1, repeats + 1):
        for contender, run in contenders.items():
            for figure, value in run().items():
                series[contender].setdefault(figure, []).append(value)
            print(f"{name}: {contender}, {turn} of {repeats}", file=sys.stderr, flush=True)
    return series


@dataclass(frozen=True)
class Comparison:
    """Two contenders' seconds, turn by turn.

    Attributes
    ----------
    what : str
        What was timed, for people.
    against, measured : of each turn, the seconds of what mpisim is compared with, and of mpisim
    target : float or None
        The ratio to reach.
    """

    what: str
    against: Sequence[float]
    measured: Sequence[float]
    target: float | None = None

    @property
    def ratios(self) -> list[float]:
        """The ratio of each turn: measured / against."""
        return [mine / other for mine, other in zip(self.measured, self.against, strict=True)]

    @property
    def ratio(self) -> float:
        """The ratio of the medians; it lies within the range of the turns' ratios."""
        return statistics.median(self.measured) / statistics.median(self.against)


@dataclass(frozen=True)
class Report:
    """What a bench found.

    Attributes
    ----------
    against, measured : what the table's columns of seconds are headed
    comparisons : the table's rows
    notes : lines below the table
    figures : further figures for the JSON file, as JSON can hold them
    failed : bool
        Whether it found something wrong: the command then ends with code 1.
    """

    against: str
    measured: str
    comparisons: list[Comparison]
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    failed: bool = False

    def as_text(self) -> str:
        """Return the table, and the notes below it."""
        rows = [["", self.against, self.measured, "ratio", "range", "target"]]
        for each in self.comparisons:
            medians = [plain_time(statistics.median(seconds)) for seconds in (each.against, each.measured)]
            span = f"{min(each.ratios):.2f}–{max(each.ratios):.2f}"
            target = "–" if each.target is None else f"{each.target:.2f}"
            rows.append([each.what, *medians, f"{each.ratio:.2f}", span, target])
        return "\n".join([*table(rows), *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """Return all that was found as JSON can hold it."""
        comparisons = [
            {
                "what": each.what,
                "against": self.against,
                "measured": self.measured,
                "against_seconds": list(each.against),
                "measured_seconds": list(each.measured),
                "ratios": each.ratios,
                "ratio_of_medians": each.ratio,
                "median_of_ratios": statistics.median(each.ratios),
                "target": each.target,
            }
            for each in self.comparisons
        ]
        return {"comparisons": comparisons, "notes": self.notes, "figures": self.figures}


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of text as lines: the first column flush left, the others flush right.

    >>> table([["", "seconds"], ["mix", "1.5"]])
    ['     seconds', 'mix      1.5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip() for first, *others in rows
    ]


def plain_time(seconds: float) -> str:
    """Return a time with three digits.

    >>> plain_time(123.4), plain_time(1.5), plain_time(0.0123), plain_time(4.5e-6)
    ('123 s', '1.50 s', '12.3 ms', '4.50 µs')
    """
    unit, value = next(
        (unit, seconds * scale)
        for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6))
        if seconds * scale >= 1 or scale == 1e6
    )
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def machine() -> dict[str, str | int | float]:
    """Return where the figures come from, and how busy it is: the load average of the last minute."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "unknown"
    return {
        "system": platform.platform(),
        "cores": usable_cores(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        **versions,
    }


def usable_cores() -> int:
    """Return how many cores this process may use; ``ranks.startup`` knows too, but to import it starts MPI."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_writable(path: Path, flag: str = "--json") -> None:
    """Find out whether the file of an option can be written, before anything is measured and without a trace.

    Raises
    ------
    InputError
    """
    if path.is_dir():
        raise InputError(f"{flag} {path}: is a folder: name a file in it")
    target = path if path.exists() else path.absolute().parent
    if not os.access(target, os.W_OK):
        raise InputError(f"{flag} {path}: {target} cannot be written: name another file")


def write_json(path: Path, bench: str, options: dict[str, Any], where: dict[str, Any], report: Report) -> None:
    """Write all that a bench found, how it was asked, and where it ran.

    Parameters
    ----------
    where : what ``machine`` returned before the bench began

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    content = {"bench": bench, "options": options, "machine": where, **report.as_dict()}
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--json {path}: cannot be written: {error.strerror}") from error


def at_least_one(text: str) -> int:
    """Return an option's number; argparse tells a person what is wrong with it.

    >>> at_least_one("3")
    3
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer, 1 or more")
    return number
