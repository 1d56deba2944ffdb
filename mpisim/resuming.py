"""Resuming: which log a run goes on with, whether it is the same experiment, and from which checkpoint."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from mpisim.config import Config
from mpisim.decisive import decisive
from mpisim.errors import InputError
from mpisim.options import flag
from mpisim.ranks.messages import from_rank_zero, to_rank_zero
from mpisim.ranks.waiting import Waiting
from mpisim.storage.checkpoint import MANIFEST, BadCheckpoint, Checkpoint, Shard, checkpoint_folder, checkpoints
from mpisim.storage.image import maxshape
from mpisim.storage.log import SCHEMA_VERSION, is_log
from mpisim.storage.variables import VARIABLES, logged_variables

if TYPE_CHECKING:
    import h5py


def existing_log(config: Config) -> Path | None:
    """Return the log to go on with: --output or, without it, the last one of the run's name; None if there is none."""
    if config.output is not None:
        path = named_output(config.output)
        return path if os.path.lexists(path) else None
    number, found = 1, None
    path = Path("results") / f"{config.name}.h5"
    while is_taken(path):
        number, found = number + 1, path
        path = Path("results") / f"{config.name}-{number}.h5"
    return found


def named_output(output: str) -> Path:
    """Return where a log of this name lies, and its checkpoints with it: where a link leads to."""
    path = Path(output)
    return path.resolve() if path.is_symlink() else path


def is_taken(path: Path) -> bool:
    """Return whether there is a log of this name, or there was one whose checkpoints are left."""
    folder = checkpoint_folder(path)
    return os.path.lexists(path) or (os.path.lexists(folder) and bool(checkpoints(folder)))


def check_same_experiment(config: Config, path: Path) -> None:
    """Find out whether a log is of the experiment that the options describe.

    Raises
    ------
    InputError
        If not; the message names the options that differ. Or if the log is damaged.
    """
    import h5py

    if not is_log(path):
        raise InputError(f"{path}: is no log of mpisim that a run could go on with")
    with h5py.File(path, "r") as file:
        try:
            logged, num_rounds = dict(json.loads(file.attrs["config"])), len(file["round"])
            version = int(file.attrs["schema_version"])
        except (KeyError, ValueError, TypeError, OSError, RecursionError) as error:
            raise InputError(f"{path}: does not say which options it was made with: it cannot be resumed") from error
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path}: is of schema version {version}, and this mpisim writes {SCHEMA_VERSION}: go on with the one"
                " that began it"
            )
        wanted, before = decisive(config.as_dict()), decisive(logged)
        wrong = _damage(file, config) if wanted == before else ""
    differing = [name for name in wanted if wanted[name] != before.get(name)]
    if differing:
        changes = ", ".join(f"{flag(name)} {before.get(name)} → {wanted[name]}" for name in differing)
        raise InputError(f"{path}: --resume goes on with the same experiment only, and this changes {changes}")
    if num_rounds > config.rounds:
        raise InputError(f"--rounds {config.rounds}: {path} has {num_rounds} already")
    if wrong:
        raise InputError(f"{path}: {wrong}: damaged, or made by another version of mpisim, it cannot be resumed")


def _damage(file: h5py.File, config: Config) -> str:
    """Return what keeps a log from being gone on with; nothing, as a rule."""
    import h5py

    variables = logged_variables(**config.moments)
    grown = {name for name in file if name in VARIABLES and VARIABLES[name].dims[0] == "round"}
    unwanted = sorted(grown - variables.keys())
    if unwanted:
        return f"has the variable {unwanted[0]}, which this run would not log"
    if "history" not in file.attrs:
        return "the attribute history is missing"
    sizes: dict[str, int] = {}
    for name in dict.fromkeys(dim for variable in variables.values() for dim in variable.dims):
        if not isinstance(file.get(name), h5py.Dataset) or file[name].ndim != 1:
            return f"the dimension {name} is missing"
        sizes[name] = len(file[name])
        if name in ("round", "rank") and file[name].maxshape != (None,):
            return f"the dimension {name} cannot grow"
    for name, variable in variables.items():
        if not isinstance(file.get(name), h5py.Dataset):
            return f"the variable {name} is missing"
        shape, dtype = tuple(sizes[dim] for dim in variable.dims), np.dtype(variable.dtype)
        if (file[name].shape, file[name].dtype) != (shape, dtype):
            return f"the variable {name} is {file[name].dtype} of shape {file[name].shape}, not {dtype} of {shape}"
        if file[name].maxshape != maxshape(variable, shape):
            return f"the variable {name} cannot grow"
    try:
        rounds = file["round"][:]
    except OSError:
        return "the rounds cannot be read"
    return "" if np.array_equal(rounds, np.arange(1, len(rounds) + 1)) else "its rounds are not 1, 2, 3 …"


def check_same_content(path: Path, hashes: dict[str, str]) -> None:
    """Find out whether the files that the options name still hold what the log's run began with.

    Parameters
    ----------
    hashes : root attributes of the log that would be made now; an older log lacks them

    Raises
    ------
    InputError
        If not; the message names what differs.
    """
    import h5py

    names = {"topology_sha256": "the topology's edges", "data_sha256": "the data's samples"}
    with h5py.File(path, "r") as file:
        differing = [what for name, what in names.items() if str(file.attrs.get(name, hashes[name])) != hashes[name]]
    if differing:
        raise InputError(
            f"{path}: --resume goes on with the same experiment only, and {' and '.join(differing)} are others than"
            " when it began: put the old files back, or take another --output"
        )


def is_finished(config: Config, path: Path, found: Checkpoint | None) -> bool:
    """Return whether a log has all rounds and final values, and no checkpoint that the run could go on from.

    A run that was killed before it wrote its first checkpoint begins anew. No other loses rounds that are logged.

    Parameters
    ----------
    found : Checkpoint, optional
        The newest that is whole.

    Raises
    ------
    InputError
        If rounds would be lost.
    """
    import h5py

    with h5py.File(path, "r") as file:
        num_rounds, complete = len(file["round"]), str(file.attrs.get("status")) == "complete"
        had_one = file.attrs.get("checkpoint_round") != 0  # of an older log, which does not say, too
    if complete and num_rounds == config.rounds and (found is None or found.round < num_rounds):
        return True
    folder = checkpoint_folder(path)
    if found is None and num_rounds and (had_one or any(folder.glob(f"round-*/{MANIFEST}"))):
        raise InputError(
            f"--resume: {path} has {num_rounds} rounds, but no whole checkpoint is in {folder}: put one back, or begin"
            f" anew with --output {path} --overwrite"
        )
    return False


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
