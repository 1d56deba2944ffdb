"""A run in the terminal while it goes on.

Only its log is looked at, so the run takes no notice: it replaces its log by one that is a round longer each time, and
whoever opens it meets a whole one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpisim.analysis.progress import Look, look
from mpisim.errors import InputError
from mpisim.units import plain_bytes, plain_seconds

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", ".:-=+*#@"
WIDE = 72  # columns, from which on the extreme nodes fit beside a sparkline
LONGEST_SPARKLINE = 40
GAP = 2  # columns between those of a table
COLORS = {"running": "cyan", "complete": "green", "interrupted": "yellow"}
UNLIKELY = 1e9  # seconds
PATIENCE = 60.0  # seconds without a round, beyond three rounds' time, until a person should have a look


def watch(path: str | Path, once: bool = False, interval: float = 1.0) -> None:
    """Show how a run stands, again and again, until it is complete or interrupted, or Ctrl-C is pressed.

    Waits for a log that is not there yet. Where the output is no terminal, only the last frame is printed.

    Parameters
    ----------
    once : bool
        Whether to print one frame and return.
    interval : float
        Seconds between two looks.

    Raises
    ------
    InputError
        If it is no log; with ``once``, also if there is none yet.
    """
    from rich.console import Console

    if not 0 < interval < float("inf"):
        raise InputError(f"the interval between two looks is {interval} s: it must be positive")
    console = Console(highlight=False)
    if once:
        console.print(frame(path))
        return
    with contextlib.suppress(KeyboardInterrupt):
        _follow(Path(path), console, lambda: time.sleep(interval))


def _follow(path: Path, console: Console, pause: Callable[[], object]) -> None:
    from rich.live import Live
    from rich.text import Text

    is_shown = False
    try:
        with Live(console=console, auto_refresh=False) as live:
            console.show_cursor(True)  # who is killed must not leave a terminal without one
            for found in looks(path, pause):
                waiting = Text(f"no log yet, waiting for {_printable(str(path), console.options.ascii_only)}")
                live.update(waiting if found is None else Frame(found, time.time()), refresh=True)
                is_shown = True
    finally:
        if is_shown and not console.is_terminal:
            console.line()  # rich ends the last line in a terminal only


def looks(path: Path, pause: Callable[[], object]) -> Iterator[Look | None]:
    """Yield what a log says of its run, after each pause again, to the run's end; None while there is no log.

    A log is read again only if the file is another one.

    Parameters
    ----------
    pause : called between two looks

    Raises
    ------
    InputError
        If the file is no log.
    """
    found, seen = None, None
    while True:
        file = _identity(path)
        if file is None:
            found = None
        elif file != seen:
            found = look(path)
        seen = file
        yield found
        if found is not None and found.status != "running":
            return
        pause()


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return what tells a file from any other of its name; None if there is none."""
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be looked at: {error.strerror}") from error
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


def frame(path: str | Path, now: float | None = None) -> Frame:
    """Return what a log says of its run now, for rich to print.

    Parameters
    ----------
    now : float, optional
        The time, in seconds since 1970, for what is left of the run.

    Raises
    ------
    InputError
        If it is no log.
    """
    return Frame(look(path), time.time() if now is None else now)


