"""How a sweep starts its runs, and what it makes of their ends: by launchers that start nothing."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from mpisim.storage.lock import locked
from mpisim.sweep.__main__ import main

FOLDER = Path("results/s")


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """Return a function that makes a launcher of some shell commands, which notes how it was called."""
    monkeypatch.chdir(tmp_path)

    def make(commands):
        note = f"import json, sys; print(json.dumps(sys.argv[1:]), file=open({str(tmp_path / 'calls')!r}, 'a'))"
        path = tmp_path / "launcher"
        path.write_text(f'#!/bin/sh\n\'{sys.executable}\' -ISc "{note}" "$@"\n{commands}\n')
        path.chmod(0o755)
        return ["--launcher", f"{path} -n {{ranks}}"]

    return make


def calls():
    return [json.loads(line) for line in Path("calls").read_text().splitlines()]


def write_file(*strategies):
    Path("s.toml").write_text(f"[base]\nrounds = 7\nshuffle = true\n[grid]\nstrategy = {list(strategies)}\n")


def test_a_run_gets_its_options_its_log_and_the_time_that_is_left(launcher):
    write_file("fl", "degree", "random")
    options = ["--ranks", "3", "--index", "1", "--walltime", "5000", *launcher("exit 3")]
    assert main(["s.toml", "--run", *options]) == 3
    [[*words, walltime]] = calls()
    of_run = ["--rounds=7", "--shuffle", "--strategy=degree"]
    kept = ["--output=results/s/degree.h5", "--resume", "--quiet"]
    assert words == ["-n", "3", sys.executable, "-m", "mpisim.run", *of_run, *kept]
    assert 4000 < float(walltime.removeprefix("--walltime=")) <= 5000


def test_after_its_walltime_a_sweep_starts_no_run(launcher, capsys):
    write_file("fl", "degree")
    assert main(["s.toml", "--run", "--walltime", "4", *launcher("sleep 4; exit 3")]) == 3
    assert len(calls()) == 1
    summary = "0 of 2 runs done, in results/s; 2 left: the same command goes on"
    printed, errors = capsys.readouterr()
    assert (printed.splitlines()[-1], errors) == (summary, "")
    assert not FOLDER.exists()  # a run that was stopped has not failed


@pytest.mark.parametrize(
    "commands, why",
    [
        ("exit 0", "exit code 0: it said nothing"),
        ("echo some; echo last >&2; exit 7", "exit code 7: last"),
        ("echo Traceback; echo 'OSError: disk full'; echo '= EXIT CODE: 1'; exit 1", "exit code 1: OSError: disk full"),
        ("kill -KILL $$", "died of SIGKILL: it said nothing"),
    ],
)
def test_what_a_run_that_failed_said_is_kept(launcher, capsys, commands, why):
    write_file("fl", "degree")
    assert main(["s.toml", "--run", *launcher(commands)]) == 1
    assert len(calls()) == 2
    lines = [f"mpisim: run {run}: {why} (results/s/{run}.failed)" for run in ("fl", "degree")]
    assert capsys.readouterr().err.splitlines() == lines
    kept = (FOLDER / "fl.failed").read_text().splitlines()
    assert kept[0] == why
    assert "echo some" not in commands or kept[-2:] == ["some", "last"]


def test_a_run_that_another_process_writes_is_not_started(launcher, capsys):
    write_file("fl", "degree")
    with locked(FOLDER / "fl.h5"):
        assert main(["s.toml", "--run", *launcher("exit 1")]) == 1
    assert ["--strategy=degree" in call for call in calls()] == [True]
    assert "; 1 failed" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    "how, code, words",
    [
        ("exit 2", 3, "; 1 left alone: another process is writing it"),  # it was quicker
        ("kill -KILL $$", 1, "; 1 failed"),  # it is this run's own rank
    ],
)
def test_a_run_that_ends_while_its_log_is_being_written(launcher, capsys, how, code, words):
    write_file("fl")
    FOLDER.mkdir(parents=True)
    held = "flock results/s/.fl.h5.lock sh -c 'echo $$ >held; exec sleep 600' & until [ -s held ]; do sleep 0.1; done"
    try:
        assert main(["s.toml", "--run", *launcher(f"{held}; {how}")]) == code
    finally:
        os.kill(int(Path("held").read_text()), signal.SIGKILL)
    assert capsys.readouterr().out.splitlines()[-1] == f"0 of 1 run done, in results/s{words}"
