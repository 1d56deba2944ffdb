"""Opening logs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpisim.errors import InputError

if TYPE_CHECKING:
    import h5py
    import xarray

PATIENCE = 5.0  # seconds


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

    # The open file keeps the lock: the run, if it goes on, writes no round in the middle of this.
    with open_file(path), xarray.open_dataset(path, engine="h5netcdf") as dataset:
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
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            file = h5py.File(path, "r")
            break
        except OSError as error:
            # A run that writes a round holds the lock for some milliseconds.
            if isinstance(error, BlockingIOError) and time.monotonic() < give_up:
                time.sleep(0.01)
                continue
            raise InputError(f"{path}: cannot be read as HDF5: {error}") from error
    if file.attrs.get("schema") != "mpisim-log":
        file.close()
        raise InputError(f"{path}: is no log of mpisim (its attribute schema is not 'mpisim-log')")
    return file


def configuration(file: h5py.File) -> dict[str, Any]:
    """Return the options that a log's run was made with, by name."""
    options: dict[str, Any] = json.loads(file.attrs["config"])
    return options
