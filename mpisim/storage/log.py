"""The log: one HDF5 file per run, written by rank 0 alone, whole at every moment.

Each round is appended to an image of the file in memory, which is then written out whole, beside the log, and takes
its place: whoever kills the run, and whatever fails in the middle of a write, finds every finished round in a file that
opens, and a reader never meets half a round. Writing it whole costs little: a log holds a few hundred bytes of each
node and round, which took milliseconds at least to train. The dimensions are HDF5 dimension scales, so h5py, netCDF
tools and xarray read the file as it stands.
"""

from __future__ import annotations

import datetime
import io
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.storage.variables import DIMENSIONS, FINAL_VARIABLES, FROM_ONE, VARIABLES, Variable

if TYPE_CHECKING:
    import h5py

SCHEMA = "mpisim-log"
SCHEMA_VERSION = 1
CHUNK_BYTES = 16_384


class Log:
    """A log being written, by nobody else. Its file is closed, and whole, between any two calls and within them.

    Parameters
    ----------
    path : Path
        A file made by ``create``.
    """

    def __init__(self, path: Path):
        self.path = path
        self._image: _Image | None = None  # of the file as it is; None: not read yet

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
        static : the variables without the dimension round, by name, but the final ones
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
        image = _Image()
        _write_attributes(image.file, attributes)
        _make_variables(image.file, variables, dict(sizes) | {"round": 0}, static)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _successor(path, image) as successor:
            if overwrite:
                successor.replace(path)
            else:
                os.link(successor, path)  # unlike a rename, fails if the name is taken, whoever took it
        log = cls(path)
        log._image = image
        return log

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
            If a variable is missing, or of another shape, or there is no such variable in the log.
        OSError
            If the round cannot be written; the log then is as it was.
        """
        with self._changed() as image:
            _check_names(image.growing.keys() - {"round"}, values)
            for name, value in (("round", round), *values.items()):
                image.growing[name].append(value)

    def set_status(self, status: str, final_values: Mapping[str, Any] | None = None) -> None:
        """Say how the run stands: "running", "interrupted" or "complete".

        Parameters
        ----------
        final_values : float64 arrays by name, shape (num_nodes,)
            Of a complete run.
        """
        with self._changed() as image:
            if final_values is not None:
                _check_names(set(FINAL_VARIABLES), final_values)
                for name, values in final_values.items():
                    image.file[name][: len(values)] = values
            image.file.attrs["status"] = status

    @property
    def num_rounds(self) -> int:
        """The number of rounds in it."""
        self._image = self._image or _Image(self.path.read_bytes())
        return len(self._image.file["round"])

    def rewind(self, num_rounds: int, rank_of_node: np.ndarray, attributes: Mapping[str, Any]) -> None:
        """Take back all rounds after some, and the final values: the run goes on from there, on other ranks perhaps.

        Parameters
        ----------
        rank_of_node : int64, shape (num_nodes,)
        attributes : root attributes that change; the history is added to
        """
        with self._changed() as image:
            for name in image.growing:
                image.file[name].resize(num_rounds, axis=0)
            num_ranks = max(len(image.file["rank"]), int(rank_of_node.max()) + 1)
            for name, variable in VARIABLES.items():
                if "rank" in variable.dims:
                    image.file[name].resize(num_ranks, axis=variable.dims.index("rank"))
            image.file["rank"].resize(num_ranks, axis=0)
            image.file["rank"][:] = np.arange(num_ranks)
            del image.growing  # which knew the old sizes
            for name in FINAL_VARIABLES:
                image.file[name][:] = np.nan
            image.file["rank_of_node"][:] = rank_of_node
            history = {"history": f"{image.file.attrs['history']}\n{attributes['history']}"}
            image.file.attrs.update({"status": "running", **attributes, **history})

    @contextmanager
    def _changed(self) -> Iterator[_Image]:
        """Give an image of the file to change; if all goes well, it takes the log's place."""
        image = self._image or _Image(self.path.read_bytes())
        self._image = None  # whatever fails from here on: the log on disk is right, and read again
        yield image
        with _successor(self.path, image) as successor:
            successor.replace(self.path)
        self._image = image


