"""The commands that look at logs: their options, and which function of the analysis each calls.

``summary`` and ``compare`` tell a log that cannot be read on stderr, in one line, and show the others; they then return
False. The other commands show all logs or none.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mpisim.analysis import compare, outputs, summary, table
from mpisim.errors import InputError, line_of, unknown_name

STDOUT = "-"
QUANTITIES, RECALL = {"iid": "iid_accuracy", "ood": "ood_accuracy"}, "recall:"
Read = TypeVar("Read")


@dataclass(frozen=True)
class Command:
    """A command: what it shows in a few words, what adds its options to a parser, and what does it."""

    name: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], object]
    run: Callable[[argparse.Namespace], bool | None]


def _logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", nargs="+", metavar="LOG", help="a run's log, complete or not")


def _logs_and_data(parser: argparse.ArgumentParser) -> None:
    _logs(parser)
    for kind in ("csv", "json"):
        parser.add_argument(f"--{kind}", metavar="FILE", help=f"write the figures as {kind.upper()}; - is stdout")


def _summary(options: argparse.Namespace) -> bool:
    """Show one log in detail, or several with a line each."""
    _check_data_files(options)
    if len(options.logs) == 1 and not _wants_data(options):
        found = summary.summarize(options.logs[0])
        print(f"{found.path}: {found.title} ({found.status})")
        print(summary.as_text(found))
        return True
    rows = _readable(options.logs, table.row)
    if rows and not _write_data(options, rows, table.COLUMNS, rows):
        summary.show(rows)
    return len(rows) == len(options.logs)


def _compare(options: argparse.Namespace) -> bool:
    """Show the groups of runs, and what they say together."""
    _check_data_files(options)
    paths = list({os.path.realpath(path): path for path in reversed(options.logs)}.values())[::-1]  # each file once
    runs = _readable(paths, compare.load)
    if runs:
        found = compare.compare(runs)
        rows = compare.as_rows(found)
        if not _write_data(options, rows, list(rows[0]), compare.as_dict(found)):
            compare.show(found)
    return len(runs) == len(paths)


def _readable(paths: Sequence[str], read: Callable[[str], Read]) -> list[Read]:
    """Return what is read of each log; one that cannot be read is told on stderr."""
    found = []
    for path in paths:
        try:
            found.append(read(path))
        except InputError as error:
            print(line_of(error), file=sys.stderr)
    return found


def _wants_data(options: argparse.Namespace) -> bool:
    return options.csv is not None or options.json is not None


def _check_data_files(options: argparse.Namespace) -> None:
    if options.csv == options.json == STDOUT:
        raise InputError("--csv - and --json -: give one of them a file")
    for out in (options.csv, options.json):
        if out not in (None, STDOUT):
            outputs.check_output(out, options.logs)


def _write_data(options: argparse.Namespace, rows: Sequence[Any], columns: Sequence[str], content: Any) -> bool:
    """Write what --csv and --json ask for; return whether stdout is taken by it."""
    texts: dict[str, Callable[[], str]] = {
        "csv": lambda: table.as_csv(rows, columns),
        "json": lambda: table.as_json(content),
    }
    for kind, text in texts.items():
        out = getattr(options, kind)
        if out == STDOUT:
            sys.stdout.write(text())
        elif out is not None:
            outputs.write_text(out, text())
    return STDOUT in (options.csv, options.json)


def _figures_options(parser: argparse.ArgumentParser) -> None:
    _logs(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder that they go to")
    parser.add_argument(
        "--format", nargs="+", default=["svg", "png"], choices=["svg", "png", "pdf"], help="of the files (svg png)"
    )


def _figures(options: argparse.Namespace) -> None:
    from mpisim.analysis.figures import write_figures

    for path in write_figures(options.logs, Path(options.out), tuple(options.format)):
        print(path)


def _animate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="a run's log, complete or not")
    parser.add_argument("--out", required=True, metavar="FILE", help="….gif, ….mp4")
    parser.add_argument(
        "--show", default="iid", metavar="iid|ood|recall:LABEL", help="what colors a node: an accuracy, or recall (iid)"
    )
    parser.add_argument("--fps", type=float, metavar="X", help="rounds a second")


def _animate(options: argparse.Namespace) -> None:
    from mpisim.analysis.animation import animate

    if options.show not in QUANTITIES and not options.show.startswith(RECALL):
        raise unknown_name("quantity", options.show, [*QUANTITIES, f"{RECALL}LABEL"])
    outputs.check_output(options.out, [options.log])
    speed = {} if options.fps is None else {"fps": options.fps}
    animate(options.log, Path(options.out), quantity=QUANTITIES.get(options.show, options.show), **speed)
    print(options.out)


def _page_options(parser: argparse.ArgumentParser) -> None:
    _logs(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="….html")


def _page(options: argparse.Namespace) -> None:
    from mpisim.analysis.page import write_page
    from mpisim.config import Config

    outputs.check_output(options.out, options.logs)
    write_page(options.logs, Path(options.out), Config().as_dict())
    print(options.out)


def _watch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="LOG", help="the log of a run that goes on")
    parser.add_argument("--once", action="store_true", help="show how it stands, and end")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two looks (1)")


def _watch(options: argparse.Namespace) -> None:
    from mpisim.analysis.watch import watch

    watch(options.log, once=options.once, interval=options.interval)


COMMANDS = (
    Command("summary", "how each run ended, and where its time went", _logs_and_data, _summary),
    Command("compare", "means over seeds, what the topology brings, what W predicts", _logs_and_data, _compare),
    Command("figures", "the paper's figures, from whatever logs are given", _figures_options, _figures),
    Command("animate", "the topology over the rounds, its nodes colored", _animate_options, _animate),
    Command("page", "one HTML file to look at, with all that it needs in it", _page_options, _page),
    Command("watch", "how a run that goes on stands", _watch_options, _watch),
)
