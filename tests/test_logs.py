"""Logs open as xarray datasets in memory; what is no log of mpisim is one line that says what it is."""

import importlib.machinery
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import mpisim
from mpisim.analysis.logs import configuration, open_file, open_log
from mpisim.errors import InputError


@pytest.mark.parametrize("status", ["running", "complete"])
def test_a_log_opens_with_its_values_and_its_options(tmp_path, log_content, status):
    rounds = [log_content.round() for _ in range(3)]
    log = open_log(log_content.write(tmp_path / "run.h5", rounds, status))
    np.testing.assert_array_equal(log["iid_accuracy"], [values["iid_accuracy"] for values in rounds])
    assert log["iid_accuracy"].dims == ("round", "node")
    assert log["round"].values.tolist() == [1, 2, 3]
    assert log.attrs["config"] == {"rounds": 4}
    assert log.attrs["status"] == status


def test_a_log_in_memory_outlives_its_file(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [log_content.round()])
    log = mpisim.open_log(str(path))
    path.unlink()
    np.testing.assert_array_equal(log["degree"], log_content.static["degree"])


def test_an_open_file_tells_the_options_of_its_run(tmp_path, log_content):
    with open_file(log_content.write(tmp_path / "run.h5", [])) as file:
        assert configuration(file) == {"rounds": 4}


def hdf5(**attributes):
    def make(path):
        with h5py.File(path, "w") as file:
            file.attrs.update(attributes)

    return make


def truncated_log(path):
    hdf5(schema="mpisim-log")(path)
    path.write_bytes(path.read_bytes()[:-1])


NOT_LOGS = {
    "a folder": (Path.mkdir, "no such log"),
    "text": (lambda path: path.write_text("round,accuracy\n"), "cannot be read as HDF5: "),
    "no bytes": (Path.touch, "cannot be read as HDF5: "),
    "truncated": (truncated_log, "cannot be read as HDF5: "),
    "other HDF5": (hdf5(), "is no log of mpisim"),
    "another schema": (hdf5(schema="weather"), "is no log of mpisim"),
}


@pytest.mark.parametrize("open_it", [open_log, open_file])
@pytest.mark.parametrize("make, message", NOT_LOGS.values(), ids=NOT_LOGS)
def test_what_is_no_log_is_one_line_with_its_name(tmp_path, open_it, make, message):
    path = tmp_path / "run.h5"
    with pytest.raises(InputError) as raised:
        open_it(path)
    assert str(raised.value) == f"{path}: no such log"
    make(path)
    with pytest.raises(InputError) as raised:
        open_it(path)
    assert str(raised.value).startswith(f"{path}: {message}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("missing", ["xarray", "h5netcdf"])
def test_without_the_libraries_for_it_open_log_says_what_to_install(tmp_path, log_content, monkeypatch, missing):
    path = log_content.write(tmp_path / "run.h5", [])
    find_spec = importlib.machinery.PathFinder.find_spec
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(
        importlib.machinery.PathFinder,
        "find_spec",
        lambda name, *others: None if name.split(".")[0] == missing else find_spec(name, *others),
    )
    with pytest.raises(InputError, match=r"needs xarray and h5netcdf: pip install 'mpisim\[report\]'"):
        open_log(path)


def test_a_log_of_another_schema_says_which(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [])
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 7
    with pytest.raises(InputError, match=r"run\.h5: has the schema version 7, this mpisim reads 1"):
        open_log(path)
