"""A table for people: columns of text, which make do with the room that a terminal has."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

DASH = "–"
GAP = "  "
LARGE = 1e9  # from which on a figure's digits tell less than its power of ten
SHORTEST = 12  # characters that a word is cut to, at the least


def figure(value: float | str | None, decimals: int = 3) -> str:
    """Return a figure as text; a dash where there is none.

    >>> figure(0.12345), figure(None), figure(7), figure(float("nan"), 1), figure(1e300, 1)
    ('0.123', '–', '7', '–', '1e+300')
    """
    if value is None or value != value:
        return DASH
    if not isinstance(value, float):
        return str(value)
    return f"{value:.{decimals}f}" if abs(value) < LARGE else f"{value:.3g}"


def counted(number: int, thing: str) -> str:
    """Return how many of a thing there are.

    >>> counted(1, "run"), counted(2, "run")
    ('1 run', '2 runs')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


def as_text(headings: Sequence[str], cells: Sequence[Sequence[str]], left: Collection[str] = ()) -> str:
    """Return a table as lines of text.

    Parameters
    ----------
    cells : text, shape (num_rows, num_columns)
    left : headings of the columns whose cells begin below each other; the others end below each other

    >>> print(as_text(["node", "AUC"], [["a", "0.5"], ["bb", "10.5"]], left=["node"]))
    node   AUC
    a      0.5
    bb    10.5
    """
    table = [headings, *cells]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    lines = (
        GAP.join(
            cell.ljust(width) if heading in left else cell.rjust(width)
            for heading, cell, width in zip(headings, row, widths, strict=True)
        )
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines)


def show(
    headings: Sequence[str],
    cells: Sequence[Sequence[str]],
    left: Collection[str] = (),
    spare: Sequence[str] = (),
    paths: str | None = None,
) -> None:
    """Print a table, a line for each row; on a terminal that has no room for it, as much as there is room for.

    Parameters
    ----------
    headings, cells, left : as for ``as_text``
    spare : headings of the columns that are left out first, in this order; then those on the left are cut
    paths : the heading of a column of paths, whose folder is told once if room is short
    """
    columns = {heading: [row[number] for row in cells] for number, heading in enumerate(headings)}
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if room is not None and _width(columns) > room:
        _tell_shared(columns, len(cells), paths)
        _leave_out(columns, spare, room)
        _cut(columns, left, room)
    print(as_text(list(columns), list(zip(*columns.values(), strict=True)), left))


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    return sum(max(map(len, [heading, *words])) + len(GAP) for heading, words in columns.items()) - len(GAP)


def _tell_shared(columns: dict[str, list[str]], num_rows: int, paths: str | None) -> None:
    """Take what all rows share out of the columns, and print it."""
    if num_rows < 2:
        return
    shared = [heading for heading, words in columns.items() if len(set(words)) == 1]
    told = [f"{heading} {columns.pop(heading)[0]}" for heading in shared]
    if paths in columns and (folder := _common_folder(columns[paths])):
        columns[paths] = [path.removeprefix(folder).removeprefix(os.sep) for path in columns[paths]]
        told.append(f"in {folder}")
    if told:
        print(f"all {num_rows}: {', '.join(told)}")


def _leave_out(columns: dict[str, list[str]], spare: Sequence[str], room: int) -> None:
    """Take out spare columns until the others have room, and print which."""
    left_out = []
    for heading in spare:
        if heading in columns and _width(columns) > room:
            left_out.append(heading)
            del columns[heading]
    if left_out:
        print(f"no room for {', '.join(left_out)}: a wider terminal and --csv have them")


def _cut(columns: dict[str, list[str]], left: Collection[str], room: int) -> None:
    """Cut words in the widest of the columns on the left, in their middle, until all have room; figures stay whole."""
    widths = {heading: max(map(len, [heading, *words])) for heading, words in columns.items() if heading in left}
    for _ in range(_width(columns) - room):
        can_shrink = [heading for heading, width in widths.items() if width > max(len(heading), SHORTEST)]
        if can_shrink:
            widths[max(can_shrink, key=lambda heading: widths[heading])] -= 1
    for heading, width in widths.items():
        columns[heading] = [
            word if len(word) <= width else f"{word[: width // 3]}…{word[width // 3 + 1 - width :]}"
            for word in columns[heading]
        ]


def _common_folder(paths: Sequence[str]) -> str:
    """Return the folder that all paths are in, as they name it; nothing where they have none in common."""
    folders = [str(Path(path).parent) for path in paths]
    if len({Path(folder).is_absolute() for folder in folders}) > 1 or "." in folders:
        return ""
    return os.path.commonpath(folders)
