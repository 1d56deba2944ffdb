"""The log: one HDF5 file per run, written by rank 0 alone, whole at every moment.

Each round is appended to a copy, which then takes the log's place: whoever kills the run, and whatever fails in the
middle of a write, finds every finished round in a file that opens, and a reader never meets half a round. A copy costs
little: a log holds a few hundred bytes of each node and round, which took milliseconds at least to train. The
dimensions are HDF5 dimension scales, so h5py, netCDF tools and xarray read the file as it stands.
"""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import h5py

SCHEMA = "mpisim-log"
SCHEMA_VERSION = 1
CHUNK_BYTES = 16_384


@dataclass(frozen=True)
class Variable:
    """A variable of the log: its dimensions, type, unit and meaning."""

    dims: tuple[str, ...]
    dtype: str
    units: str
    long_name: str


ROUND_NODE, ROUND_RANK = ("round", "node"), ("round", "rank")

VARIABLES: dict[str, Variable] = {
    "iid_accuracy": Variable(ROUND_NODE, "f8", "1", "accuracy on the clean test set, before aggregation"),
    "ood_accuracy": Variable(ROUND_NODE, "f8", "1", "accuracy on the out-of-distribution test set, before aggregation"),
    "own_accuracy": Variable(
        ROUND_NODE, "f8", "1", "accuracy on the node's own test samples (--local-split), before aggregation"
    ),
    "iid_loss": Variable(ROUND_NODE, "f8", "nat", "mean cross-entropy on the clean test set, before aggregation"),
    "ood_loss": Variable(
        ROUND_NODE, "f8", "nat", "mean cross-entropy on the out-of-distribution test set, before aggregation"
    ),
    "train_loss": Variable(ROUND_NODE, "f8", "nat", "mean cross-entropy of the round's training steps"),
    "iid_recall": Variable(("round", "node", "label"), "f8", "1", "share of the clean test samples of a label found"),
    "consensus_distance": Variable(
        ("round",),
        "f8",
        "1",
        "mean over nodes of the squared L2 distance to the mean model, over at most 65536 fixed coordinates,"
        " before aggregation",
    ),
    "temperature": Variable(("round",), "f8", "1", "temperature of the softmax that makes the mixing weights"),
    "participated": Variable(ROUND_NODE, "i1", "1", "1 if the node took part in the round"),
    "train_seconds": Variable(ROUND_RANK, "f8", "s", "time in local training"),
    "test_seconds": Variable(ROUND_RANK, "f8", "s", "time in tests, while messages travel"),
    "exchange_seconds": Variable(ROUND_RANK, "f8", "s", "time in sending models and waiting for them"),
    "mix_seconds": Variable(ROUND_RANK, "f8", "s", "time in aggregation"),
    "log_seconds": Variable(
        ROUND_RANK,
        "f8",
        "s",
        "time in handing in results and, on rank 0, waiting for them and writing the round before to the log",
    ),
    "bytes_sent": Variable(ROUND_RANK, "i8", "byte", "model state sent to other ranks"),
    "degree": Variable(("node",), "i8", "1", "number of neighbors"),
    "betweenness": Variable(("node",), "f8", "1", "betweenness centrality, normalised, endpoints counted"),
    "train_samples": Variable(("node",), "i8", "1", "number of training samples"),
    "is_ood": Variable(("node",), "i1", "1", "1 if the node's shard holds out-of-distribution samples"),
    "rank_of_node": Variable(("node",), "i8", "1", "rank that owns the node"),
    "label_counts": Variable(("node", "label"), "i8", "1", "training samples of each label, as they are trained on"),
    "link_target": Variable(("link",), "i8", "1", "node that listens"),
    "link_source": Variable(("link",), "i8", "1", "node that is listened to"),
    "link_weight": Variable(("link",), "f8", "1", "mixing weight W[target, source] of the first round"),
}

DIMENSIONS = {
    "round": "round, from 1",
    "node": "node of the topology",
    "rank": "MPI rank that owns nodes",
    "link": "entry of the mixing matrix",
    "label": "class label",
}


