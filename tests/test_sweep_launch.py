"""How a sweep starts its runs, and what it makes of their ends: by launchers that start nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mpisim.run
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


def test_all_runs_may_be_told_to_download_nothing(launcher, capsys):
    """Which changes neither their names nor what else they are given."""
    Path("s.toml").write_text("[grid]\nno_download = [false, true]\nseed = [4]\n[[set]]\nwhen = { seed = 4 }\nlr = 1\n")
    assert main(["s.toml", "--run", *launcher("exit 3")]) == 3
    assert main(["s.toml", "--run", "--no-download", *launcher("exit 3")]) == 3
    given = [[word for word in call if word.startswith("--")] for call in calls()]
    last = ["--resume", "--quiet"]
    assert given == [
        ["--seed=4", "--lr=1", "--output=results/s/no-no-download_seed4.h5", *last],
        ["--no-download", "--seed=4", "--lr=1", "--output=results/s/no-download_seed4.h5", *last],
        ["--seed=4", "--lr=1", "--no-download", "--output=results/s/no-no-download_seed4.h5", *last],
        ["--no-download", "--seed=4", "--lr=1", "--output=results/s/no-download_seed4.h5", *last],
    ]


def test_a_run_is_not_told_what_is_for_estimates(launcher):
    Path("s.toml").write_text("[base]\nlatency = 3\nranks_per_host = 2\n[grid]\nseed = [4]\nbandwidth = [9]\n")
    assert main(["s.toml", "--run", *launcher("exit 3")]) == 3
    [call] = calls()
    assert call[call.index("mpisim.run") + 1 : -3] == ["--seed=4"]


def test_a_folder_that_cannot_be_written_starts_no_run(launcher, capsys):
    write_file("fl", "degree")
    assert main(["s.toml", "--run", "--output-dir", "/proc/results", *launcher("exit 3")]) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith("mpisim: --output-dir /proc/results: /proc cannot be written: ")
    assert errors.count("\n") == 1
    assert not Path("calls").exists()


def test_a_run_that_another_process_ends_meanwhile_is_counted_as_done(launcher, capsys):
    """In the line of the next run that ends, and not only when all have."""
    write_file("fl", "degree", "random")
    options = ["--rounds=7", "--shuffle", "--topology=ring:n=3", "--epochs=1", "--train-samples=60", "--quiet"]
    Path("s.toml").write_text(
        "[base]\nrounds = 7\nshuffle = true\ntopology = 'ring:n=3'\nepochs = 1\ntrain_samples = 60\n"
        "[grid]\nstrategy = ['fl', 'degree', 'random']\n"
    )
    assert mpisim.run.main([*options, "--strategy=fl", "--output=elsewhere.h5"]) == 0
    FOLDER.mkdir(parents=True)
    ends = "[ -e ended ] || { mv elsewhere.h5 results/s/fl.h5; touch ended; }; flock results/s/.fl.h5.lock true; exit 3"
    holds = "while [ ! -e ended ]; do sleep 0.05; done"
    holder = subprocess.Popen(["flock", "results/s/.fl.h5.lock", "sh", "-c", f"touch held; {holds}"])
    try:
        while not Path("held").exists():
            assert holder.poll() is None
            time.sleep(0.02)
        assert main(["s.toml", "--run", *launcher(ends)]) == 3
    finally:
        holder.kill()
        holder.communicate()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines[-3:-1]] == [["1/3", "degree"], ["1/3", "random"]]
    assert lines[-1].startswith("1 of 3 runs done, in results/s; 2 left")


@pytest.mark.parametrize("jobs, kept", [(1, "x1 29500"), (2, " ")])
def test_runs_side_by_side_are_not_told_to_meet_at_one_place(launcher, monkeypatch, jobs, kept):
    monkeypatch.setenv("MASTER_ADDR", "x1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    write_file("fl", "degree", "random")
    note = 'echo "$MASTER_ADDR $MASTER_PORT" >> met; exit 3'
    assert main(["s.toml", "--run", "--jobs", str(jobs), *launcher(note)]) == 3
    assert Path("met").read_text().splitlines() == [kept] * 3


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
        (
            "echo 'ssh: Could not resolve hostname x1'; echo '[mpiexec@x0] main: process manager error'; exit 255",
            "exit code 255: ssh: Could not resolve hostname x1",
        ),
        ("echo '[proxy:0@x0] some error'; exit 7", "exit code 7: [proxy:0@x0] some error"),
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