@dataclass(frozen=True)
class Frame:
    """A look at a run, as rich prints it: in the width and the characters that its output has."""

    look: Look
    now: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts, from above."""
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        look, only = self.look, options.ascii_only
        color = COLORS.get(look.status, "")
        yield Text(_printable(look.title, only), style="bold")
        yield Text.assemble((look.status, color), f", round {look.num_rounds} of {look.wanted_rounds}{self._times()}")
        yield ProgressBar(max(look.wanted_rounds, 1), look.num_rounds, complete_style=color, finished_style=color)
        yield ""  # a bar does not end its line
        yield from self._metrics(options.max_width, only)
        yield from (Text(_printable(line, only)) for line in self._ranks())
        yield from (Text(_printable(line, only), style="yellow") for line in self._warnings())

    def _times(self) -> str:
        """Return the time that the rounds took, and will take."""
        took = self.look.round_seconds[np.isfinite(self.look.round_seconds)].sum()
        if self.look.num_rounds == 0:
            return ""
        if self.look.status != "running":
            return f", in {_time(took)}"
        return f", {_time(took)} so far, {_time(self.look.seconds_left(self.now))} left"

    def _metrics(self, width: int, ascii_only: bool) -> Iterator[RenderableType]:
        """Yield a table with a row for each metric; where it is narrow, its extreme nodes in a table of their own."""
        metrics = self.look.metrics
        columns = {
            "": [metric.name for metric in metrics],
            "last": [_figure(metric.last) for metric in metrics],
            "lowest node": [_extreme(metric.of_nodes, np.argmin, np.inf) for metric in metrics],
            "highest node": [_extreme(metric.of_nodes, np.argmax, -np.inf) for metric in metrics],
        }
        wide = width >= WIDE
        beside = list(columns) if wide else ["", "last"]
        left = width - sum(max(map(len, [name, *columns[name]])) + GAP for name in beside)
        lines = [
            sparkline(metric.over_rounds, min(left, LONGEST_SPARKLINE), metric.scale, ascii_only) for metric in metrics
        ]
        yield _table({name: columns[name] for name in beside} | {"over rounds": lines}, ascii_only)
        of_nodes = [metric.of_nodes is not None for metric in metrics]
        if any(of_nodes) and not wide:
            extremes = {name: columns[name] for name in ("", "lowest node", "highest node")}
            yield _table({name: list(compress(cells, of_nodes)) for name, cells in extremes.items()}, ascii_only)
        if self.look.after_aggregation:
            yield "(of the aggregated models)"
        yield ""

    def _ranks(self) -> Iterator[str]:
        slowest, num_bytes = self.look.slowest, self.look.bytes_sent
        if slowest is not None:
            where = f" on {slowest.host}" if slowest.host else ""
            more = "" if np.isnan(slowest.over_median) else f", {slowest.over_median:.0%} more than the median rank"
            yield f"slowest rank: {slowest.rank}{where}, works {slowest.seconds:.3g} s a round{more}"
        if num_bytes is not None:
            yield f"sent between ranks: {plain_bytes(num_bytes)} in the last round"

    def _warnings(self) -> Iterator[str]:
        if nodes := self.look.diverged:
            some = ", ".join(map(str, nodes[:5])) + ("" if len(nodes) <= 5 else f" and {len(nodes) - 5} more")
            yield f"the loss is no number at node {some}"
        silence, usual = self.now - self.look.written, self.look.seconds_a_round
        if self.look.status == "running" and silence > 3 * usual + PATIENCE:
            yield f"no round for {_time(silence)}, one takes {_time(usual)}: is the run still there?"


def sparkline(
    values: np.ndarray, width: int, scale: tuple[float, float] | None = None, ascii_only: bool = False
) -> str:
    """Return values as a line of blocks, in eight heights: one each or, if they are too many, one for several's mean.

    Parameters
    ----------
    values : float array, shape (num_values,)
        Where none is finite, there is a space.
    width : int
        The most characters that the line may have.
    scale : (float, float), optional
        The values below and above which there is no block; by default the least and the most of what is drawn.

    >>> sparkline(np.array([0, 1, 2, 3, 4, 5, 6, 7]), 8)
    '▁▂▃▄▅▆▇█'
    >>> sparkline(np.array([0, 0, 4, 6, np.nan, np.nan]), 3, (0, 8), ascii_only=True)
    '.* '
    """
    count = min(len(values), width)
    if count < 1:
        return ""
    drawn = np.array(
        [
            part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan
            for part in np.array_split(np.asarray(values, dtype=np.float64), count)
        ]
    )
    known = drawn[np.isfinite(drawn)]
    low, high = scale or (known.min(initial=np.inf), known.max(initial=-np.inf))
    heights = np.full(count, -1)
    heights[np.isfinite(drawn)] = np.clip((known - low) / (high - low) * 8, 0, 7) if high > low else 0
    blocks = (ASCII_BLOCKS if ascii_only else BLOCKS) + " "  # which is its last one, that of height -1
    return "".join(blocks[height] for height in heights)


def _time(seconds: float) -> str:
    """Return a time for people; one that no run can take, as a broken log may have it, in short."""
    return plain_seconds(seconds) if np.isnan(seconds) or seconds < UNLIKELY else f"{seconds:.3g} s"


def _figure(number: float) -> str:
    """Return a figure as text, a dash if there is none.

    >>> _figure(0.5), _figure(12.34), _figure(1234.0), _figure(np.nan)
    ('0.500', '12.3', '1.23e+03', '–')
    """
    if not np.isfinite(number):
        return "–"
    return f"{number:.3f}" if 0.01 <= abs(number) < 10 or number == 0 else f"{number:.3g}"


def _extreme(of_nodes: np.ndarray | None, place: Callable[[np.ndarray], np.intp], otherwise: float) -> str:
    """Return the figure of the lowest or the highest node, and which one it is; the first of equal ones."""
    if of_nodes is None or not np.isfinite(of_nodes).any():
        return "" if of_nodes is None else "–"
    node = int(place(np.where(np.isfinite(of_nodes), of_nodes, otherwise)))
    return f"{_figure(of_nodes[node])} at {node}"


def _printable(text: str, ascii_only: bool) -> str:
    r"""Return text that does to a terminal what text does, and nothing else.

    >>> _printable("a – b \x1b[2J", ascii_only=True)
    'a - b ?[2J'
    """
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean.replace("–", "-").encode("ascii", "replace").decode() if ascii_only else clean


def _table(columns: dict[str, list[str]], ascii_only: bool) -> Table:
    """Return a table without lines; the numbers stand at the right of their columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    for heading in columns:
        left = heading in ("", "over rounds")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True, overflow="crop")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(Text(_printable(cell, ascii_only)) for cell in row))
    return table