class Log:
    """A log being written. It is closed, and whole, between any two calls and within them.

    Parameters
    ----------
    path : Path
        A file made by ``create``.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(
        cls,
        path: Path,
        sizes: Mapping[str, int],
        static: Mapping[str, np.ndarray],
        attributes: Mapping[str, Any],
        overwrite: bool = False,
    ) -> Log:
        """Make the file: all variables, those without rounds filled.

        Parameters
        ----------
        sizes : of the dimensions node, rank, link and label
        static : the variables without the dimension round, by name
        attributes : root attributes beside schema, schema_version, status and date_created
        overwrite : bool
            Whether a file of this name gives way.

        Raises
        ------
        FileExistsError
            If there is a file of this name already.
        OSError
            If the file cannot be written.
        """
        import h5py

        path.parent.mkdir(parents=True, exist_ok=True)
        with _successor(path) as successor:
            with h5py.File(successor, "w") as file:
                _write_attributes(file, attributes)
                _make_variables(file, dict(sizes) | {"round": 0}, static)
            if overwrite:
                successor.replace(path)
            else:
                os.link(successor, path)  # unlike a rename, fails if the name is taken, whoever took it
        return cls(path)

    def append(self, round: int, values: Mapping[str, Any]) -> None:
        """Append a round: a value for every variable that has rounds.

        Parameters
        ----------
        round : int
            From 1.
        values : arrays by name, of the variable's shape without the dimension round

        Raises
        ------
        ValueError
            If a variable is missing, or there is no such variable.
        OSError
            If the round cannot be written; the log then is as it was.
        """
        with_rounds = {name for name, variable in VARIABLES.items() if variable.dims[0] == "round"}
        if values.keys() != with_rounds:
            raise ValueError(f"the round lacks, or has beside the variables: {values.keys() ^ with_rounds}")
        with self._changed() as file:
            position = file["round"].shape[0]
            for name, value in (("round", round), *values.items()):
                file[name].resize(position + 1, axis=0)
                file[name][position] = value

    def set_status(self, status: str) -> None:
        """Say how the run stands: "running" or "complete"."""
        with self._changed() as file:
            file.attrs["status"] = status

    @contextmanager
    def _changed(self) -> Iterator[h5py.File]:
        """Give a copy of the file to change; if all goes well, it takes the log's place."""
        import h5py

        with _successor(self.path) as successor:
            shutil.copyfile(self.path, successor)
            with h5py.File(successor, "r+") as file:
                yield file
            with successor.open("rb") as written:
                os.fsync(written.fileno())  # or a host that crashes could leave a name without content
            successor.replace(self.path)


@contextmanager
def _successor(path: Path) -> Iterator[Path]:
    """Give the name of a file beside the log that may take its place; afterwards nothing of that name is left."""
    successor = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield successor
    finally:
        successor.unlink(missing_ok=True)


def is_log(path: Path) -> bool:
    """Return whether a file is a log of mpisim, and so may be replaced by one."""
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("schema") == SCHEMA)
    except OSError:
        return False


def _write_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    file.attrs["schema"] = SCHEMA
    file.attrs["schema_version"] = SCHEMA_VERSION
    file.attrs["status"] = "running"
    file.attrs["date_created"] = now
    for name, value in attributes.items():
        file.attrs[name] = value


def _make_variables(file: h5py.File, sizes: Mapping[str, int], static: Mapping[str, np.ndarray]) -> None:
    for name, long_name in DIMENSIONS.items():
        growing = name == "round"
        scale = file.create_dataset(
            name,
            data=np.arange(sizes[name], dtype=np.int64),
            maxshape=(None if growing else sizes[name],),
            chunks=(CHUNK_BYTES // 8,) if growing else None,
        )
        scale.make_scale(name)
        scale.attrs["long_name"] = long_name
        scale.attrs["units"] = "1"
    for name, variable in VARIABLES.items():
        shape = tuple(sizes[dim] for dim in variable.dims)
        if variable.dims[0] == "round":
            dataset = file.create_dataset(
                name, shape, variable.dtype, maxshape=(None, *shape[1:]), chunks=_chunks(shape[1:], variable.dtype)
            )
        else:
            dataset = file.create_dataset(name, data=np.asarray(static[name], dtype=variable.dtype).reshape(shape))
        for axis, dim in enumerate(variable.dims):
            dataset.dims[axis].attach_scale(file[dim])
        dataset.attrs["units"] = variable.units
        dataset.attrs["long_name"] = variable.long_name


def _chunks(row: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """Return chunks of whole rows, as many as make CHUNK_BYTES: a round touches one chunk of each variable."""
    row_bytes = int(np.prod(row)) * np.dtype(dtype).itemsize
    return (max(1, CHUNK_BYTES // max(1, row_bytes)), *(max(1, size) for size in row))
