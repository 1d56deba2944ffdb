"""Fetching files where other runs may want the same ones: one run at a time does it, and a file is there whole."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mpisim.errors import InputError
from mpisim.locks import hold, let_go


@contextmanager
def fetching(name: str, data_dir: Path, folder: Path) -> Iterator[Path]:
    """Be the only run that fetches a data set: yield a folder to do it in, whose files can be renamed into another.

    Whoever comes second waits until the first is done, or dead, and should look again whether anything is missing. What
    is left in the yielded folder is removed, and so is any folder that was made here and is empty in the end. Where
    there are no locks, two runs fetch the same files, each in a folder of its own.

    Parameters
    ----------
    name : of the data set
    data_dir : Path
        Where the lock is.
    folder : Path
        Where the files are to be in the end, in data_dir or below.

    Raises
    ------
    InputError
        If the folders cannot be written.
    """
    with ExitStack() as held:
        try:
            held.enter_context(_turn(name, data_dir))
            held.enter_context(_folder(folder))
            place = held.enter_context(tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder))
        except OSError as error:
            raise InputError(f"{folder}: cannot be written, to put {name} there: {error.strerror}") from error
        yield Path(place)


@contextmanager
def _turn(name: str, data_dir: Path) -> Iterator[None]:
    """Hold the lock in a folder, which is made for it."""
    path, descriptor, told = data_dir / f".{name}.lock", None, False
    with ExitStack() as made:
        while descriptor is None:
            made.enter_context(_folder(data_dir))
            with suppress(FileNotFoundError):  # another run failed, and took away the folder that it had made
                descriptor = hold(path, wait=told)
                if descriptor is None:
                    print(f"another run fetches {name} into {data_dir}: waiting for it", file=sys.stderr, flush=True)
                    told = True
        try:
            yield
        finally:
            let_go(descriptor, path)


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Make a folder, and those it is in; in the end, take away again which of them are empty."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # it has files in it, or another run's lock
            for each in made:
                each.rmdir()
