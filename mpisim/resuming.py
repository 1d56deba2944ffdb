"""Resuming: which log a run goes on with, whether it is the same experiment, and from which checkpoint."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from mpi4py import MPI

from mpisim.config import Config
from mpisim.decisive import decisive
from mpisim.errors import InputError
from mpisim.options import flag
from mpisim.ranks.messages import from_rank_zero, to_rank_zero
from mpisim.ranks.waiting import Waiting
from mpisim.storage.checkpoint import BadCheckpoint, Checkpoint, Shard, checkpoint_folder, checkpoints
from mpisim.storage.log import is_log


def existing_log(config: Config) -> Path | None:
    """Return the log to go on with: --output or, without it, the last one of the run's name; None if there is none."""
    if config.output is not None:
        path = Path(config.output)
        return path if os.path.lexists(path) else None
    number, found = 1, None
    path = Path("results") / f"{config.name}.h5"
    while is_taken(path):
        number, found = number + 1, path
        path = Path("results") / f"{config.name}-{number}.h5"
    return found


def is_taken(path: Path) -> bool:
    """Return whether there is a log of this name, or there was one whose checkpoints are left."""
    folder = checkpoint_folder(path)
    return os.path.lexists(path) or (os.path.lexists(folder) and bool(checkpoints(folder)))


def check_same_experiment(config: Config, path: Path) -> None:
    """Find out whether a log is of the experiment that the options describe.

    Raises
    ------
    InputError
        If not; the message names the options that differ.
    """
    import h5py

    if not is_log(path):
        raise InputError(f"{path}: is no log of mpisim that a run could go on with")
    with h5py.File(path, "r") as file:
        try:
            logged, num_rounds = dict(json.loads(file.attrs["config"])), len(file["round"])
        except (KeyError, ValueError, TypeError, OSError, RecursionError) as error:
            raise InputError(f"{path}: does not say which options it was made with: it cannot be resumed") from error
    wanted = decisive(config.as_dict())
    before = decisive(logged)
    differing = [name for name in wanted if wanted[name] != before.get(name)]
    if differing:
        changes = ", ".join(f"{flag(name)} {before.get(name)} → {wanted[name]}" for name in differing)
        raise InputError(f"{path}: --resume goes on with the same experiment only, and this changes {changes}")
    if num_rounds > config.rounds:
        raise InputError(f"--rounds {config.rounds}: {path} has {num_rounds} already")


def newest_checkpoint(
    comm: MPI.Comm, waiting: Waiting, config: Config, path: Path, num_nodes: int, num_logged: int
) -> Checkpoint | None:
    """Return the newest checkpoint of a log that is whole, None if none is. Collective.

    Each rank reads a share of the files; a line on stderr says of each checkpoint that is passed over, why.
    """
    candidates: list[Checkpoint] = []
    if comm.rank == 0:
        for checkpoint in checkpoints(checkpoint_folder(path), _say):
            if decisive(checkpoint.options) != decisive(config.as_dict()) or checkpoint.num_nodes != num_nodes:
                _say(f"{checkpoint.folder}: is of another experiment")
            elif checkpoint.round > num_logged:
                _say(f"{checkpoint.folder}: is of a later round than the log's last, {num_logged}")
            else:
                candidates.append(checkpoint)
    described = from_rank_zero(comm, waiting, lambda: [_as_json(checkpoint) for checkpoint in candidates])
    for each in described:
        checkpoint = _from_json(each)
        wrong = [text for text in to_all(comm, waiting, _verify(checkpoint, comm.rank, comm.size)) if text]
        if not wrong:
            return checkpoint
        if comm.rank == 0:
            _say(wrong[0])
    return None


def to_all(comm: MPI.Comm, waiting: Waiting, value: Any) -> list[Any]:
    """Return on every rank what each rank passed, in the order of ranks. Collective."""
    values = to_rank_zero(comm, waiting, value)
    found: list[Any] = from_rank_zero(comm, waiting, lambda: values)
    return found


def _verify(checkpoint: Checkpoint, rank: int, size: int) -> str:
    try:
        for shard in checkpoint.shards[rank::size]:
            checkpoint.verify(shard)
    except BadCheckpoint as error:
        return str(error)
    return ""


def _say(line: str) -> None:
    print(f"mpisim: passing over a checkpoint: {line}", file=sys.stderr, flush=True)


def _as_json(checkpoint: Checkpoint) -> dict[str, Any]:
    shards = [shard.as_dict() for shard in checkpoint.shards]
    return {**vars(checkpoint), "folder": str(checkpoint.folder), "shards": shards}


def _from_json(data: dict[str, Any]) -> Checkpoint:
    shards = tuple(Shard.from_dict(shard) for shard in data["shards"])
    return Checkpoint(**{**data, "folder": Path(data["folder"]), "shards": shards})
