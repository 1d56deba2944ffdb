"""The row of a run has what one reads off its log by hand; tables travel as CSV and JSON; one log is open at a time."""

import csv
import gc
import io
import json
from pathlib import Path

import h5py
import pytest
from plain_logs import write_log

from mpisim.analysis.logs import open_logs
from mpisim.analysis.table import COLUMNS, as_csv, as_json, row, rows
from mpisim.errors import InputError
from mpisim.report.__main__ import main

IID = [[0.0, 0.2, 0.4, 0.6], [0.5, 0.5, 0.5, 0.5], [0.9, 0.7, 0.8, 1.0]]
OOD = [[0.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.0], [0.0, 1.0, 0.5, 0.5]]
SECONDS = {"train": 2.0, "test": 1.0, "exchange": 0.5, "mix": 0.25, "log": 0.0}


def test_a_row_has_the_figures_computed_by_hand(tmp_path):
    path = write_log(
        tmp_path / "run.h5",
        *("path:n=4", "degree", IID, OOD),
        ood_nodes=[1],
        seconds=SECONDS,
        rounds=5,
        seed=7,
        temperature=0.2,
    )
    found = row(path)
    assert tuple(found) == COLUMNS
    auc = {"iid": (0.0 + 0.2 + 0.4 + 0.6 + 2 * 2.0 + 3.4) / 16, "ood": (0.5 * 2 + 2.0) / 16}
    expected = {
        "path": str(path),
        "title": "degree on path:n=4, digits, seed 7",
        "status": "complete",
        "data": "digits",
        "model": "mlp-small",
        "strategy": "degree",
        "temperature": 0.2,
        "topology": "path:n=4",
        "num_nodes": 4,
        "num_edges": 3,
        "total_degree": 6,
        "ood_nodes": "1",
        "ood_degree": 2,
        "ood_degree_rank": 1,
        "seed": 7,
        "num_rounds": 3,
        "wanted_rounds": 5,
        "iid_accuracy": pytest.approx(0.85),
        "ood_accuracy": pytest.approx(0.5),
        "iid_auc": pytest.approx(auc["iid"]),
        "ood_auc": pytest.approx(auc["ood"]),
        "relative_difference": pytest.approx(200 * (auc["ood"] - auc["iid"]) / (auc["ood"] + auc["iid"])),
        # Two pairs of nodes: an edge in each, and one between: 2 · (1/3 - (3/6)²).
        "modularity": pytest.approx(1 / 6),
        "seconds": pytest.approx(3 * 3.75),
        **{f"{part}_seconds": pytest.approx(3 * seconds) for part, seconds in SECONDS.items()},
    }
    assert found == expected


def test_of_several_ood_nodes_the_one_with_the_highest_degree_tells_degree_and_rank(tmp_path):
    found = row(write_log(tmp_path / "run.h5", "star:n=4", ood_nodes=[3, 2]))
    assert (found["ood_nodes"], found["ood_degree"], found["ood_degree_rank"]) == ("2 3", 1, 3)


def test_a_run_without_rounds_and_ood_nodes_has_none_of_their_figures(tmp_path):
    found = row(write_log(tmp_path / "run.h5", iid=[], ood=[], ood_nodes=[], status="running", rounds=9))
    unknown = {name for name, value in found.items() if value is None}
    of_rounds = {"iid_accuracy", "ood_accuracy", "iid_auc", "ood_auc", "relative_difference"}
    assert unknown == of_rounds | {"ood_nodes", "ood_degree", "ood_degree_rank"}
    assert (found["num_rounds"], found["wanted_rounds"], found["status"], found["seconds"]) == (0, 9, "running", 0)


def test_an_option_that_its_mpisim_did_not_know_is_none(tmp_path):
    path = write_log(tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = json.dumps({"rounds": 1, "strategy": "degree"})
    found = row(path)
    assert (found["strategy"], found["temperature"], found["topology"]) == ("degree", None, None)


@pytest.mark.parametrize("strategy", ["fl", "none", "scale"])
def test_facts_of_the_topology_are_not_those_of_the_links(tmp_path, strategy):
    found = row(write_log(tmp_path / "run.h5", strategy=strategy))
    assert (found["num_edges"], found["total_degree"], found["modularity"]) == (3, 6, pytest.approx(1 / 6))


@pytest.mark.parametrize("strategy", ["fl", "none"])
def test_a_topology_that_cannot_be_made_any_more_has_no_modularity_but_its_edges(tmp_path, strategy):
    place = tmp_path / "topology.txt"
    place.write_text("0 1 0 0\n1 0 1 0\n0 1 0 1\n0 0 1 0\n")
    path = write_log(tmp_path / "run.h5", str(place), strategy)
    place.unlink()
    found = row(path)
    assert (found["num_edges"], found["modularity"]) == (3, None)


def test_rows_come_back_from_csv_and_json(tmp_path):
    found = rows([write_log(tmp_path / f"{seed}.h5", seed=seed, iid=[[0.1, 0.2, 0.3, seed]]) for seed in (0, 1)])
    found[0]["title"] = 'a, "b"\nc – d'
    assert json.loads(as_json(found)) == found
    read = list(csv.DictReader(io.StringIO(as_csv(found, COLUMNS), newline="")))
    assert [list(each) for each in read] == [list(COLUMNS)] * 2
    assert read == [{name: "" if value is None else str(value) for name, value in each.items()} for each in found]


def test_a_data_frame_has_a_row_for_each_log_and_the_options_as_columns(tmp_path):
    paths = [
        write_log(tmp_path / f"{strategy}.h5", strategy=strategy, iid=[[accuracy] * 4], lr=accuracy)
        for strategy, accuracy in (("degree", 0.25), ("fl", 0.75))
    ]
    runs = open_logs(paths)
    assert tuple(runs.columns[: len(COLUMNS)]) == COLUMNS
    assert runs.path.tolist() == [str(path) for path in paths]
    assert runs.groupby("strategy").iid_auc.mean().to_dict() == {"degree": 0.25, "fl": 0.75}
    assert runs.lr.tolist() == [0.25, 0.75]
    assert runs.dataset.tolist() == ["digits"] * 2


def test_a_data_frame_of_no_logs_has_the_columns():
    assert tuple(open_logs([]).columns) == COLUMNS


def test_a_data_frame_wants_logs_that_can_all_be_read(tmp_path):
    with pytest.raises(InputError, match=r"other\.h5: no such log"):
        open_logs([write_log(tmp_path / "run.h5"), tmp_path / "other.h5"])


@pytest.mark.parametrize("command", ["summary", "compare"])
def test_one_log_is_open_at_a_time(tmp_path, capsys, monkeypatch, command):
    paths = [write_log(tmp_path / f"{seed}.h5", seed=seed) for seed in range(6)]
    broken = tmp_path / "broken.h5"
    broken.write_bytes(paths[0].read_bytes())
    with h5py.File(broken, "r+") as file:
        del file["is_ood"]
    counts = []
    real = h5py.File.__init__

    def count():
        return h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)

    def counted(self, *arguments, **options):
        real(self, *arguments, **options)
        counts.append(count())

    monkeypatch.setattr(h5py.File, "__init__", counted)
    gc.collect()
    before = count()  # logs in memory that other tests still hold
    assert main([command, *map(str, [broken, *paths])]) == 2
    assert len(counts) >= 7
    assert max(counts) == before + 1
    assert count() == before
    assert Path(capsys.readouterr().err.split(": ")[1]) == broken
