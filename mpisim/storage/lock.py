"""The lock on a log: one run writes it at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpisim.errors import InputError


@contextmanager
def locked(log_path: Path) -> Iterator[None]:
    """Hold the lock on a log, for as long as this process lives at the most.

    Raises
    ------
    InputError
        If another run holds it.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    path = log_path.with_name(f".{log_path.name}.lock")
    descriptor = _grip(path)
    while descriptor is not None and not _is_at(descriptor, path):  # who held it took its name away meanwhile
        os.close(descriptor)
        descriptor = _grip(path)
    if descriptor is None:
        raise InputError(f"{log_path}: another run is writing it: wait until it ends, or take another name")
    try:
        yield
    finally:
        with suppress(OSError):  # one that stays because the folder cannot be written any more is no hindrance
            path.unlink()  # while it is still ours: nobody can hold what has no name
        os.close(descriptor)


def _grip(path: Path) -> int | None:
    """Return the file of this name, open and locked; None if another process has it locked."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(descriptor)
            return None
        # A file system that knows no locks: whoever starts two runs on one log there finds out later.
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
