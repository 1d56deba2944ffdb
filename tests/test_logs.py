"""Logs open as xarray datasets in memory; what is no log of mpisim, or a broken one, is one line that says so."""

import importlib.machinery
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from plain_logs import write_log

import mpisim
from mpisim.analysis import schema
from mpisim.analysis.logs import (
    configuration,
    is_text,
    open_file,
    open_log,
    open_logs,
    reading,
    score,
    score_curve,
    title_of,
    values_of,
)
from mpisim.errors import InputError
from mpisim.report.__main__ import main
from mpisim.storage.log import SCHEMA, SCHEMA_VERSION
from mpisim.storage.variables import DIMENSIONS, ROUND_SCORES, VARIABLES, logged_variables


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
    "a folder": (Path.mkdir, "is a folder: name the logs in it, "),
    "text": (lambda path: path.write_text("round,accuracy\n"), "cannot be read as HDF5: "),
    "no bytes": (Path.touch, "is empty: no log of mpisim"),
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


@pytest.mark.parametrize(
    "open_it, missing, wanted",
    [
        (open_log, "xarray", "xarray and h5netcdf"),
        (open_log, "h5netcdf", "xarray and h5netcdf"),
        (lambda path: open_logs([path]), "pandas", "pandas"),
    ],
)
def test_without_the_libraries_for_it_one_line_says_what_to_install(
    tmp_path, log_content, monkeypatch, open_it, missing, wanted
):
    path = log_content.write(tmp_path / "run.h5", [])
    find_spec = importlib.machinery.PathFinder.find_spec
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(
        importlib.machinery.PathFinder,
        "find_spec",
        lambda name, *others: None if name.split(".")[0] == missing else find_spec(name, *others),
    )
    with pytest.raises(InputError, match=rf"needs {wanted}: pip install 'mpisim\[report\]'"):
        open_it(path)


def test_a_log_of_another_schema_says_which(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [])
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 7
        file.attrs["mpisim_version"] = "9.8"
    with pytest.raises(InputError, match=r"run\.h5: has the schema version 7, this mpisim reads 1: take mpisim 9\.8$"):
        open_log(path)


def test_what_readers_rely_on_is_what_a_run_writes():
    """The two only meet in the file: what one asks for, the other must make, with these dimensions."""
    assert (schema.SCHEMA, schema.SCHEMA_VERSION) == (SCHEMA, SCHEMA_VERSION)
    assert set(schema.DIMENSIONS) | {"epoch", "label"} == set(DIMENSIONS)
    in_every_log = set(logged_variables(trained=True, aggregated=False, epochs=False)) & set(
        logged_variables(trained=False, aggregated=True, epochs=False)
    )
    assert set(schema.REQUIRED | schema.OPTIONAL) <= in_every_log
    for name, dims in (schema.REQUIRED | schema.OPTIONAL | schema.SCORES).items():
        assert dims == VARIABLES[name].dims
    assert set(schema.SCORES) | {f"{name}_aggregated" for name in schema.SCORES} <= set(ROUND_SCORES)


def broken_by(change):
    def break_it(path):
        with h5py.File(path, "r+") as file:
            change(file)

    return break_it


def replaced(name, value):
    def change(file):
        del file[name]
        if value is not None:
            file[name] = value

    return change


