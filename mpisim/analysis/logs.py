"""Opening logs, one at a time or many together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.analysis import schema
from mpisim.errors import InputError

if TYPE_CHECKING:
    import h5py
    import pandas
    import xarray

# What h5py raises when it meets bytes that make no sense.
BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


def open_log(path: str | Path) -> xarray.Dataset:
    """Return a log, of a run that is complete or not, as an ``xarray.Dataset`` in memory.

    The attribute ``config`` is a dictionary of the options.

    Raises
    ------
    InputError
        If the file is not there, or is no log of mpisim, or xarray or h5netcdf is not installed.
    """
    try:
        import h5netcdf  # noqa: F401 (xarray's engine for this kind of file)
        import xarray
    except ModuleNotFoundError as error:
        raise InputError("open_log needs xarray and h5netcdf: pip install 'mpisim[report]'") from error

    with reading(path):
        try:
            with xarray.open_dataset(path, engine="h5netcdf") as dataset:
                log = dataset.load()
        except BROKEN as error:
            raise InputError(f"{path}: is a broken log: {one_line(error)}") from error
    log.attrs["config"] = json.loads(log.attrs["config"])
    return log


def open_logs(paths: str | Path | Iterable[str | Path]) -> pandas.DataFrame:
    """Return a data frame with a row for each log: its options and figures as columns.

    The figures are those of ``mpisim.analysis.table.row``; options that it has no column for follow, by their names.

    Parameters
    ----------
    paths : of the logs; a single one may stand for itself

    Raises
    ------
    InputError
        If one of the files is no log, or pandas is not installed.

    Examples
    --------
    >>> runs = open_logs(Path("results").glob("*.h5"))  # doctest: +SKIP
    >>> runs.groupby("strategy").ood_auc.mean()  # doctest: +SKIP
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise InputError("open_logs needs pandas: pip install 'mpisim[report]'") from error
    from mpisim.analysis.table import COLUMNS, row_of  # it reads logs: at load, each would import the other

    found = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        with reading(path) as file:
            found.append(configuration(file) | row_of(file))
    columns = list(dict.fromkeys([*COLUMNS, *(name for row in found for name in row)]))
    return pandas.DataFrame(found, columns=columns)


@contextmanager
def reading(path: str | Path) -> Iterator[h5py.File]:
    """Give a log as an open HDF5 file; whatever cannot be read in it, now or later, is told in one line.

    Raises
    ------
    InputError
        If the file is not there, is no log of mpisim, or is broken.
    """
    file = open_file(path)
    with file:
        try:
            yield file
        except (OSError, RuntimeError) as error:  # h5py's, of bytes that make no sense
            raise InputError(f"{path}: is a broken log: {one_line(error)}") from error


def open_file(path: str | Path) -> h5py.File:
    """Return a log as an open HDF5 file, for reading. Its attributes, variables and shapes are as they should be.

    Raises
    ------
    InputError
        If the file is not there, is no log of mpisim, or is broken.
    """
    import h5py

    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder: name the logs in it, {path}/*.h5")
    if not Path(path).is_file():
        raise InputError(f"{path}: no such log")
    if Path(path).stat().st_size == 0:
        raise InputError(f"{path}: is empty: no log of mpisim")
    try:
        file = h5py.File(path, "r")
    except BROKEN as error:
        raise InputError(f"{path}: cannot be read as HDF5: {one_line(error)}") from error
    try:
        schema.check(file)
    except InputError as error:
        file.close()
        raise InputError(f"{path}: {error}") from error
    except BROKEN as error:
        file.close()
        raise InputError(f"{path}: cannot be read as HDF5: {one_line(error)}") from error
    return file


def one_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())


def configuration(file: h5py.File) -> dict[str, Any]:
    """Return the options that a log's run was made with, by name."""
    return schema.options(file)


def title_of(file: h5py.File) -> str:
    """Return what a log calls its run; where it does not say, the file's name."""
    return str(file.attrs.get("title", "")) or Path(file.filename).stem


def is_text(file: h5py.File) -> bool:
    """Return whether a run's data is text; where its log does not say, the data set does."""
    kind = file.attrs.get("data_kind")
    return configuration(file).get("dataset") == "tinymem" if kind is None else str(kind) == "text"


def is_aggregated(file: h5py.File) -> bool:
    """Return whether the scores of the rounds are those of aggregated models, because only those were tested."""
    return "iid_accuracy" not in file


def values_of(file: h5py.File, name: str) -> np.ndarray:
    """Return a variable's values; NaN, in its shape, where the log has no such variable: older ones have fewer."""
    if name in file:
        return np.asarray(file[name][:])
    dims = (schema.OPTIONAL | schema.SCORES)[name]
    return np.full([len(file[dim]) if dim in file else 0 for dim in dims], np.nan)


def score(file: h5py.File, name: str) -> np.ndarray:
    """Return a score of each round: that of the trained models or, where only those were tested, of the aggregated.

    Returns
    -------
    float64, shape (num_rounds, num_nodes, ...): NaN where the log has it of neither.
    """
    aggregated = f"{name}_aggregated"
    return np.asarray(file[aggregated][:]) if name not in file and aggregated in file else values_of(file, name)


def score_curve(file: h5py.File, name: str) -> np.ndarray:
    """Return a score as often as it was measured: after each epoch, else after each round.

    Returns
    -------
    float64, shape (num_points, num_nodes)
    """
    if f"{name}_by_epoch" in file:
        by_epoch = file[f"{name}_by_epoch"][:]
        return np.asarray(by_epoch.reshape(-1, by_epoch.shape[-1]))
    return score(file, name)
