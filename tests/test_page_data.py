"""What the page holds is what the log says, as exactly as it promises, in the room that it has, and written whole."""

import base64
import json
import re
import sys
import zlib

import h5py
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from plain_logs import write_log

from mpisim.analysis.measures import accuracy_auc
from mpisim.analysis.page import write_page
from mpisim.analysis.page_data import SPARED, packed, page_data
from mpisim.errors import InputError
from mpisim.storage.variables import logged_variables

plotly = pytest.importorskip("plotly.offline", reason="plotly is not installed")

TRAINED = logged_variables(trained=True, aggregated=False, epochs=False)
AGGREGATED = logged_variables(trained=False, aggregated=True, epochs=False)
ROOM = 10**9
CHECKED = settings(derandomize=True, deadline=None, max_examples=50)
SHARES = st.floats(0, 1, width=32) | st.just(np.nan)


def unpacked(array):
    """Return a packed array, read as its description says: the page's script does the same."""
    data = zlib.decompress(base64.b64decode(array["data"]))
    values = np.frombuffer(data, {"share": "<u2", "number": "<f4", "integer": "<i4"}[array["kind"]])
    if array["kind"] == "share":
        values = np.where(values == 65_535, np.nan, values / 65_534)
    return values.reshape(array["shape"])


@pytest.fixture
def content(log_content):
    """Return content of logs whose nodes are a path, 0 – 1 – 2, with the OOD node in the middle."""
    log_content.static |= {"link_target": [0, 1, 1, 2, 0], "link_source": [1, 0, 2, 1, 0], "link_weight": [0.5] * 5}
    log_content.static |= {"degree": [1, 2, 1], "is_ood": [0, 1, 0], "rank_of_node": [0, 0, 1]}
    return log_content


@pytest.fixture
def rounds(content):
    return [content.round() for _ in range(4)]


@pytest.fixture
def log(tmp_path, content, rounds):
    return content.write(tmp_path / "run.h5", rounds, "complete", TRAINED)


@CHECKED
@given(arrays(np.float64, array_shapes(max_dims=3, max_side=5), elements=SHARES))
def test_a_share_is_good_to_half_a_step_and_keeps_nan(values):
    np.testing.assert_allclose(unpacked(packed(values, "share")), values, rtol=0, atol=0.5001 / 65_534)


@CHECKED
@given(arrays(np.float64, array_shapes(max_dims=2), elements=st.floats(1e-30, 1e38) | st.just(0.0)))
def test_a_number_is_good_to_1_in_16384(values):
    np.testing.assert_allclose(unpacked(packed(values, "number")), values, rtol=1 / 16_384)
    np.testing.assert_array_equal(unpacked(packed(-values, "number")), -unpacked(packed(values, "number")))


def test_numbers_keep_what_is_no_number_and_too_large_ones_become_infinite():
    values = np.array([np.nan, np.inf, -np.inf, 1e300, 0.0])
    np.testing.assert_array_equal(unpacked(packed(values, "number")), [np.nan, np.inf, -np.inf, np.inf, 0])


def test_the_arrays_of_a_run_are_those_of_its_log(log, rounds):
    [run] = page_data([log], ROOM)
    for name in ("iid_accuracy", "ood_accuracy", "own_accuracy", "iid_loss", "ood_loss", "train_loss"):
        wanted = [values[name] for values in rounds]
        np.testing.assert_allclose(unpacked(run["scores"][name]), wanted, rtol=1e-4, atol=1e-5, err_msg=name)
    recall = np.array([values["iid_recall"] for values in rounds])
    for label in range(4):
        np.testing.assert_allclose(unpacked(run["scores"]["iid_recall"])[label], recall[:, :, label], atol=1e-4)
    nodes = {name: unpacked(array) for name, array in run["nodes"].items()}
    assert nodes["links"].tolist() == [[0, 1], [1, 2]]
    assert (nodes["degree"].tolist(), nodes["degree_rank"].tolist()) == ([1, 2, 1], [2, 1, 3])
    wanted = accuracy_auc(np.array([values["iid_accuracy"] for values in rounds]))
    np.testing.assert_allclose(nodes["iid_auc"], wanted, atol=1e-4)
    assert unpacked(run["prediction"]["distance"]).tolist() == [1, 0, 1]
    seconds = np.array([[values[f"{part}_seconds"] for values in rounds] for part in ("train", "test", "exchange")])
    np.testing.assert_allclose(unpacked(run["seconds"]["by_round"])[:3], seconds.mean(axis=2), rtol=1e-4)
    np.testing.assert_allclose(unpacked(run["seconds"]["by_rank"])[:3], seconds.sum(axis=1), rtol=1e-4)


