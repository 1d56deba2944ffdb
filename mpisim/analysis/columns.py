"""A table for people: drawn on a terminal, plain columns of text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

from mpisim.errors import InputError

DASH = "–"
GAP = "  "


def figure(value: float | str | None, decimals: int = 3) -> str:
    """Return a figure as text; a dash where there is none.

    >>> figure(0.12345), figure(None), figure(7), figure(float("nan"), 1)
    ('0.123', '–', '7', '–')
    """
    if value is None or value != value:
        return DASH
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


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


def show(headings: Sequence[str], cells: Sequence[Sequence[str]], left: Collection[str] = ()) -> None:
    """Print a table: drawn by rich on a terminal, where what all rows share is told once if room is short.

    Raises
    ------
    InputError
        If a terminal wants rich, and it is not installed.
    """
    text = as_text(headings, cells, left)
    if not sys.stdout.isatty():
        print(text)
        return
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError as error:
        raise InputError("needs rich: pip install rich") from error
    console = Console(highlight=False)
    if len(cells) > 1 and max(map(len, text.splitlines())) > console.width:
        headings, cells = _without_shared(headings, cells)
    table = Table(box=None, padding=(0, len(GAP), 0, 0), header_style="bold", row_styles=["", "dim"])
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _without_shared(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Print the columns in which all rows say the same, and return the others."""
    shared = [column for column in range(len(headings)) if len({row[column] for row in cells}) == 1]
    if shared:
        print(f"all {len(cells)}: " + ", ".join(f"{headings[column]} {cells[0][column]}" for column in shared))
    kept = [column for column in range(len(headings)) if column not in shared]
    return [headings[column] for column in kept], [[row[column] for column in kept] for row in cells]
