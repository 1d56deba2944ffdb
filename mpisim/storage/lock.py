"""The lock on a log: one run writes it at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpisim.errors import InputError
from mpisim.locks import hold, let_go


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
    descriptor = hold(path)
    if descriptor is None:
        raise InputError(f"{log_path}: another run is writing it: wait until it ends, or take another name")
    try:
        yield
    finally:
        let_go(descriptor, path)