def test_seconds_that_a_rank_does_not_have_count_for_no_round(tmp_path, content):
    rounds = [content.round(train_seconds=[1.0, 3.0]), content.round(train_seconds=[5.0, np.nan])]
    [run] = page_data([content.write(tmp_path / "run.h5", rounds, variables=TRAINED)], ROOM)
    assert unpacked(run["seconds"]["by_round"])[0].tolist() == [2, 5]
    assert unpacked(run["seconds"]["by_rank"])[0].tolist() == [6, 3]


def test_where_only_aggregated_models_were_tested_theirs_are_the_scores(tmp_path, content):
    rounds = [content.round() for _ in range(2)]
    [run] = page_data([content.write(tmp_path / "run.h5", rounds, variables=AGGREGATED)], ROOM)
    assert run["after_aggregation"]
    wanted = [values["ood_accuracy_aggregated"] for values in rounds]
    np.testing.assert_allclose(unpacked(run["scores"]["ood_accuracy"]), wanted, atol=1e-4)


def test_what_does_not_fit_is_left_out_and_named_and_accuracies_are_not(log):
    [whole] = page_data([log], ROOM)
    assert whole["left_out"] == []
    recall, size = len(json.dumps(whole["scores"]["iid_recall"])), len(json.dumps([whole]))
    [run] = page_data([log], size - recall)
    assert run["left_out"] == ["iid_recall"]
    without = {**whole, "scores": {name: whole["scores"][name] for name in ("iid_accuracy", "ood_accuracy")}}
    [run] = page_data([log], len(json.dumps([without | {"left_out": list(SPARED)}])))
    assert run["left_out"] == ["own_accuracy", "iid_loss", "ood_loss", "train_loss", "iid_recall"]
    assert set(run["scores"]) == {"iid_accuracy", "ood_accuracy"}
    assert run["rounds"] == whole["rounds"]


def large_logs(folder, count, num_rounds=60, num_nodes=50):
    """Write logs of random accuracies, which take the most room; return their paths and the accuracies."""
    scores = np.random.default_rng(0).random((count, num_rounds, num_nodes))
    topology = f"ba:n={num_nodes},m=2,seed=0"
    return [
        write_log(folder / f"{number}.h5", topology, iid=each, ood=each, seed=number)
        for number, each in enumerate(scores)
    ], scores


def test_where_accuracies_do_not_fit_either_they_are_those_of_some_rounds(tmp_path, monkeypatch):
    paths, scores = large_logs(tmp_path, 12)
    sizes = {}
    for budget in (10**6, 150_000):
        monkeypatch.setattr("mpisim.analysis.page.BUDGET", budget)
        write_page(paths, tmp_path / f"{budget}.html")
        text = (tmp_path / f"{budget}.html").read_text(encoding="utf-8")
        data = re.search(r'id="logs">(.*)</script>', text)[1]
        sizes[budget] = len(data)
        assert len(data) <= budget
        runs = json.loads(data)
    assert sizes[10**6] > 1.5 * sizes[150_000]
    assert sizes[150_000] > 0.8 * 150_000  # what room there is, is used
    for run, accuracy in zip(runs, scores, strict=True):
        rounds = np.array(run["rounds"])
        assert (run["num_rounds"], rounds[0], rounds[-1]) == (60, 1, 60)
        assert 2 < len(rounds) < 60
        assert set(np.diff(rounds)) <= {int(59 / (len(rounds) - 1)), int(59 / (len(rounds) - 1)) + 1}
        np.testing.assert_allclose(unpacked(run["scores"]["ood_accuracy"]), accuracy[rounds - 1], atol=1e-4)


