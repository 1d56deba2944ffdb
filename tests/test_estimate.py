"""Estimates: the model by hand, sums, weak scaling on paper."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from mpisim.config import Config
from mpisim.estimate import __main__ as on_paper
from mpisim.estimate import forecast, weak_scaling
from mpisim.estimate.model import PARTS, Disk, Estimate, Link, Machine, Speeds, part_of, predict, summed
from mpisim.estimate.table import table
from mpisim.estimate.work import count_work
from mpisim.exchange.neighborhood import plan_exchange
from mpisim.exchange.transpose import TransposePlan
from mpisim.graphs.generators import make_topology
from mpisim.graphs.strategies import mixing_rule

SPEEDS = Speeds(
    imports=2.0, prepare=1.0, make=0.1, train=1e-3, test=2e-3, consensus=1e-3, mix=1.6e6, sum_bytes=500
)  # fmt: skip
LINK = Link(latency=1e-3, bandwidth=1e6)
DISK = Disk(log_bytes=70, log_seconds=3e-3, checkpoint_bytes=100, num_checkpoints=4, checkpoint_seconds=0.5)
OWN_CORES = Machine(None, None)


def work_on_a_ring(**options):
    """Three nodes that all hear each other, one on each rank; rows of 4,000 bytes."""
    config = Config(topology="ring:n=3", rounds=4, epochs=2, **options)
    samples = np.array([10, 20, 30])
    rule = mixing_rule(make_topology("ring:n=3"), "unweighted", samples, "softmax", 0.0)
    plans = plan_exchange(rule, np.arange(3), 3)
    return count_work(config, rule, np.arange(3), plans, 1000, samples, np.full(3, 5), (60_000, 1_000))


# The model, by hand.


def test_work_is_counted_by_rank():
    work = work_on_a_ring()
    assert work.trained.tolist() == [[20, 40, 60]]  # samples × epochs
    assert work.tests_hidden.tolist() == work.tests_final.tolist() == [5, 5, 5]
    assert work.tests_shown.tolist() == [0, 0, 0]
    assert work.messages.tolist() == [2, 2, 2]
    assert work.wire_bytes.tolist() == [8000, 8000, 8000]
    assert work.mixed_bytes.tolist() == [16_000] * 3  # three rows are read, one written
    assert (work.bytes_sent, work.data_bytes, work.test_bytes) == (24_000, 50_000, 1_000)


def test_a_round_takes_as_long_as_the_slowest_rank():
    found = predict(work_on_a_ring(), SPEEDS, DISK, LINK, OWN_CORES)
    # Rank 2: 60 samples; 5 tests, during which 10 of 16 ms of messages pass: 2 + 8 for the rows, 4 · 1.5 for the sum.
    assert found.seconds == pytest.approx(
        {
            "start": 2 + 1 + 0.1 + (2 * 0.001 + 0.05) + 2 * (0.001 + 0.001),
            "train": 4 * 0.060,
            "test": 4 * 0.010 + 0.010,  # and once after the last round
            "exchange": 4 * (0.001 + 0.006),
            "mix": 4 * 0.010,
            "log": 0,  # rank 0 writes it while it would wait for rank 2
            "checkpoint": 4 * 0.5,
        }
    )
    assert found.total == pytest.approx(sum(found.seconds.values()))
    assert (found.round_bytes, found.wire_bytes, found.log_bytes) == (24_000, 96_000, 70)
    assert found.checkpoint_bytes == 200  # the newest two are kept
    assert (found.ranks, found.hosts) == (3, 1)


def test_ranks_that_share_a_core_add_up():
    found = predict(work_on_a_ring(), SPEEDS, DISK, LINK, Machine(None, 1))
    assert found.seconds == pytest.approx(
        {
            "start": 3 * 2 + 1 + 3 * 0.1 + (2 * 0.001 + 0.05) + 2 * (0.001 + 0.001),
            "train": 4 * 0.120,
            "test": 4 * 0.030 + 0.030,
            "exchange": 4 * 3 * 0.007,
            "mix": 4 * 0.030,
            "log": 4 * 0.005,
            "checkpoint": 2.0,
        }
    )


def test_rank_0_is_the_slowest_if_it_has_to_log_for_long():
    slow_log = dataclasses.replace(DISK, log_seconds=0.2)
    found = predict(work_on_a_ring(), SPEEDS, slow_log, LINK, OWN_CORES)
    assert (found.seconds["train"], found.seconds["log"]) == pytest.approx((4 * 0.020, 4 * 0.202))


def test_hosts_hours_and_idle_ranks():
    found = predict(work_on_a_ring(), SPEEDS, DISK, LINK, Machine(2, None), idle=2)
    assert (found.ranks, found.hosts) == (5, 3)
    assert found.host_hours == pytest.approx(3 * found.total / 3600)


def test_one_rank_sends_nothing():
    config = Config(topology="ring:n=3", rounds=4)
    rule = mixing_rule(make_topology("ring:n=3"), "unweighted", np.ones(3), "softmax", 0.0)
    plans = plan_exchange(rule, np.zeros(3, dtype=int), 1)
    work = count_work(config, rule, np.zeros(3, dtype=int), plans, 10, np.ones(3), np.ones(3), (30, 30))
    assert (work.messages.tolist(), work.bytes_sent, work.data_bytes) == ([0], 0, 0)
    found = predict(work, SPEEDS, DISK, LINK, OWN_CORES)
    assert found.seconds["start"] == pytest.approx(2 + 1 + 3 * 0.1)
    assert found.seconds["exchange"] == pytest.approx(4 * 3 * 0.001)


def test_columns_that_travel_there_and_back_hide_on_one_way():
    config = Config(topology="complete:n=4", strategy="fl", rounds=1)
    rule = mixing_rule(make_topology("complete:n=4"), "fl", np.ones(4), "softmax", 0.0)
    ranks = np.array([0, 0, 1, 1])
    plans = [TransposePlan(ranks, rank) for rank in (0, 1)]
    work = count_work(config, rule, ranks, plans, 128, np.ones(4), np.full(4, 1000), (0, 0))
    # Each rank has 64 of the columns: half of its two rows go there, as much of the others' comes back mixed.
    assert work.wire_bytes.tolist() == [2 * 2 * 64 * 4] * 2
    assert work.messages.tolist() == [2, 2]
    # All rows of W are one: it reads four rows, and writes four.
    assert work.mixed_bytes.tolist() == [8 * 64 * 4] * 2
    sending = 2 * 0.001 + 1024 / 1e6
    found = predict(work, SPEEDS, DISK, LINK, OWN_CORES)
    assert found.seconds["exchange"] == pytest.approx(2 * 0.001 + sending / 2)


def test_tests_at_other_moments_and_a_second_exchange_count():
    work = work_on_a_ring(evaluate_at="both", evaluate_every="epoch", proximal=0.1)
    assert work.tests_hidden.tolist() == [5, 5, 5]
    assert work.tests_shown.tolist() == [10, 10, 10]  # after the first of two epochs, and after aggregation
    assert (work.exchanges, work.bytes_sent) == (2, 48_000)
    assert work_on_a_ring(evaluate_at="aggregated").tests_hidden.tolist() == [0, 0, 0]
    assert not work_on_a_ring(no_train=True).trained.any()


def test_nodes_that_sit_out_do_not_train():
    trained = work_on_a_ring(participation=0.67).trained  # two of three nodes each round
    assert trained.shape == (4, 3)
    assert ((trained == 0).sum(axis=1) == 1).all()
    assert ((trained == 0) | (trained == [20, 40, 60])).all()
    rounds = [max(row) for row in trained]
    found = predict(work_on_a_ring(participation=0.67), SPEEDS, DISK, LINK, OWN_CORES)
    assert found.seconds["train"] == pytest.approx(sum(rounds) * 1e-3)


# Sums.

ONE = Estimate(2, 1, dict(zip(PARTS, [1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0], strict=True)), 5, 100, 7, 8, 9)
OTHER = Estimate(2, 1, dict(zip(PARTS, range(7), strict=True)), 6, 10, 3, 4, None)


def test_a_run_that_has_begun_takes_its_start_and_the_rounds_left():
    found = part_of(ONE, 0.25)
    assert found.seconds == dict(zip(PARTS, [1.0, 2.5, 5.0, 7.5, 10.0, 12.5, 15.0], strict=True))
    assert (found.wire_bytes, found.round_bytes, found.log_bytes) == (25, 5, 7)


def test_runs_add_up():
    found = summed([ONE, OTHER, ONE])
    assert list(found.seconds.values()) == [2, 21, 42, 63, 84, 105, 126]
    assert (found.round_bytes, found.wire_bytes, found.log_bytes, found.checkpoint_bytes) == (6, 210, 17, 20)
    assert (found.memory, found.disk_bytes) == (9, 37)


def test_the_table_has_every_figure():
    lines = table([ONE]).splitlines()
    assert " ".join(lines[1].split()) == "2 1 1.0 s 10 s 20 s 30 s 40 s 50 s 1 min 00 s 3 min 31 s 0.059"
    assert " ".join(lines[4].split()) == "2 5 B 100 B 7 B 8 B 9 B"


# Weak scaling on paper.


@pytest.fixture
def quick(monkeypatch):
    """Let nothing be measured."""
    monkeypatch.setattr(forecast, "measured_link", lambda: None)
    monkeypatch.setattr(forecast.Forecasts, "speeds", lambda *_: (SPEEDS, DISK))


def test_on_a_ring_every_rank_sends_two_rows_however_many_there_are(quick):
    config = Config(topology="ring:n=6", rounds=4, latency=1e-6, bandwidth=1e6)
    estimates, lines = weak_scaling.weak_scaling(config, [2, 10, 500], 3)
    row = 4 * 17_226
    assert [each.round_bytes for each in estimates] == [ranks * 2 * row for ranks in (2, 10, 500)]
    samples = 3 * -(-1438 // 6) * 5
    assert [each.seconds["train"] for each in estimates] == pytest.approx([4 * samples * SPEEDS.train] * 3)
    assert [each.ranks for each in estimates] == [2, 10, 500]
    assert "as given" in lines[1]


def test_efficiency_is_the_round_of_the_fewest_ranks_over_that_of_the_most():
    slower = dataclasses.replace(ONE, ranks=8, seconds={part: 4 * each for part, each in ONE.seconds.items()})
    _, first, second = weak_scaling.scaling_table([ONE, slower], 3, 10).splitlines()
    assert " ".join(first.split()) == "2 6 1.0 s 2.0 s 3.0 s 4.0 s 5.0 s 6.0 s 21 s 1.00 1.0 s 5 B"
    assert second.split()[:2] == ["8", "24"]
    assert "0.25" in second.split()


def test_the_command_prints_a_line_for_each_number_of_ranks_and_draws(tmp_path, capsys, quick):
    out = tmp_path / "scaling.svg"
    options = ["--ranks", "20", "1", "5", "--topology", "ring:n=8", "--rounds", "2", "--out", str(out)]
    assert on_paper.main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[-3:]] == [["1", "4"], ["5", "20"], ["20", "80"]]
    assert ElementTree.parse(out).getroot().tag.endswith("svg")
    assert list(tmp_path.iterdir()) == [out]


WRONG_ON_PAPER = {
    "no rank": (["--ranks", "0"], "--ranks 0: must be 1 or more"),
    "no node": (["--nodes-per-rank", "0"], "--nodes-per-rank 0: must be 1 or more"),
    "many nodes": (["--nodes-per-rank", "25"], "--nodes-per-rank 25: --topology ba:n=24,m=2,seed=0 has 24 nodes"),
    "fixed": (["--topology", "sb:sizes=4-4,p_in=1,p_out=1"], "--topology sb:.*has no n= that could grow"),
    "too small": (["--topology", "ba:n=24,m=8", "--ranks", "1"], "topology 'ba:n=4,m=8'"),
    "no data": (["--dataset", "mnist"], "MNIST: data/MNIST/raw lacks .*: put it there, or have it fetched by a run"),
    "unknown": (["--speed", "3"], "unrecognized arguments: --speed 3"),
    "no picture": (["--out", "scaling.txt"], r"--out scaling\.txt: the name must end in \.svg, \.pdf or \.png"),
}


@pytest.mark.parametrize("arguments, message", WRONG_ON_PAPER.values(), ids=WRONG_ON_PAPER)
def test_wrong_input_of_weak_scaling_is_one_line(tmp_path, monkeypatch, capsys, quick, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert on_paper.main(arguments) == 2
    output, error = capsys.readouterr()
    assert (output, error.count("\n")) == ("", 1)
    assert re.match("mpisim: .*" + message, error), error
    assert list(tmp_path.iterdir()) == []
