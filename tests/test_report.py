"""The report command prints summaries, ends with code 2 and one line where there is no log, and starts without MPI."""

import subprocess
import sys

import pytest
from plain_logs import write_log

from mpisim.analysis.summary import as_text, summarize
from mpisim.report.__main__ import main


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


def test_the_command_imports_neither_mpi_nor_torch(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [log_content.round()])
    script = (
        "import sys, mpisim.report.__main__ as report;"
        " print(report.main(sys.argv[1:]), {'mpi4py', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "summary", str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 set()"


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