class _Image:
    """A log in memory, held open from round to round: opening it would cost more than all else.

    HDF5 writes it to a Python file object, not by its own driver for files in memory, which would give its content as a
    new copy each time: of a large log, that costs more CPU time than writing it out.

    Parameters
    ----------
    content : bytes, optional
        Of the log's file; a new log has none.
    """

    def __init__(self, content: bytes | None = None):
        import h5py

        self._content = io.BytesIO(content or b"")
        self.file = h5py.File(self._content, "w" if content is None else "r+")
        weakref.finalize(self, self.file.close)  # HDF5 must not find it open after Python's end

    @cached_property
    def growing(self) -> dict[str, _Growing]:
        """What has rounds: the variables of the log that do, and the dimension itself."""
        names = ["round", *(name for name in self.file if name in VARIABLES and VARIABLES[name].dims[0] == "round")]
        of_ranks = [name for name in names if name != "round" and "rank" in VARIABLES[name].dims]
        return {name: _Growing(self.file[name], name in of_ranks) for name in names}

    def content(self) -> memoryview:
        """Return the bytes of the file, to be released before anything is changed."""
        self.file.flush()
        return self._content.getbuffer()


class _Growing:
    """A variable of an open log that grows by a row each round, by HDF5's own calls: h5py's cost ten times as much.

    Parameters
    ----------
    pads : bool
        Whether a row may be shorter: a run that was resumed may have had more ranks before.
    """

    def __init__(self, dataset: h5py.Dataset, pads: bool):
        import h5py

        self._id = dataset.id
        self._pads = pads
        self._nothing = dataset.fillvalue
        self._length = dataset.shape[0]
        self._zeros = (0,) * (dataset.ndim - 1)
        self._row = np.empty((1, *dataset.shape[1:]), dataset.dtype)
        self._row_space = h5py.h5s.create_simple(self._row.shape)
        self._type = h5py.h5t.py_create(dataset.dtype)

    def append(self, value: Any) -> None:
        """Append a row."""
        if self._pads:
            self._row[:] = self._nothing
            self._row[:, : len(value)] = value
        else:
            self._row[...] = value
        position = self._length
        self._length += 1
        self._id.set_extent((self._length, *self._row.shape[1:]))
        space = self._id.get_space()
        space.select_hyperslab((position, *self._zeros), self._row.shape)
        self._id.write(self._row_space, space, self._row, self._type)


@contextmanager
def _successor(path: Path, image: _Image) -> Iterator[Path]:
    """Write an image to a file beside the log that may take its place; afterwards nothing of its name is left."""
    successor = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with image.content() as content, successor.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a host that crashes could leave a name without content
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
        growing = name in ("round", "rank")  # a run may be resumed with more ranks
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
                name,
                shape,
                variable.dtype,
                maxshape=_maxshape(variable, shape),
                chunks=_chunks(shape[1:], variable.dtype),
                fillvalue=np.nan if variable.dtype == "f8" else 0,
            )
        else:
            values = np.full(shape, np.nan) if name in FINAL_VARIABLES else static[name]
            dataset = file.create_dataset(
                name,
                data=np.asarray(values, dtype=variable.dtype).reshape(shape),
                maxshape=_maxshape(variable, shape),
                fillvalue=np.nan if variable.dtype == "f8" else 0,
            )
        for axis, dim in enumerate(variable.dims):
            dataset.dims[axis].attach_scale(file[dim])
        dataset.attrs["units"] = variable.units
        dataset.attrs["long_name"] = variable.long_name


def _maxshape(variable: Variable, shape: tuple[int, ...]) -> tuple[int | None, ...]:
    return tuple(None if dim in ("round", "rank") else size for dim, size in zip(variable.dims, shape, strict=True))


def _chunks(row: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """Return chunks of whole rows, as many as make CHUNK_BYTES: a round touches one chunk of each variable."""
    row_bytes = int(np.prod(row)) * np.dtype(dtype).itemsize
    return (max(1, CHUNK_BYTES // max(1, row_bytes)), *(max(1, size) for size in row))
