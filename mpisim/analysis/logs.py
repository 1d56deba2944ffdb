"""Opening logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.errors import InputError

if TYPE_CHECKING:
    import h5py
    import xarray

SCHEMA_VERSION = 1


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

    open_file(path).close()
    with xarray.open_dataset(path, engine="h5netcdf") as dataset:
        log = dataset.load()
    log.attrs["config"] = json.loads(log.attrs["config"])
    return log


def open_file(path: str | Path) -> h5py.File:
    """Return a log as an open HDF5 file, for reading.

    Raises
    ------
    InputError
        If the file is not there, or is no log of mpisim.
    """
    import h5py

    if not Path(path).is_file():
        raise InputError(f"{path}: no such log")
    file = None
    try:
        file = h5py.File(path, "r")
        schema, version = str(file.attrs.get("schema")), str(file.attrs.get("schema_version"))
    except OSError as error:
        if file is not None:
            file.close()
        raise InputError(f"{path}: cannot be read as HDF5: {' '.join(str(error).split())}") from error
    if schema != "mpisim-log":
        file.close()
        raise InputError(f"{path}: is no log of mpisim (its attribute schema is not 'mpisim-log')")
    if version != str(SCHEMA_VERSION):
        file.close()
        raise InputError(f"{path}: has the schema version {version}, this mpisim reads {SCHEMA_VERSION}")
    return file


def configuration(file: h5py.File) -> dict[str, Any]:
    """Return the options that a log's run was made with, by name."""
    options: dict[str, Any] = json.loads(file.attrs["config"])
    return options


def score(file: h5py.File, name: str) -> np.ndarray:
    """Return a score of each round: that of the trained models or, where only those were tested, of the aggregated.

    Returns
    -------
    float64, shape (num_rounds, num_nodes, ...)
    """
    return np.asarray(file[name if name in file else f"{name}_aggregated"][:])


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
