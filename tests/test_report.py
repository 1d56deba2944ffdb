"""The report command prints summaries, ends with code 2 and one line where there is no log, and starts without MPI."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from plain_logs import write_log

from mpisim.analysis.summary import as_text, summarize
from mpisim.analysis.table import rows
from mpisim.config import Config
from mpisim.report.__main__ import main
from mpisim.report.commands import COMMANDS


def test_of_one_log_the_command_prints_the_whole_summary(tmp_path, log_content, capsys):
    path = log_content.write(tmp_path / "run.h5", [log_content.round()], "interrupted")
    assert main(["summary", str(path)]) == 0
    expected = f"{path}: degree on ring:n=3, digits, seed 0 (interrupted)\n{as_text(summarize(path))}\n"
    assert capsys.readouterr() == (expected, "")


def test_of_several_logs_it_prints_a_line_each(tmp_path, capsys):
    paths = [
        write_log(tmp_path / f"{strategy}.h5", strategy=strategy, ood=((ood,) * 4,), status=status)
        for strategy, ood, status in (("degree", 0.75, "complete"), ("unweighted", 0.25, "running"))
    ]
    assert main(["summary", *map(str, paths)]) == 0
    heading, *lines, total = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["log", "strategy"]
    assert [(line.split()[1], "0.750" in line, line.split()[-1]) for line in lines] == [
        ("degree", True, "complete"),
        ("unweighted", False, "running"),
    ]
    assert total.startswith("2 runs, ")


@pytest.mark.parametrize("content, message", [(None, "no such log"), (b"text", "cannot be read as HDF5")])
def test_what_is_no_log_ends_the_command_with_one_line_and_code_2(tmp_path, capsys, content, message):
    path = tmp_path / "run.h5"
    if content is not None:
        path.write_bytes(content)
    assert main(["summary", str(path)]) == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(f"mpisim: {path}: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["summary", "compare"])
def test_logs_beside_the_wrong_one_are_shown(tmp_path, capsys, command):
    path = write_log(tmp_path / "run.h5", strategy="degree", ood=((0.75,) * 4,))
    assert main([command, str(tmp_path / "other.h5"), str(path)]) == 2
    output, error = capsys.readouterr()
    assert "degree" in output
    assert "0.750" in output
    assert error == f"mpisim: {tmp_path / 'other.h5'}: no such log\n"


@pytest.mark.parametrize("more", [[], ["--csv", "-"]])
@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_calls_a_log_broken_whose_link_is_of_no_node(tmp_path, capsys, command, more):
    path, out = write_log(tmp_path / "run.h5"), {"figures": "out", "animate": "out.gif", "page": "out.html"}
    with h5py.File(path, "r+") as file:
        file["link_source"][0] = 99
    if command in out:
        more = ["--out", str(tmp_path / out[command])]
    elif command == "watch":
        more = ["--once"]
    assert main([command, str(path), *more]) == 2
    output, error = capsys.readouterr()
    assert (output, error) == ("", f"mpisim: {path}: is a broken log: a link is of node 99, but the nodes are 0…3\n")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("command", "out"), [("figures", "figures"), ("page", "page.html")])
def test_figures_and_page_make_nothing_where_one_log_is_wrong(tmp_path, capsys, command, out):
    path = write_log(tmp_path / "run.h5")
    assert main([command, str(path), str(tmp_path / "other.h5"), "--out", str(tmp_path / out)]) == 2
    assert capsys.readouterr() == ("", f"mpisim: {tmp_path / 'other.h5'}: no such log\n")
    assert list(tmp_path.iterdir()) == [path]


def test_no_command_and_no_module_of_the_analysis_imports_mpi_or_torch(tmp_path):
    for extra in ("matplotlib", "plotly", "rich", "xarray"):
        pytest.importorskip(extra, reason=f"{extra} is not installed")
    logs = [
        str(write_log(tmp_path / f"{name}.h5", strategy=name, iid=scores, ood=scores))
        for name, scores in (("degree", [[0.5] * 4, [0.75] * 4]), ("unweighted", [[0.25] * 4, [0.5] * 4]))
    ]
    commands = {
        "summary": logs,
        "compare": logs,
        "figures": [*logs, "--out", str(tmp_path / "figures"), "--format", "svg"],
        "animate": [logs[0], "--out", str(tmp_path / "run.gif")],
        "page": [*logs, "--out", str(tmp_path / "page.html")],
        "watch": [logs[0], "--once"],
    }
    assert set(commands) == {command.name for command in COMMANDS}
    script = (
        "import importlib, json, pkgutil, sys, mpisim.analysis, mpisim.report.__main__ as report\n"
        "for module in pkgutil.walk_packages(mpisim.analysis.__path__, 'mpisim.analysis.'):\n"
        "    importlib.import_module(module.name)\n"
        "codes = [report.main([name, *rest]) for name, rest in json.loads(sys.argv[1]).items()]\n"
        "wrong = sorted({'mpi4py', 'torch'} & {*sys.modules})\n"
        "sys.stderr.write(f\"{codes} {'matplotlib.figure' in sys.modules} {wrong}\")"
    )
    command = [sys.executable, "-c", script, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[0, 0, 0, 0, 0, 0] True []"
    assert {path.name for path in tmp_path.iterdir()} > {"run.gif", "page.html", "figures"}


def test_the_module_runs_as_a_program_that_returns_the_code(tmp_path):
    command = [sys.executable, "-m", "mpisim.report", "summary", str(tmp_path / "run.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"mpisim: {tmp_path / 'run.h5'}: no such log\n")


def test_a_pipe_that_closes_ends_the_command_without_a_word(tmp_path):
    paths = [str(write_log(tmp_path / f"{number}.h5")) for number in range(3)]
    program = [sys.executable, "-m", "mpisim.report", "summary", *paths]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        started.stdout.close()
        assert started.stderr.read() == ""


@pytest.mark.parametrize("command", ["summary", "compare"])
def test_figures_on_stdout_come_without_anything_else(tmp_path, capsys, command):
    paths = [str(write_log(tmp_path / f"{strategy}.h5", strategy=strategy)) for strategy in ("degree", "unweighted")]
    assert main([command, *paths, "--json", "-"]) == 0
    content = json.loads(capsys.readouterr().out)
    found = content if command == "summary" else content["groups"]
    assert [row["strategy"] for row in found] == ["degree", "unweighted"]
    assert main([command, *paths, "--csv", "-"]) == 0
    read = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["strategy"] for row in read] == ["degree", "unweighted"]
    assert [float(row["ood_auc"]) for row in read] == [0.5, 0.5]


def test_files_with_the_figures_come_beside_the_table_in_new_folders_too(tmp_path, capsys):
    paths = [write_log(tmp_path / f"{number}.h5", seed=number) for number in range(2)]
    as_csv, as_json = tmp_path / "new" / "runs.csv", tmp_path / "runs.json"
    as_json.write_text("of an older run")
    assert main(["summary", *map(str, paths), "--csv", str(as_csv), "--json", str(as_json)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 runs; ")
    assert json.loads(as_json.read_text()) == rows(paths)
    assert [row["seed"] for row in csv.DictReader(as_csv.read_text().splitlines())] == ["0", "1"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0.h5", "1.h5", "new", "runs.csv", "runs.json"]


def test_the_figures_of_one_log_can_be_written_too(tmp_path, capsys):
    path = write_log(tmp_path / "run.h5")
    assert main(["summary", str(path), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == rows([path])


@pytest.mark.parametrize("command", ["summary", "compare"])
@pytest.mark.parametrize("kind", ["--csv", "--json"])
def test_a_log_is_never_written_over(tmp_path, capsys, command, kind):
    path = write_log(tmp_path / "run.h5")
    before = path.read_bytes()
    other_name = tmp_path / "link.h5"
    other_name.symlink_to(path)
    for out in (path, other_name):
        assert main([command, str(path), kind, str(out)]) == 2
        assert capsys.readouterr() == (
            "",
            f"mpisim: {out}: is one of the logs: take another name for what is made from them\n",
        )
    assert path.read_bytes() == before


@pytest.mark.parametrize("command, option", [("animate", "gif"), ("page", "html")])
def test_a_log_by_another_name_is_never_written_over(tmp_path, capsys, command, option):
    path = write_log(tmp_path / f"run.{option}")
    before = path.read_bytes()
    assert main([command, str(path), "--out", str(path)]) == 2
    assert "is one of the logs" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--csv", "-", "--json", "-"], "--csv - and --json -: give one of them a file"),
        (["--csv", "."], ".: is a folder: name a file in it"),
        (["--csv", "file/runs.csv"], "file/runs.csv: cannot be written: "),
    ],
)
def test_where_figures_cannot_go_is_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    path = write_log(tmp_path / "run.h5")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["summary", str(path), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mpisim: {message}")
    assert error.count("\n") == 1


def test_where_no_log_can_be_read_there_is_no_table(tmp_path, capsys):
    for command in ("summary", "compare"):
        assert main([command, str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]) == 2
        output, error = capsys.readouterr()
        assert (output, error.count("\n")) == ("", 2)


@pytest.mark.parametrize(
    "arguments, function, expected",
    [
        (
            ["figures", "a.h5", "b.h5", "--out", "here"],
            "figures.write_figures",
            ((["a.h5", "b.h5"], Path("here"), ("svg", "png")), {}),
        ),
        (
            ["figures", "a.h5", "--out", "here", "--format", "svg"],
            "figures.write_figures",
            ((["a.h5"], Path("here"), ("svg",)), {}),
        ),
        (
            ["animate", "a.h5", "--out", "a.gif"],
            "animation.animate",
            (("a.h5", Path("a.gif")), {"quantity": "iid_accuracy"}),
        ),
        (
            ["animate", "a.h5", "--out", "a.mp4", "--show", "ood", "--fps", "2.5"],
            "animation.animate",
            (("a.h5", Path("a.mp4")), {"quantity": "ood_accuracy", "fps": 2.5}),
        ),
        (
            ["animate", "a.h5", "--out", "a.gif", "--show", "recall:2"],
            "animation.animate",
            (("a.h5", Path("a.gif")), {"quantity": "recall:2"}),
        ),
        (["page", "a.h5", "--out", "a.html"], "page.write_page", ((["a.h5"], Path("a.html"), Config().as_dict()), {})),
        (["watch", "a.h5"], "watch.watch", (("a.h5",), {"once": False, "interval": 1.0})),
        (
            ["watch", "a.h5", "--once", "--interval", "3"],
            "watch.watch",
            (("a.h5",), {"once": True, "interval": 3.0}),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_command_asks_the_analysis_for_what_its_options_say(monkeypatch, capsys, arguments, function, expected):
    asked = []

    def answer(*given, **named):
        asked.append((given, named))
        return []

    pytest.importorskip(f"mpisim.analysis.{function.split('.')[0]}")
    monkeypatch.setattr(f"mpisim.analysis.{function}", answer)
    assert main(arguments) == 0
    assert asked == [expected]


@pytest.mark.parametrize(
    "command, library", [("figures", "matplotlib"), ("animate", "matplotlib"), ("page", "plotly"), ("watch", "rich")]
)
def test_a_library_that_is_missing_is_one_line_that_says_what_to_install(tmp_path, command, library):
    path = write_log(tmp_path / "run.h5")
    out = {"figures": tmp_path / "here", "animate": tmp_path / "run.gif", "page": tmp_path / "run.html"}
    options = ["--out", str(out[command])] if command in out else ["--once"]
    script = (
        "import sys; sys.modules[sys.argv[1]] = None; import mpisim.report.__main__ as report;"
        " sys.exit(report.main(sys.argv[2:]))"
    )
    program = [sys.executable, "-c", script, library, command, str(path), *options]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert library in done.stderr
    assert done.stderr.endswith(": pip install 'mpisim[report]'\n")
    assert done.stderr.count("\n") == 1


def test_a_missing_module_of_ours_is_no_missing_library(tmp_path, monkeypatch):
    def fails(*given, **named):
        raise ModuleNotFoundError("No module named 'mpisim.nothing'", name="mpisim.nothing")

    monkeypatch.setattr("mpisim.analysis.watch.watch", fails)
    with pytest.raises(ModuleNotFoundError):
        main(["watch", "a.h5"])


@pytest.mark.parametrize("quantity", ["foo", "recall", "iid_accuracy"])
def test_a_quantity_that_cannot_be_shown_is_told_with_the_words_of_the_help(tmp_path, capsys, quantity):
    path = write_log(tmp_path / "run.h5")
    assert main(["animate", str(path), "--out", str(tmp_path / "run.gif"), "--show", quantity]) == 2
    said = f"mpisim: unknown quantity '{quantity}': choose from iid, ood, recall:LABEL\n"
    assert capsys.readouterr() == ("", said)
    with pytest.raises(SystemExit):
        main(["animate", "--help"])
    assert "--show iid|ood|recall:LABEL" in capsys.readouterr().out


def test_ctrl_c_ends_the_command_without_a_traceback(tmp_path, monkeypatch, capsys):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("mpisim.analysis.table.row", interrupted)
    assert main(["summary", str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [[], ["paint", "a.h5"], ["summary"], ["figures", "a.h5"]])
def test_a_command_line_that_makes_no_sense_is_one_line(capsys, arguments):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.endswith("(--help lists the options)\n")
    assert error.count("\n") == 1


def test_a_terminal_without_our_letters_gets_the_table_all_the_same(tmp_path):
    paths = [str(write_log(tmp_path / f"{number}.h5", ood_nodes=[])) for number in range(2)]
    program = [sys.executable, "-m", "mpisim.report", "summary", *paths]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(program, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?" in done.stdout  # in place of a dash


@pytest.mark.parametrize(
    "arguments",
    [
        ["summary", "a\nb.h5"],
        ["summary", "a.h5", "--csv", "a.h5/b\nc"],
        ["figures", "a\nb.h5", "--out", "figures"],
        ["animate", "a\nb.h5", "--out", "a.gif"],
        ["page", "a\nb.h5", "--out", "a.html"],
        ["watch", "a\nb.h5", "--once"],
        ["watch", "a.h5", "--interval", "a\nb"],
        ["paint", "a\nb"],
        ["summary", "a\x1b[2J\rb.h5"],
    ],
)
def test_an_error_is_one_line_that_does_nothing_to_the_terminal(tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    write_log(Path("a.h5"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("mpisim: ")
    assert error.endswith("\n")
    assert error[:-1].isprintable()


def test_a_file_name_of_two_lines_is_told_in_one(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "run\n.h5"), str(tmp_path / "other.h5")]) == 2
    error = capsys.readouterr().err
    assert error == f"mpisim: {tmp_path}/run\\n.h5: no such log\nmpisim: {tmp_path}/other.h5: no such log\n"
