"""Files that are made from logs: written whole or not at all, and never over a log."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mpisim.errors import InputError


def check_output(out: str | Path, logs: Iterable[str | Path]) -> None:
    """Find out whether a file may be written: a folder, or one of the logs that it is made from, may not.

    Raises
    ------
    InputError
        If it may not.
    """
    out = Path(out)
    if out.is_dir():
        raise InputError(f"{out}: is a folder: name a file in it")
    if any(out.exists() and Path(log).exists() and out.samefile(log) for log in logs):
        raise InputError(f"{out}: is one of the logs: take another name for what is made from them")


@contextmanager
def replacing(out: str | Path) -> Iterator[Path]:
    """Give a name beside a file to write to; if all goes well it then takes the file's place, and its folder is made.

    The name ends like the file's, for libraries that go by that.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    out = Path(out)
    successor = out.with_name(f".{os.getpid()}.{out.name}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield successor
        successor.replace(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        if successor.is_file():
            successor.unlink()


def write_text(out: str | Path, text: str) -> None:
    """Write a text file, in UTF-8.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    with replacing(out) as successor:
        successor.write_text(text, encoding="utf-8", newline="")
