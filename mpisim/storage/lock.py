"""The lock on a log: one run writes it at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    import fcntl

    log_path.parent.mkdir(parents=True, exist_ok=True)
    path = log_path.with_name(f".{log_path.name}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(descriptor)
            raise InputError(
                f"{log_path}: another run is writing it: wait until it ends, or take another name"
            ) from error
        # A file system that knows no locks: whoever starts two runs on one log there finds out later.
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still ours: nobody can hold what has no name
        os.close(descriptor)
