"""A log in memory: an HDF5 file that is held open, grown, and written out whole."""

from __future__ import annotations

import io
import weakref
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.storage.variables import DIMENSIONS, FINAL_VARIABLES, FROM_ONE, VARIABLES, Variable

if TYPE_CHECKING:
    import h5py

CHUNK_BYTES = 16_384


class Image:
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
    def growing(self) -> dict[str, Growing]:
        """What has rounds: the variables of the log that do, and the dimension itself."""
        names = ["round", *(name for name in self.file if name in VARIABLES and VARIABLES[name].dims[0] == "round")]
        of_ranks = [name for name in names if name != "round" and "rank" in VARIABLES[name].dims]
        return {name: Growing(self.file[name], name in of_ranks) for name in names}

    def content(self) -> memoryview:
        """Return the bytes of the file, to be released before anything is changed."""
        self.file.flush()
        return self._content.getbuffer()


class Growing:
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


def make_variables(
    file: h5py.File, variables: Mapping[str, Variable], sizes: Mapping[str, int], static: Mapping[str, np.ndarray]
) -> None:
    """Make the variables of a new log and their dimensions, as scales; fill those that no round changes."""
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
                maxshape=maxshape(variable, shape),
                chunks=_chunks(shape[1:], variable.dtype),
                fillvalue=np.nan if variable.dtype == "f8" else 0,
            )
        else:
            values = np.full(shape, np.nan) if name in FINAL_VARIABLES else static[name]
            dataset = file.create_dataset(
                name,
                data=np.asarray(values, dtype=variable.dtype).reshape(shape),
                maxshape=maxshape(variable, shape),
                fillvalue=np.nan if variable.dtype == "f8" else 0,
            )
        for axis, dim in enumerate(variable.dims):
            dataset.dims[axis].attach_scale(file[dim])
        dataset.attrs["units"] = variable.units
        dataset.attrs["long_name"] = variable.long_name


def maxshape(variable: Variable, shape: tuple[int, ...]) -> tuple[int | None, ...]:
    """Return how far a variable of the log may grow: in rounds, and in ranks, without end."""
    return tuple(None if dim in ("round", "rank") else size for dim, size in zip(variable.dims, shape, strict=True))


def _chunks(row: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """Return chunks of whole rows, as many as make CHUNK_BYTES: a round touches one chunk of each variable."""
    row_bytes = int(np.prod(row)) * np.dtype(dtype).itemsize
    return (max(1, CHUNK_BYTES // max(1, row_bytes)), *(max(1, size) for size in row))
