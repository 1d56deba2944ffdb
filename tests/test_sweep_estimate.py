"""The estimate of a sweep: summed over the runs that are left, and those that are alike are told from one."""

import re
from pathlib import Path

import pytest

from mpisim import run
from mpisim.estimate import forecast
from mpisim.estimate.model import PARTS, Disk, Link, Speeds, predict
from mpisim.estimate.work import work_of
from mpisim.experiment import decide
from mpisim.sweep import estimate
from mpisim.sweep.__main__ import main
from mpisim.sweep.expansion import expand
from mpisim.sweep.file import read_sweep

FILE = """
[base]
topology = "ring:n=4"
rounds = 4
epochs = 1
train_samples = 60
test_samples = 20
threads = 1
latency = 1000
bandwidth = 0.001
[grid]
strategy = ["degree", "unweighted", "fl"]
seed = [0, 1]
"""
SPEEDS = Speeds(imports=2.0, prepare=1.0, make=1.0, train=1.0, test=1.0, consensus=1.0, mix=1e6, sum_bytes=8)
DISK = Disk(log_bytes=2**20, log_seconds=1.0, checkpoint_bytes=2**21, num_checkpoints=2, checkpoint_seconds=5.0)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Return a function that estimates a sweep in a folder where nothing is measured; and what was decided for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forecast.Forecasts, "speeds", lambda *_: (SPEEDS, DISK))
    monkeypatch.setattr(forecast, "usable_cores", lambda: {0, 1})
    decided = []
    monkeypatch.setattr(estimate, "decide", lambda config, ranks: decided.append(config) or decide(config, ranks))
    Path("study.toml").write_text(FILE)
    return decided


def expected(machine, left):
    """Return the sum of what ``predict`` says of the runs that are left, of each the share of its rounds."""
    total = dict.fromkeys(PARTS, 0.0)
    for each in expand(read_sweep(Path("study.toml"))):
        share = left.get(each.name, 1)
        found = predict(work_of(decide(each.config, 1)), SPEEDS, DISK, Link(1e-3, 1e6), machine)
        for part in PARTS if share else ():
            total[part] += found.seconds[part] * (1 if part == "start" else share)
    return total


def figures(text):
    """Return the seconds of each part that a table says, in whole seconds as it rounds them."""
    [heading, line] = text.split("\n\n")[1].splitlines()
    assert heading.split()[2:-2] == [*PARTS]
    found = re.findall(r"(?:(\d+) h )?(?:(\d+) min )?([\d.]+)(?: s|\b)", re.sub(r"^ *1 +1 ", "", line))
    return [3600 * int(h or 0) + 60 * int(m or 0) + float(s) for h, m, s in found][: len(PARTS)]


def test_the_runs_that_are_left_are_summed_and_two_kinds_are_looked_at(sweep, capsys):
    assert main(["study.toml", "--estimate"]) == 0
    text = capsys.readouterr().out
    assert [config.strategy for config in sweep] == ["degree", "fl"]  # the others listen as these do
    assert "6 of 6 runs left, of 2 kinds, one at a time: " in text
    assert figures(text) == pytest.approx([*expected(forecast.Machine(None, 2), {}).values()], abs=0.5)
    [sizes] = text.split("\n\n")[2].splitlines()[1:]
    assert sizes.split()[:9] == ["1", "0", "B", "0", "B", "6.0", "MiB", "4.0", "MiB"]  # six logs, one run's checkpoints
    assert sorted(path.name for path in Path().iterdir()) == ["study.toml"]


def test_what_is_done_does_not_count_and_what_has_begun_counts_in_part(sweep, capsys):
    for name, rounds in (("degree_seed0", 4), ("fl_seed1", 1)):
        options = ["--topology=ring:n=4", f"--strategy={name[:-6]}", f"--seed={name[-1]}", f"--rounds={rounds}"]
        options += ["--epochs=1", "--train-samples=60", "--test-samples=20", "--threads=1", "--quiet"]
        assert run.main([*options, "--output", f"results/study/{name}.h5"]) == 0
    capsys.readouterr()
    assert main(["study.toml", "--estimate"]) == 0
    text = capsys.readouterr().out
    assert "5 of 6 runs left" in text
    left = {"degree_seed0": 0, "fl_seed1": 3 / 4}
    assert figures(text) == pytest.approx([*expected(forecast.Machine(None, 2), left).values()], abs=0.5)


def test_runs_side_by_side_share_the_cores_and_keep_a_checkpoint_each(sweep, capsys):
    assert main(["study.toml", "--estimate", "--jobs", "2", "--ranks", "2"]) == 0
    text = capsys.readouterr().out
    assert "this host, whose 1 cores all ranks share" in text
    assert "2 at a time: " in text
    assert "8.0 MiB" in text.split("\n\n")[2]
    assert main(["study.toml", "--estimate", "--keep-checkpoints"]) == 0
    assert "24.0 MiB" in capsys.readouterr().out.split("\n\n")[2]


WRONG = {
    "no rank": (["--estimate", "--ranks-per-host", "0"], "--ranks-per-host 0: must be 1 or more"),
    "no data": (
        ["--estimate", "--index", "1"],
        r"run degree_seed1: MNIST: nowhere/MNIST/raw lacks .*: put it there, or have it fetched by a run without",
    ),
    "no samples": (["--estimate", "--index", "0"], "run degree_seed0: --train-samples 9999: digits has 1438"),
    "no time": (["--estimate", "--latency", "-1"], r"--latency -1\.0: must be above 0"),
    "no estimate": (["--list", "--bandwidth", "1"], "--bandwidth: is for --estimate"),
    "two things": (["--estimate", "--run"], "argument --run: not allowed with argument --estimate"),
}


@pytest.mark.parametrize("arguments, message", WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line(sweep, capsys, arguments, message):
    more = {0: "train_samples = 9999", 1: 'dataset = "mnist"\ndata_dir = "nowhere"'}
    rules = [f"[[set]]\nwhen = {{ seed = {seed} }}\n{options}\n" for seed, options in more.items()]
    Path("study.toml").write_text(FILE + "".join(rules))
    assert main(["study.toml", *arguments]) == 2
    assert sorted(path.name for path in Path().iterdir()) == ["study.toml"]
    output, error = capsys.readouterr()
    assert (output, error.count("\n")) == ("", 1)
    assert re.match("mpisim: .*" + message, error), error