BROKEN = {
    "no variable": (replaced("is_ood", None), "its variable is_ood is missing"),
    "no dimension": (replaced("node", None), "its variable node is missing"),
    "no score": (
        lambda file: (replaced("iid_accuracy", None)(file), replaced("iid_accuracy_aggregated", None)(file)),
        "its variable iid_accuracy is missing",
    ),
    "a score too short": (replaced("own_accuracy", np.ones((2, 2))), r"own_accuracy has the shape \(2, 2\)"),
    "a group": (lambda file: (replaced("degree", None)(file), file.create_group("degree")), "degree is missing"),
    "text": (replaced("degree", np.array([b"a", b"b", b"c"])), "its variable degree holds no numbers"),
    "nothing in it": (replaced("degree", h5py.Empty("f8")), "its variable degree holds no numbers"),
    "too short": (
        replaced("link_weight", np.ones(2)),
        r"its variable link_weight has the shape \(2,\), but link is \(5,\)",
    ),
    "another round": (
        lambda file: file["train_loss"].resize(3, axis=0),
        r"its variable train_loss has the shape \(3, 3\), but round × node is \(2, 3\)",
    ),
    "a dimension less": (replaced("train_loss", np.ones(2)), r"its variable train_loss has the shape \(2,\)"),
    "another epoch": (replaced("epoch", np.arange(7)), "its variable iid_accuracy_by_epoch has the shape"),
    "no status": (lambda file: file.attrs.pop("status"), "its attribute status is missing"),
    "another status": (
        lambda file: file.attrs.modify("status", "paused"),
        "its status is 'paused', not one of running, interrupted, complete",
    ),
    "no options": (lambda file: file.attrs.pop("config"), "its attribute config is not JSON"),
    "cut options": (lambda file: file.attrs.modify("config", '{"rounds": 4'), "its attribute config is not JSON"),
    "deep options": (lambda file: file.attrs.modify("config", "[" * 60_000), "its attribute config is not JSON"),
    "a list of options": (lambda file: file.attrs.modify("config", "[4]"), "does not say how many rounds"),
    "options without rounds": (lambda file: file.attrs.modify("config", "{}"), "does not say how many rounds"),
    "a text for rounds": (lambda file: file.attrs.modify("config", '{"rounds": "4"}'), "does not say how many rounds"),
}


@pytest.mark.parametrize("open_it", [open_log, open_file])
@pytest.mark.parametrize("change, message", BROKEN.values(), ids=BROKEN)
def test_a_broken_log_is_one_line_that_says_what_is_wrong_with_it(tmp_path, log_content, open_it, change, message):
    path = log_content.write(tmp_path / "run.h5", [log_content.round(), log_content.round()])
    broken_by(change)(path)
    with pytest.raises(InputError, match=rf"^{path}: is a broken log: .*{message}[^\n]*$"):
        open_it(path)


def test_an_empty_attribute_is_told_like_a_missing_one(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [])
    broken_by(lambda file: file.attrs.create("config", h5py.Empty("S1")))(path)
    with pytest.raises(InputError, match="its attribute config is not JSON"):
        open_file(path)


def test_a_log_cut_short_anywhere_is_one_line(tmp_path, log_content):
    content = log_content.write(tmp_path / "run.h5", [log_content.round()]).read_bytes()
    for length in (1, 8, 100, 2048, len(content) // 2, len(content) - 1):
        path = tmp_path / "cut.h5"
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=rf"^{path}: cannot be read as HDF5: [^\n]+$"):
            open_file(path)


def test_values_that_cannot_be_read_are_one_line(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [log_content.round()])
    compressed = np.zeros((1, 3))
    with h5py.File(path, "r+") as file:
        del file["train_loss"]
        file.create_dataset("train_loss", data=compressed, chunks=(1, 3), compression="gzip")
        for axis, dim in enumerate(("round", "node")):
            file["train_loss"].dims[axis].attach_scale(file[dim])
        chunk = file["train_loss"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path}: is a broken log: [^\n]+$"), reading(path) as file:
        file["train_loss"][:]
    with pytest.raises(InputError, match=rf"^{path}: is a broken log: [^\n]+$"):
        open_log(path)


def test_no_file_stays_open_behind_an_error(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [])
    broken_by(replaced("is_ood", None))(path)
    before = h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    for _ in range(2):
        with pytest.raises(InputError):
            open_file(path)
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == before


