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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.storage.variables import DIMENSIONS, FINAL_SCORES, FROM_ONE, VARIABLES, Variable

if TYPE_CHECKING:
    import h5py

SCHEMA = "mpisim-log"
SCHEMA_VERSION = 1
CHUNK_BYTES = 16_384


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
        variables: Mapping[str, Variable] = VARIABLES,
    ) -> Log:
        """Make the file: all its variables, those filled that no round changes.

        Parameters
        ----------
        sizes : of the dimensions but round
        static : the variables without the dimension round, by name, but the final scores
        attributes : root attributes beside schema, schema_version, status and date_created
        overwrite : bool
            Whether a file of this name gives way.
        variables : from ``logged_variables``
            Those that the log has.

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
                _make_variables(file, variables, dict(sizes) | {"round": 0}, static)
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
            If a variable is missing, or there is no such variable in the log.
        OSError
            If the round cannot be written; the log then is as it was.
        """
        with self._changed() as file:
            _check_names({name for name in file if name in VARIABLES and VARIABLES[name].dims[0] == "round"}, values)
            position = file["round"].shape[0]
            for name, value in (("round", round), *values.items()):
                file[name].resize(position + 1, axis=0)
                file[name][position] = value

    def set_status(self, status: str, final_scores: Mapping[str, Any] | None = None) -> None:
        """Say how the run stands: "running" or "complete".

        Parameters
        ----------
        final_scores : float64 arrays by name, shape (num_nodes,)
            Of a complete run.
        """
        with self._changed() as file:
            if final_scores is not None:
                _check_names(set(FINAL_SCORES), final_scores)
                for name, values in final_scores.items():
                    file[name][:] = values
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


def _check_names(wanted: set[str], values: Mapping[str, Any]) -> None:
    if values.keys() != wanted:
        raise ValueError(f"the log wants, or does not know: {', '.join(sorted(values.keys() ^ wanted))}")


def _write_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    file.attrs["schema"] = SCHEMA
    file.attrs["schema_version"] = SCHEMA_VERSION
    file.attrs["status"] = "running"
    file.attrs["date_created"] = now
    for name, value in attributes.items():
        file.attrs[name] = value


def _make_variables(
    file: h5py.File, variables: Mapping[str, Variable], sizes: Mapping[str, int], static: Mapping[str, np.ndarray]
) -> None:
    for name in {dim: None for variable in variables.values() for dim in variable.dims}:
        growing = name == "round"
        scale = file.create_dataset(
            name,
            data=np.arange(sizes[name], dtype=np.int64) + (name in FROM_ONE),
            maxshape=(None if growing else sizes[name],),
            chunks=(CHUNK_BYTES // 8,) if growing else None,
        )
        scale.make_scale(name)
        scale.attrs["long_name"] = DIMENSIONS[name]
        scale.attrs["units"] = "1"
    for name, variable in variables.items():
        shape = tuple(sizes[dim] for dim in variable.dims)
        if variable.dims[0] == "round":
            dataset = file.create_dataset(
                name, shape, variable.dtype, maxshape=(None, *shape[1:]), chunks=_chunks(shape[1:], variable.dtype)
            )
        else:
            values = np.full(shape, np.nan) if name in FINAL_SCORES else static[name]
            dataset = file.create_dataset(name, data=np.asarray(values, dtype=variable.dtype).reshape(shape))
        for axis, dim in enumerate(variable.dims):
            dataset.dims[axis].attach_scale(file[dim])
        dataset.attrs["units"] = variable.units
        dataset.attrs["long_name"] = variable.long_name


def _chunks(row: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """Return chunks of whole rows, as many as make CHUNK_BYTES: a round touches one chunk of each variable."""
    row_bytes = int(np.prod(row)) * np.dtype(dtype).itemsize
    return (max(1, CHUNK_BYTES // max(1, row_bytes)), *(max(1, size) for size in row))
