"""Estimates of a run: bytes against its log and files, what is measured, the command. No time is asserted."""

import re
import subprocess
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from mpisim import run
from mpisim.config import Config
from mpisim.errors import InputError
from mpisim.estimate import disk, forecast, link, of_run, speeds
from mpisim.estimate.model import PARTS, Disk, Link, Machine, Speeds
from mpisim.experiment import decide
from mpisim.storage.image import Image, make_variables
from mpisim.storage.variables import logged_variables

SPEEDS = Speeds(imports=2.0, prepare=1.0, make=0.1, train=1e-3, test=2e-3, consensus=1e-3, mix=1.6e6, sum_bytes=500)
LINK = Link(latency=1e-3, bandwidth=1e6)
DISK = Disk(log_bytes=70, log_seconds=3e-3, checkpoint_bytes=100, num_checkpoints=4, checkpoint_seconds=0.5)


# Bytes, against a run.


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """Return the estimate of a run on 3 ranks, and the folder of that run."""
    folder = tmp_path_factory.mktemp("run")
    options = {"topology": "ba:n=7,m=2,seed=0", "rounds": 7, "epochs": 1, "checkpoint_every": 3, "optimizer": "adam"}
    options |= {"lr": 0.001, "keep_optimizer_state": True, "placement": "mincut", "threads": 1}
    config = Config(**options, output=str(folder / "run.h5"), latency=10, bandwidth=1, estimate=(3, 1, 9))
    threads = torch.get_num_threads()
    estimates, text = of_run.estimate_run(config)
    assert torch.get_num_threads() == threads
    assert list(folder.iterdir()) == []
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in options.items()]
    command = ["mpiexec", "-n", "3", sys.executable, "-m", "mpisim.run", *flags, "--output", "run.h5"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return estimates, text, folder


def test_bytes_sent_are_those_of_the_log(real_run):
    [on_three, alone, _], _, folder = real_run
    with h5py.File(folder / "run.h5") as log:
        sent = log["bytes_sent"][:]
    assert sent.sum() == on_three.wire_bytes > 0
    assert (sent.sum(axis=1) == on_three.round_bytes).all()
    assert alone.wire_bytes == 0


def test_bytes_on_disk_are_those_of_the_files(real_run):
    [on_three, *_], _, folder = real_run
    checkpoints = [path for path in (folder / "run.ckpt").rglob("*") if path.is_file()]
    assert len({path.parent for path in checkpoints}) == 2
    assert on_three.checkpoint_bytes == pytest.approx(sum(path.stat().st_size for path in checkpoints), rel=0.02)
    assert on_three.log_bytes == pytest.approx((folder / "run.h5").stat().st_size, rel=0.03)


def test_a_line_for_each_number_of_ranks_says_what_was_found(real_run):
    estimates, text, _ = real_run
    assert [each.ranks for each in estimates] == [3, 1, 9]
    times, sizes = text.split("\n\n")[1:]
    assert [line.split()[0] for line in times.splitlines()] == ["ranks", "3", "1", "9"]
    assert [line.split()[0] for line in sizes.splitlines()] == ["ranks", "3", "1", "9"]
    assert times.splitlines()[0].split() == ["ranks", "hosts", *PARTS, "total", "host-hours"]
    assert "7 nodes: of 9 ranks 2 stay idle" in text
    assert "10.0 µs a message, 1.0 GB/s each way, as given" in text
    for each in estimates:
        assert min(each.seconds[part] for part in ("start", "train", "test", "mix", "checkpoint")) > 0
        assert 2e8 < each.memory < 2e9


@pytest.mark.parametrize("rounds, nodes", [(1, 4), (3, 4), (2500, 4), (90, 300)])
def test_a_log_grows_as_told(rounds, nodes):
    sizes, config = {"node": nodes, "rank": 2, "link": 9, "label": 10, "epoch": 5}, Config(rounds=rounds)
    told, mean, _ = disk.log_growth(config, sizes, {"title": "some"})
    variables = logged_variables(**config.moments)
    shapes = {name: [sizes[dim] for dim in each.dims if dim != "round"] for name, each in variables.items()}
    image = Image()
    make_variables(image.file, variables, sizes | {"round": 0}, {name: np.zeros(shapes[name]) for name in variables})
    lengths = []
    for round in range(rounds):
        for name, growing in image.growing.items():
            growing.append(round if name == "round" else np.zeros(shapes[name]))
        with image.content() as content:
            lengths.append(len(content))
    assert told == pytest.approx(lengths[-1], rel=0.02)
    assert mean == pytest.approx(np.mean(lengths), rel=0.02)


# How fast this machine is.


def small(**options):
    return decide(Config(topology="ring:n=4", train_samples=200, test_samples=40, epochs=3, **options), 2)


def test_a_trial_does_the_work_it_is_told():
    experiment, cpu = small(local_split=(0.6, 0.2, 0.2)), torch.device("cpu")
    own = np.array([0, 1])
    trial = speeds.Trial(experiment, own, cpu, None, None)
    assert trial.trained == 3 * experiment.train_samples[:2].sum()
    assert trial.tested == 2 * 40 + len(experiment.own_tests[0]) + len(experiment.own_tests[1])
    before = trial.nodes.parameters.clone()
    assert min(trial.once()) > 0
    assert not torch.equal(before, trial.nodes.parameters)
    cut = speeds.Trial(experiment, own, cpu, 16, 10)
    assert (cut.trained, cut.config.epochs) == (2 * 16, 1)
    assert cut.tested == 2 * 10 + 2 * 10


def test_samples_are_cut_to_what_there_is_time_for(monkeypatch):
    monkeypatch.setattr(speeds, "SECONDS", 1.0)
    assert speeds.fitting(0.001, 1000, 16) is None
    assert speeds.fitting(0.001, 2000, 16) == 62 * 16
    assert speeds.fitting(3.0, 2000, 16) == 16


def test_state_and_sum_of_a_node_are_counted():
    experiment = small()
    local = speeds.local_speeds(experiment, torch.device("cpu"))
    assert local.node_bytes == 4 * experiment.num_columns + 8
    assert local.num_arrays == 2
    assert local.sum_bytes == 8 * (experiment.num_columns + 2)
    assert min(local.make, local.train, local.test, local.consensus) > 0


def test_what_runs_have_in_common_is_measured_once(monkeypatch):
    asked = []
    local = speeds.Local(0.1, 1.0, 1.0, 1.0, 8, 8, 2)
    monkeypatch.setattr(forecast, "local_speeds", lambda *_: asked.append("local") or local)
    monkeypatch.setattr(forecast, "start_seconds", lambda _: asked.append("start") or (1.0, 2.0))
    monkeypatch.setattr(forecast, "write_speed", lambda _: asked.append("disk") or (1e-3, 1e9))
    forecasts = forecast.Forecasts(Machine(1, None), LINK)
    for options in ({}, {"seed": 1}, {"strategy": "fl"}, {"lr": 0.5}):
        forecasts.estimate(small(**options), 2)
    assert asked == ["local", "start", "disk"]
    forecasts.estimate(small(batch_size=8), 2)
    assert asked == ["local", "start", "disk", "local", "start"]


def test_threads_are_a_ranks_share():
    assert [forecast.threads_of(Config(), Machine(None, 8), ranks) for ranks in (1, 3, 8, 24)] == [8, 2, 1, 1]
    assert forecast.threads_of(Config(), Machine(12, None), 24) == 1
    assert forecast.threads_of(Config(threads=4), Machine(12, None), 24) == 4


def test_two_ranks_find_their_link(monkeypatch, tmp_path):
    found = link.measured_link()
    assert found is not None
    assert 0 < found.latency < 60
    assert found.bandwidth > 0
    monkeypatch.setattr(forecast, "measured_link", lambda: found)
    assert forecast.link_of(Config(latency=7), True) == (Link(7e-6, found.bandwidth), "measured between two ranks here")
    assert forecast.link_of(Config(latency=7, bandwidth=2), True) == (Link(7e-6, 2e9), "as given")
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert forecast.link_of(Config(), True) == (link.USUAL, forecast.UNMEASURED)


def test_a_link_is_between_two(capsys):
    assert link.main() == 2
    assert "1 ranks: a link is between two" in capsys.readouterr().out


# The command.


@pytest.fixture
def quick(monkeypatch):
    """Let nothing be measured."""
    monkeypatch.setattr(forecast, "measured_link", lambda: None)
    monkeypatch.setattr(forecast.Forecasts, "speeds", lambda *_: (SPEEDS, DISK))


def test_the_command_prints_and_writes_nothing(tmp_path, monkeypatch, capsys, quick):
    monkeypatch.chdir(tmp_path)
    arguments = ["--topology", "ring:n=3", "--rounds", "4", "--estimate", "1", "3", "--ranks-per-host", "2"]
    assert run.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "assumed       hosts with 2 ranks, each as fast as one here with 1 thread" in printed
    assert re.search(r"^ +3 +2 ", printed, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


WRONG = {
    "no rank": (["--estimate", "0"], r"--estimate 0: must be 1 or more"),
    "no number": (["--estimate"], r"argument --estimate: expected at least one argument"),
    "both": (["--estimate", "1", "--dry-run"], r"--dry-run and --estimate: give one of them"),
    "no time": (["--estimate", "1", "--latency", "0"], r"--latency 0\.0: must be above 0"),
    "no width": (["--estimate", "1", "--bandwidth", "-1"], r"--bandwidth -1\.0: must be above 0"),
    "no host": (["--estimate", "1", "--ranks-per-host", "0"], r"--ranks-per-host 0: must be 1 or more"),
    "no data": (
        ["--estimate", "1", "--dataset", "mnist"],
        "MNIST: data/MNIST/raw lacks .*: put it there, or have it fetched by a run without --no-download",
    ),
    "no estimate": (["--latency", "3"], r"--latency: is for --estimate$"),
    "no estimate's hosts": (["--ranks-per-host", "3", "--dry-run"], r"--ranks-per-host: is for --estimate$"),
    "no graph": (["--estimate", "1", "--topology", "ba:n=2,m=2"], r"topology 'ba:n=2,m=2'"),
}


@pytest.mark.parametrize("arguments, message", WRONG.values(), ids=WRONG)
def test_wrong_input_ends_with_one_line_and_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run.main(arguments) == 2
    output, error = capsys.readouterr()
    assert (output, error.count("\n")) == ("", 1)
    assert re.match("mpisim: .*" + message, error), error
    assert list(tmp_path.iterdir()) == []


def test_several_ranks_are_told_to_leave_it_to_one():
    with pytest.raises(InputError, match=r"^--estimate: is for one process, not for 3: leave mpiexec away$"):
        run._estimate(SimpleNamespace(size=3), Config(estimate=(1,)))
