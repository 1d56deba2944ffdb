"""Locks on files: held by one process at a time, and for as long as it lives at the most."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path


def hold(path: Path, wait: bool = False) -> int | None:
    """Return a file of this name, open and locked, which is made if there is none; None if another process holds it.

    On a file system that knows no locks, anybody holds it.

    Parameters
    ----------
    wait : bool
        Until the other process lets it go, or dies.
    """
    descriptor = _grip(path, wait)
    while descriptor is not None and not _is_at(descriptor, path):  # who held it took its name away meanwhile
        os.close(descriptor)
        descriptor = _grip(path, wait)
    return descriptor


def let_go(descriptor: int, path: Path) -> None:
    """Remove a file that is held, and so its lock."""
    with suppress(OSError):  # one that stays because the folder cannot be written any more is no hindrance
        path.unlink()  # while it is still ours: nobody can hold what has no name
    os.close(descriptor)


def _grip(path: Path, wait: bool) -> int | None:
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if not wait and error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(descriptor)
            return None
        # A file system that knows no locks: whoever does the same thing twice there finds out later.
    except BaseException:  # a signal, while it waits
        os.close(descriptor)
        raise
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