def test_logs_that_do_not_fit_at_all_are_refused_by_how_many_do(tmp_path, monkeypatch):
    paths, _ = large_logs(tmp_path, 12)
    monkeypatch.setattr("mpisim.analysis.page.BUDGET", 30_000)
    with pytest.raises(
        InputError, match=r"^the data of 12 logs takes .* room for 30,000: .* the first \d fit"
    ) as error:
        write_page(paths, tmp_path / "page.html")
    fit = int(re.search(r"first (\d) fit", str(error.value))[1])
    assert fit > 0
    write_page(paths[:fit], tmp_path / "page.html")
    with pytest.raises(InputError, match=rf"of {fit + 1} logs .* the first {fit} fit"):
        write_page(paths[: fit + 1], tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_the_options_that_matter_come_first_then_those_that_were_chosen(tmp_path, content):
    options = {"quiet": True, "lr": 0.5, "betas": [0.9, 0.999], "rounds": 4, "strategy": "degree", "shuffle": False}
    content.attributes = content.attributes | {"config": json.dumps(options)}
    path = content.write(tmp_path / "run.h5", [], variables=TRAINED)
    defaults = {"quiet": False, "lr": 0.1, "betas": (0.9, 0.999), "rounds": 20, "strategy": "degree", "shuffle": False}
    [run] = page_data([path], ROOM, defaults)
    assert list(run["options"])[:2] == ["strategy", "rounds"]
    assert {name for name, option in run["options"].items() if option["first"]} == {"strategy", "rounds", "lr"}
    assert [run["options"][name]["text"] for name in ("quiet", "betas", "lr")] == ["yes", "0.9 0.999", "0.5"]


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ([{"strategy": "degree", "seed": 0}, {"strategy": "none", "seed": 1}], ["degree, seed 0", "none, seed 1"]),
        ([{"output": "x.h5"}, {"output": "y.h5"}], ["run0", "run1"]),
        ([{"lr": 0.1}, {"lr": 0.1}, {"lr": 0.2}], ["run0", "run1", "lr 0.2"]),
        ([{"lr": 0.1}, {"lr": 0.2}], ["lr 0.1", "lr 0.2"]),
        ([{"ood_node": [1, 2]}, {}], ["OOD trigger at node 1 2", "OOD trigger at degree rank 1"]),
        ([{"ood": "none", "ood_rank": 3}, {"ood_rank": 4}], ["OOD none", "OOD trigger at degree rank 4"]),
        ([{"transport": "device"}, {"precision": "float32"}], ["run0", "run1"]),
        (
            [{"topology": f"ba:n=9,m=2,seed={seed}", "seed": seed} for seed in (0, 1)],
            [f"ba:n=9,m=2,seed={seed}" for seed in (0, 1)],
        ),
        (
            [{"dataset": "digits", "tinymem_tests": 9}, {"dataset": "tinymem", "tinymem_tests": 8}, {"lr": 2}, {}],
            ["digits, run0", "tinymem", "digits, lr 2", "digits, run3"],
        ),
    ],
)
def test_runs_are_named_by_what_differs(tmp_path, content, options, labels):
    paths = []
    for number, each in enumerate(options):
        content.attributes = content.attributes | {"config": json.dumps({"rounds": 4} | each)}
        paths.append(content.write(tmp_path / f"run{number}.h5", [], variables=TRAINED))
    assert [run["label"] for run in page_data(paths, ROOM)] == labels


def test_an_option_that_an_older_log_does_not_know_is_shown_by_its_default_and_tells_only_if_it_differs(
    tmp_path, content
):
    paths = []
    for number, more in enumerate(({}, {"wire": "bfloat16", "precision": "float32", "transport": "device"})):
        content.attributes = content.attributes | {"config": json.dumps({"rounds": 4} | more)}
        paths.append(content.write(tmp_path / f"run{number}.h5", [], variables=TRAINED))
    older, newer = page_data(paths, ROOM)
    assert [older["label"], newer["label"]] == ["wire float32", "wire bfloat16"]
    assert {name: option["text"] for name, option in older["options"].items() if name != "rounds"} == {
        "wire": "float32",
        "precision": "float32",
    }
    assert {name for name, option in newer["options"].items() if not option["tells"]} == {"transport"}


