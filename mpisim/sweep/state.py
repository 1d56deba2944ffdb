"""How far a run is, from what is on disk: its log, the lock on it, and what is known of its last failure."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpisim.decisive import decisive
from mpisim.errors import InputError
from mpisim.options import flag
from mpisim.storage.checkpoint import checkpoint_folder, checkpoints
from mpisim.sweep.expansion import Run

DONE, RUNNING, INTERRUPTED, SHORT, FAILED, TO_DO = KINDS = (
    "done",
    "running",
    "interrupted",
    "too short",
    "failed",
    "to do",
)
LASTING = (DONE, RUNNING, SHORT)  # states in which there is nothing to start
SECONDS = tuple(f"{part}_seconds" for part in ("train", "test", "exchange", "mix", "log"))


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes
    ----------
    kind : one of KINDS
        "running" is what somebody writes now, "interrupted" what has begun and is nobody's, "too short" what was
        done with fewer rounds than are wanted now, and has no checkpoint to go on from.
    num_rounds : int
        In its log.
    seconds : float
        What these took rank 0.
    words : str
        Of a run that failed: what it said last.
    """

    kind: str
    num_rounds: int = 0
    seconds: float = 0.0
    words: str = ""


def look_at_all(runs: Sequence[Run], folder: Path) -> list[State]:
    """Return how far each run is.

    Raises
    ------
    InputError
        If there is a log of a run's name, but of another experiment, or the folder is none.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output-dir {folder}: is not a folder")
    try:
        return [look(run, folder) for run in runs]
    except OSError as error:
        raise InputError(f"--output-dir {folder}: cannot be read: {error.strerror}") from error


def check_writable(folder: Path) -> None:
    """Find out whether the logs can be written to a folder, or where it is to be made, without a trace on disk.

    Raises
    ------
    InputError
        If they cannot.
    """
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryFile(dir=place):  # permissions do not tell all
            pass
    except OSError as error:
        raise InputError(f"--output-dir {folder}: {place} cannot be written: {error.strerror}") from error


def look(run: Run, folder: Path) -> State:
    """Return how far a run is.

    Raises
    ------
    InputError
        If there is a log of its name, but of another experiment.
    """
    log = run.log(folder)
    written = being_written(log)  # first: a run that ends meanwhile is done then
    words = failure(run, folder)
    if not log.exists():
        return State(RUNNING if written else FAILED if words else TO_DO, words=words)
    try:
        status, options, num_rounds, seconds = _read(log)
    except InputError as error:
        return State(RUNNING if written else FAILED, words=str(error))
    if written:
        return State(RUNNING, num_rounds, seconds)
    _check_same(run, log, options, num_rounds)
    if status == "complete" and num_rounds == run.config.rounds:
        return State(DONE, num_rounds, seconds)
    if status == "complete" and not checkpoints(checkpoint_folder(log)):
        return State(SHORT, num_rounds, seconds)  # to start it would be to lose its rounds
    return State(FAILED if words else INTERRUPTED, num_rounds, seconds, words)


def being_written(log: Path) -> bool:
    """Return whether a process that lives holds the lock on a log."""
    import fcntl

    try:
        descriptor = os.open(log.with_name(f".{log.name}.lock"), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system that knows no locks
        return False
    finally:
        os.close(descriptor)
    return False


def _read(log: Path) -> tuple[str, dict[str, Any], int, float]:
    """Return a log's status, options, number of rounds, and what they took rank 0, in seconds.

    Looks at no more than that: a sweep has thousands.
    """
    import h5py

    try:
        with h5py.File(log, "r") as file:
            options = dict(json.loads(file.attrs["config"]))
            seconds = sum(float(file[part][:, 0].sum()) for part in SECONDS)
            return str(file.attrs["status"]), options, len(file["round"]), seconds
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{log} cannot be read as a log: move it away ({' '.join(str(error).split())})") from error


def _check_same(run: Run, log: Path, logged: dict[str, Any], num_rounds: int) -> None:
    before = decisive(logged)
    differing = [
        f"{flag(name)} {before[name]} → {value}"
        for name, value in decisive(run.config.as_dict()).items()
        if before[name] != value
    ]
    if num_rounds > run.config.rounds:
        differing.append(f"--rounds {num_rounds} → {run.config.rounds}")
    if differing:
        raise InputError(
            f"run {run.name}: {log} is there, of another experiment ({', '.join(differing)}): move it away, or take"
            " another --output-dir"
        )


def failure_path(run: Run, folder: Path) -> Path:
    """Return where the message of a run that failed is kept."""
    return folder / f"{run.name}.failed"


def failure(run: Run, folder: Path) -> str:
    """Return what is kept of a run's failure; nothing if it has not failed."""
    try:
        return failure_path(run, folder).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def keep_failure(run: Run, folder: Path, words: str) -> None:
    """Keep what a run that failed has said, whole or not at all."""
    path = failure_path(run, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    successor = path.with_name(f".{path.name}.{os.getpid()}")
    successor.write_text(words, encoding="utf-8", errors="replace")
    successor.replace(path)


def forget_failure(run: Run, folder: Path) -> None:
    """Remove what is kept of a run's failure."""
    failure_path(run, folder).unlink(missing_ok=True)
