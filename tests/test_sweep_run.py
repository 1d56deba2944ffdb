"""Sweeps carried out on this machine: after a death, a failure or a signal the next call does the rest, no more."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import h5py
import pytest
from chaos import await_end, descendants, kill, ranks_among, results_of
from suite_device import assert_same_results

import mpisim.run
from mpisim.storage.checkpoint import checkpoint_folder, checkpoints
from mpisim.sweep.__main__ import main
from mpisim.sweep.expansion import expand
from mpisim.sweep.file import read_sweep

PATIENCE = 240.0  # seconds, for what takes some twenty
ENDLESS = 100_000  # rounds
FOLDER = Path("results/s")
SWEEP = [sys.executable, "-m", "mpisim.sweep", "s.toml", "--run"]
BASE = """
[base]
topology = "ring:n=3"
epochs = 1
train_samples = 100
test_samples = 60
checkpoint_every = 1
threads = 1
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    kill(working_here())


def working_here():
    """Return the processes that work in this folder, but for this one."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and (process / "cwd").samefile("."):
                found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def write_file(more="", **rounds):
    """Write a sweep file with a run for each strategy, of so many rounds."""
    rules = [
        f"[[set]]\nwhen = {{ strategy = '{strategy}' }}\nrounds = {number}\n" for strategy, number in rounds.items()
    ]
    Path("s.toml").write_text(f"{BASE}[grid]\nstrategy = {list(rounds)}\n{''.join(rules)}{more}")


def start(*options):
    return subprocess.Popen([*SWEEP, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def sweep(*options):
    return subprocess.run([*SWEEP, *options], capture_output=True, text=True, timeout=PATIENCE, check=False)


def ended(printed):
    """Return the runs that a sweep says have ended, and how."""
    return re.findall(r"^\d/\d  (\S+)  (\w+)", printed, re.MULTILINE)


def log_of(run):
    return FOLDER / f"{run}.h5"


def num_rounds(run):
    with suppress(OSError, KeyError), h5py.File(log_of(run)) as log:
        return len(log["round"])
    return 0


def status_of(run):
    with h5py.File(log_of(run)) as log:
        return log.attrs["status"]


def as_they_are(*runs):
    return {run: (log_of(run).read_bytes(), log_of(run).stat().st_mtime_ns) for run in runs}


def wait_for(holds, process=None):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def check_undisturbed(*names):
    """Find out that the logs have the bits of runs that nobody disturbed."""
    for run in expand(read_sweep(Path("s.toml"))):
        if run.name in names:
            undisturbed = Path("undisturbed") / log_of(run.name).name
            assert mpisim.run.main([*run.flags(), "--quiet", "--output", str(undisturbed)]) == 0
            assert_same_results(results_of(log_of(run.name)), results_of(undisturbed))


# Deaths.


def test_of_a_sweep_that_is_killed_the_next_call_does_what_is_missing_and_leaves_alone_what_goes_on(here):
    write_file(fl=1, degree=ENDLESS, random=1)
    process = start()
    wait_for(lambda: num_rounds("degree") >= 2, process)
    before = as_they_are("fl")
    kill([process.pid])
    process.communicate()

    done = sweep()
    assert (done.returncode, done.stderr) == (3, "")
    assert ended(done.stdout) == [("random", "done")]
    summary = "2 of 3 runs done, in results/s; 1 left alone: another process is writing it"
    assert done.stdout.splitlines()[-1] == summary
    assert as_they_are("fl") == before

    orphans = working_here()
    assert len(ranks_among(orphans)) == 1
    kill(orphans)
    await_end(orphans)
    before = as_they_are("fl", "random")
    write_file(fl=1, degree=num_rounds("degree") + 1, random=1)
    done = sweep()
    assert (done.returncode, done.stderr) == (0, "")
    assert ended(done.stdout) == [("degree", "done")]
    assert as_they_are("fl", "random") == before
    assert sorted(path.name for path in FOLDER.iterdir()) == ["degree.h5", "fl.h5", "random.h5"]
    check_undisturbed("degree")


def test_a_run_that_is_killed_stops_no_other_and_goes_on_at_the_next_call(here, capsys):
    write_file(degree=ENDLESS, fl=1)
    process = start()
    wait_for(lambda: num_rounds("degree") >= 2, process)
    [rank] = ranks_among(descendants(process.pid))
    kill([rank])
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, printed + errors
    assert ended(printed) == [("degree", "failed"), ("fl", "done")]
    assert printed.splitlines()[-1] == "1 of 2 runs done, in results/s; 1 failed"
    [why] = re.findall(r"^mpisim: run degree: (exit code .*\bsignal 9\b.*) \(results/s/degree.failed\)\n$", errors)
    assert (FOLDER / "degree.failed").read_text().splitlines()[0] == why
    assert main(["s.toml", "--status"]) == 0
    assert f"failed           1\n    0  degree: {why}\n" in capsys.readouterr().out

    played, before = num_rounds("degree"), as_they_are("fl")
    write_file(degree=played + 1, fl=1)
    done = sweep()
    assert (done.returncode, done.stderr) == (0, "")
    assert ended(done.stdout) == [("degree", "done")]
    assert as_they_are("fl") == before
    assert sorted(path.name for path in FOLDER.iterdir()) == ["degree.h5", "fl.h5"]
    check_undisturbed("degree")


# Failures.


def test_a_run_that_fails_stops_no_other_and_is_tried_again(here, capsys):
    write_file("[[set]]\nwhen = { strategy = 'fl' }\ntopology = 'later.txt'\n", fl=1, degree=1)
    done = sweep()
    assert (done.returncode, ended(done.stdout)) == (1, [("fl", "failed"), ("degree", "done")])
    why = "exit code 2: later.txt: no such topology file"
    assert done.stderr == f"mpisim: run fl: {why} (results/s/fl.failed)\n"
    assert (FOLDER / "fl.failed").read_text().splitlines()[0] == why
    assert main(["s.toml", "--status"]) == 0
    assert f"failed           1\n    0  fl: {why}\nto do            0\n" in capsys.readouterr().out

    before = as_they_are("degree")
    Path("later.txt").write_text("0 1 1\n1 0 1\n1 1 0\n")
    done = sweep()
    assert (done.returncode, done.stderr, ended(done.stdout)) == (0, "", [("fl", "done")])
    assert as_they_are("degree") == before
    assert sorted(path.name for path in FOLDER.iterdir()) == ["degree.h5", "fl.h5"]


# Signals, and two runs at a time.


def test_sigterm_stops_two_runs_that_go_on_side_by_side_at_checkpoints(here, capsys):
    write_file(degree=ENDLESS, fl=ENDLESS, random=ENDLESS)
    process = start("--jobs", "2")
    wait_for(lambda: num_rounds("degree") >= 2 and num_rounds("fl") >= 2, process)
    assert len(ranks_among(descendants(process.pid))) == 2
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (3, "")
    assert sorted(ended(printed)) == [("degree", "interrupted"), ("fl", "interrupted")]
    assert printed.splitlines()[-1] == "0 of 3 runs done, in results/s; 3 left: the same command goes on"
    played = {run: num_rounds(run) for run in ("degree", "fl")}
    for run, rounds in played.items():
        assert status_of(run) == "interrupted"
        assert checkpoints(checkpoint_folder(log_of(run)))[0].round == rounds
    assert not log_of("random").exists()

    longest = max(played.values()) + 1
    write_file(degree=longest, fl=longest, random=longest)
    assert main(["s.toml", "--status", "--jobs", "2"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:4] == [["done", "0"], ["running", "0"], ["interrupted", "2"]]
    assert [row[2:5] for row in rows[4:6]] == [[str(played[run]), "of", str(longest)] for run in ("degree", "fl")]
    assert rows[6:8] == [["failed", "0"], ["to", "do", "1"]]
    assert re.fullmatch(r"time left .*\d+.* of rounds, 2 runs at a time", " ".join(rows[8]))

    done = sweep("--jobs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(ended(done.stdout)) == [(run, "done") for run in ("degree", "fl", "random")]
    check_undisturbed("degree", "fl", "random")


def test_a_second_interrupt_ends_runs_that_do_not_stop(here):
    write_file(fl=1, degree=1)
    Path("stubborn").write_text("trap 'touch told' TERM; touch ready; while true; do sleep 0.1; done")
    process = start("--launcher", "sh stubborn")
    wait_for(Path("ready").exists, process)
    process.send_signal(signal.SIGINT)
    wait_for(Path("told").exists, process)
    time.sleep(1.5)  # what comes within a second is the same Ctrl-C
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (3, "")
    assert printed.splitlines()[-1] == "0 of 2 runs done, in results/s; 2 left: the same command goes on"
    wait_for(lambda: working_here() == [])