def test_provenance_counts_equal_ranks(tmp_path, content):
    content.attributes = content.attributes | {"hosts": '["a", "a", "b"]', "library_versions": '{"numpy": "2"}'}
    [run] = page_data([content.write(tmp_path / "run.h5", [], variables=TRAINED)], ROOM)
    assert run["provenance"][1:] == [["library versions", "numpy 2"], ["hosts", "a × 2, b × 1"]]
    assert run["provenance"][0][0] == "date created"


def test_a_thousand_nodes_and_two_hundred_rounds_stay_under_10_mb_beside_the_library(tmp_path, content):
    graph = nx.barabasi_albert_graph(1000, 2, seed=0)
    pairs = np.array([*graph.edges, *[(b, a) for a, b in graph.edges], *[(node, node) for node in graph]])
    content.sizes = {"node": 1000, "rank": 8, "link": len(pairs), "label": 10, "epoch": 5}
    content.__init__()
    content.static |= {"link_target": pairs[:, 0], "link_source": pairs[:, 1], "link_weight": np.full(len(pairs), 0.2)}
    content.static |= {"degree": [graph.degree[node] for node in range(1000)], "is_ood": np.arange(1000) == 3}
    # Accuracies that are drawn have no order to be packed by: no run's are as large.
    log = content.write(tmp_path / "run.h5", [content.round() for _ in range(200)], "complete", TRAINED)
    write_page([log], tmp_path / "page.html")
    size = (tmp_path / "page.html").stat().st_size - len(plotly.get_plotlyjs().encode())
    assert size < 10_000_000
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    [run] = json.loads(re.search(r'id="logs">(.*)</script>', text)[1])
    assert unpacked(run["scores"]["ood_accuracy"]).shape == (200, 1000)


def test_a_page_takes_the_place_of_another_and_leaves_nothing_beside_it(tmp_path, log):
    before = log.read_bytes()
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "page.html").write_text("old")
    write_page([log], folder / "page.html")
    assert (folder / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in folder.iterdir()] == ["page.html"]
    assert log.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [("run.h5", "must end in .html"), ("folder.html", "is a folder"), ("link.html", "is one of the logs")],
)
def test_a_page_is_not_written_over_a_log_or_a_folder(tmp_path, log, name, message):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "link.html").symlink_to(log)
    before = log.read_bytes()
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        write_page([log], tmp_path / name)
    assert log.read_bytes() == before


def test_too_many_logs_no_log_and_what_is_none_are_refused(tmp_path, log):
    with pytest.raises(InputError, match=r"101 logs: a page shows 100 at most: give fewer"):
        write_page([log] * 101, tmp_path / "page.html")
    with pytest.raises(InputError, match="a page needs a log"):
        write_page([], tmp_path / "page.html")
    (tmp_path / "bad.h5").write_bytes(log.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"bad\.h5: cannot be read as HDF5"):
        write_page([log, tmp_path / "bad.h5"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_without_plotly_one_line_says_what_to_install(tmp_path, log, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(InputError, match=r"page needs plotly: pip install 'mpisim\[report\]'"):
        write_page([log], tmp_path / "page.html")


def test_a_title_of_bytes_that_are_no_text_does_not_stop_the_page(tmp_path, content):
    path = content.write(tmp_path / "run.h5", [], variables=TRAINED)
    with h5py.File(path, "r+") as file:
        file.attrs.create("title", b"caf\xe9 <b>", dtype=h5py.string_dtype())
    write_page([path], tmp_path / "page.html")
    assert "<title>caf&#56553; &lt;b&gt;</title>" in (tmp_path / "page.html").read_text(encoding="utf-8")
