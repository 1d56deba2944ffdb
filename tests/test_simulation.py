"""Every figure in a run's log, against the same experiment written down plainly with torch's modules and a dense W.

The usual options are here, the others in ``test_options.py``.
"""

import pkgutil
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pytest
from plain_experiment import ADAM, NUM_EPOCHS, NUM_ROUNDS, SGD, Case, assert_is_logged, experiment, logged

CASES = {
    "no flags": Case(),
    "random weights, shuffled": Case(
        flags="--strategy random --temperature 0.3 --seed 3 --init independent --shuffle",
        strategy="random",
        inverse=(1 / 0.3,) * NUM_ROUNDS,
        seed=3,
        one_start=False,
        shuffle=True,
    ),
    "metropolis, no OOD": Case(
        flags="--strategy metropolis --ood none --momentum 0.5 --weight-decay 0.01",
        strategy="metropolis",
        ood="none",
        optimizer=partial(SGD, momentum=0.5, weight_decay=0.01),
    ),
    "every moment": Case(flags="--evaluate-at both --evaluate-every epoch", aggregated=True, epochs=True),
    "after aggregation": Case(flags="--evaluate-at aggregated", trained=False, aggregated=True),
    "own test samples": Case(flags="--local-split 0.6 0.3 0.1", local_split=(0.6, 0.3, 0.1)),
    "weighted, unequal nodes": Case(
        flags="--strategy weighted --sample-alpha 2 --label-alpha 2 --batch-size 12 --optimizer adam --lr 0.005",
        strategy="weighted",
        sample_alpha=2.0,
        label_alpha=2.0,
        batch_size=12,
        optimizer=ADAM,
    ),
}


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """Run in an empty folder; a run that fails must not take the tests with it."""

    def reraise(comm):
        raise

    monkeypatch.setattr("mpisim.ranks.startup.abort", reraise)
    monkeypatch.chdir(tmp_path)


@cache
def expected(case):
    return experiment(CASES[case])


@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize("case", CASES)
def test_every_figure_of_the_log_is_that_of_the_plain_experiment(case, engine):
    log = logged(f"{CASES[case].flags} --engine {engine}")
    assert_is_logged(expected(case), log, CASES[case])


def test_seconds_are_those_of_what_they_are_named_for(monkeypatch):
    """Time stands still but in these calls: each takes so long that its part can be read off any sum."""
    now = 0.0

    def let_take(call: str, seconds: float) -> None:
        original = pkgutil.resolve_name(call)

        def slow(*arguments, **named):
            nonlocal now
            now += seconds
            return original(*arguments, **named)

        monkeypatch.setattr(call, slow)

    for module in ("rounds", "results"):
        monkeypatch.setattr(f"mpisim.{module}.time", SimpleNamespace(perf_counter=lambda: now))
    let_take("mpisim.nodes.Nodes.train", 1)
    let_take("mpisim.exchange.neighborhood.NeighborhoodExchange.send", 10)
    let_take("mpisim.nodes.Nodes.test", 100)
    let_take("mpisim.nodes.Nodes.test_node", 2)
    let_take("mpisim.exchange.neighborhood.NeighborhoodExchange.wait", 1_000)
    let_take("mpisim.exchange.neighborhood.mix", 10_000)
    let_take("mpisim.exchange.metrics.MetricsGather.gather", 100_000)
    let_take("mpisim.storage.log.Log.append", 1_000_000)
    log = logged("--evaluate-every epoch --engine sequential")
    np.testing.assert_array_equal(log["train_seconds"], [[1]] * NUM_ROUNDS)
    np.testing.assert_array_equal(log["test_seconds"], [[100 + 2 * 6 * NUM_EPOCHS]] * NUM_ROUNDS)  # six nodes
    np.testing.assert_array_equal(log["exchange_seconds"], [[1_010]] * NUM_ROUNDS)
    np.testing.assert_array_equal(log["mix_seconds"], [[10_000]] * NUM_ROUNDS)
    # A round is written after its figures stand: how long that took is in the next one's.
    np.testing.assert_array_equal(log["log_seconds"], [[100_000], [1_100_000], [1_100_000]])
