"""The report command prints summaries, ends with code 2 and one line where there is no log, and starts without MPI."""

import subprocess
import sys

import pytest

from mpisim.analysis.summary import as_text, summarize
from mpisim.report import main


def test_the_command_prints_the_summary_of_each_log(tmp_path, log_content, capsys):
    paths = [
        log_content.write(tmp_path / f"{name}.h5", [log_content.round()], name) for name in ("running", "complete")
    ]
    assert main(["summary", *map(str, paths)]) == 0
    expected = [
        f"{path}: degree on ring:n=3, digits, seed 0 ({path.stem})\n{as_text(summarize(path))}\n" for path in paths
    ]
    assert capsys.readouterr() == ("".join(expected), "")


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


def test_logs_before_the_wrong_one_are_shown(tmp_path, log_content, capsys):
    path = log_content.write(tmp_path / "run.h5", [log_content.round()])
    assert main(["summary", str(path), str(tmp_path / "other.h5")]) == 2
    output, error = capsys.readouterr()
    assert output.startswith(f"{path}: degree on ring")
    assert error == f"mpisim: {tmp_path / 'other.h5'}: no such log\n"


def test_the_command_imports_neither_mpi_nor_torch(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [log_content.round()])
    script = (
        "import sys, mpisim.report; print(mpisim.report.main(sys.argv[1:]), {'mpi4py', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "summary", str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 set()"


def test_the_module_runs_as_a_program_that_returns_the_code(tmp_path):
    command = [sys.executable, "-m", "mpisim.report", "summary", str(tmp_path / "run.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"mpisim: {tmp_path / 'run.h5'}: no such log\n")
