"""The log: one HDF5 file per run, written by rank 0 alone, whole after every round.

Each round is one open, append and close in HDF5's default format (about 1 ms). A file that is closed is a file that
opens: whoever kills the run, at whatever moment between two appends, finds every finished round in it. The dimensions
are HDF5 dimension scales, so h5py, netCDF tools and xarray read it as it stands.
"""

from __future__ import annotations

import datetime
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import h5py

SCHEMA = "mpisim-log"
SCHEMA_VERSION = 1
CHUNK_BYTES = 16_384
PATIENCE = 0.2  # seconds: readers of ours are done in a few milliseconds


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
    "participated": Variable(ROUND_NODE, "i1", "1", "1 if the node trained and aggregated in the round"),
    "train_seconds": Variable(ROUND_RANK, "f8", "s", "time in local training"),
    "test_seconds": Variable(ROUND_RANK, "f8", "s", "time in tests, while messages travel"),
    "exchange_seconds": Variable(ROUND_RANK, "f8", "s", "time in sending models and waiting for them"),
    "mix_seconds": Variable(ROUND_RANK, "f8", "s", "time in aggregation"),
    "log_seconds": Variable(ROUND_RANK, "f8", "s", "time in handing in results and, on rank 0, writing the log"),
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
    """A log being written. Between two calls the file is closed, and whole.

    Parameters
    ----------
    path : Path
        A file made by ``create``.
    """

    def __init__(self, path: Path):
        self.path = path
        self._patience = PATIENCE

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

        The file appears whole: it is written under another name first.

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
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        try:
            with h5py.File(temporary, "w") as file:
                _write_attributes(file, attributes)
                _make_variables(file, dict(sizes) | {"round": 0}, static)
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o666 & ~umask)  # mkstemp lets nobody else read
            if overwrite:
                Path(temporary).replace(path)
            else:
                os.link(temporary, path)  # unlike a rename, fails if the name is taken, whoever took it
        finally:
            Path(temporary).unlink(missing_ok=True)
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
        """
        with_rounds = {name for name, variable in VARIABLES.items() if variable.dims[0] == "round"}
        if values.keys() != with_rounds:
            raise ValueError(f"the round lacks, or has beside the variables: {values.keys() ^ with_rounds}")
        with self._open() as file:
            position = file["round"].shape[0]
            file["round"].resize(position + 1, axis=0)
            file["round"][position] = round
            for name, value in values.items():
                file[name].resize(position + 1, axis=0)
                file[name][position] = value

    def set_status(self, status: str) -> None:
        """Say how the run stands: "running", "interrupted" or "complete"."""
        with self._open() as file:
            file.attrs["status"] = status

    def _open(self) -> h5py.File:
        """Open the file to append: locked, so that nobody reads half a round, or after a while without the lock.

        A reader that keeps the file open, as a notebook does, must not stop the run.
        """
        import h5py

        give_up = time.monotonic() + self._patience
        while time.monotonic() < give_up:
            try:
                file = h5py.File(self.path, "r+")
            except BlockingIOError:
                time.sleep(0.005)
            else:
                self._patience = PATIENCE
                return file
        self._patience /= 2  # so that all rounds together wait for such a reader no longer than two of them
        return h5py.File(self.path, "r+", locking=False)


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