@pytest.mark.parametrize("moments", [{"trained": True}, {"aggregated": True}, {"trained": True, "aggregated": True}])
def test_a_score_is_that_of_trained_models_where_they_were_tested(tmp_path, log_content, moments):
    variables = logged_variables(**{"trained": False, "aggregated": False, "epochs": False} | moments)
    rounds = [log_content.round() for _ in range(2)]
    wanted = "iid_accuracy" if "trained" in moments else "iid_accuracy_aggregated"
    with open_file(log_content.write(tmp_path / "run.h5", rounds, variables=variables)) as file:
        np.testing.assert_array_equal(score(file, "iid_accuracy"), [values[wanted] for values in rounds])
        np.testing.assert_array_equal(score_curve(file, "iid_accuracy"), score(file, "iid_accuracy"))


def test_a_curve_goes_through_all_epochs_in_order(tmp_path, log_content):
    rounds = [log_content.round() for _ in range(3)]
    with open_file(log_content.write(tmp_path / "run.h5", rounds)) as file:
        curve = score_curve(file, "ood_accuracy")
    np.testing.assert_array_equal(curve, np.concatenate([values["ood_accuracy_by_epoch"] for values in rounds]))


def test_the_package_has_both_ways_to_open_logs():
    assert mpisim.open_logs is open_logs
    assert {"open_log", "open_logs"} <= set(mpisim.__all__)


def test_of_a_path_as_text_is_opened_one_log(tmp_path):
    path = write_log(tmp_path / "run.h5")
    for given in (path, str(path)):
        assert open_logs(given).path.tolist() == [str(path)]


def older(path):
    """Take from a log what runs did not always write."""
    with h5py.File(path, "r+") as file:
        kept = {*schema.REQUIRED, *schema.DIMENSIONS, "iid_accuracy"}
        for name in set(file) - kept:
            del file[name]
        for name in set(file.attrs) - {"schema", "schema_version", "status", "config"}:
            del file.attrs[name]
    return path


@pytest.mark.parametrize("dataset, kind", [("tinymem", True), ("digits", False)])
def test_where_a_log_does_not_tell_the_kind_of_data_and_the_title_its_data_set_and_name_do(tmp_path, dataset, kind):
    with open_file(older(write_log(tmp_path / "run.h5", dataset=dataset))) as file:
        assert is_text(file) is kind
        assert title_of(file) == "run"


def test_what_an_older_log_does_not_have_is_no_number_in_its_shape(tmp_path):
    with open_file(older(write_log(tmp_path / "run.h5", iid=[[0.5] * 4] * 3, ood=[[0.5] * 4] * 3))) as file:
        for name, shape in {"own_accuracy": (3, 4), "bytes_sent": (3, 2), "iid_recall": (3, 4, 0)}.items():
            values = values_of(file, name)
            assert values.shape == shape
            assert np.isnan(values).all()
        assert np.isnan(score(file, "ood_accuracy")).all()
        assert (score(file, "iid_accuracy") == 0.5).all()


@pytest.mark.parametrize("dataset", ["tinymem", "digits"])
def test_every_command_shows_an_older_log_as_far_as_it_goes(tmp_path, capsys, dataset):
    path = str(older(write_log(tmp_path / "run.h5", iid=[[0.25] * 4] * 2, ood=[[0.5] * 4] * 2, dataset=dataset)))
    out = {"figures": "here", "animate": "run.gif", "page": "run.html"}
    shown = {}
    for command in ("summary", "compare", "figures", "animate", "page", "watch"):
        options = ["--out", str(tmp_path / out[command])] if command in out else []
        assert main([command, path, *options]) == 0, capsys.readouterr().err
        shown[command] = capsys.readouterr().out
    iid, ood = shown["summary"].splitlines()[2:4]
    assert iid.split()[:5] == ["IID", "0.250", "0.250", "0.250", "0.250"]
    assert set(ood.split()) == {"OOD", "–"}
    assert "the loss is no number" not in shown["watch"]
    assert "complete, round 2 of 2" in shown["watch"]
    assert all((tmp_path / name).exists() for name in out.values())
    assert main(["animate", path, "--out", str(tmp_path / "x.gif"), "--show", "recall:0"]) == 2
    assert "has no recall of labels" in capsys.readouterr().err
