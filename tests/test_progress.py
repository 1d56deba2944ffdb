"""How a run stands: every figure is the one that is computed from its log by hand."""

import json
import os

import numpy as np
import pytest

from mpisim.analysis.progress import look
from mpisim.errors import InputError
from mpisim.storage.variables import logged_variables

TRAINED = logged_variables(trained=True, aggregated=False, epochs=False)
PARTS = ("train", "test", "exchange", "mix", "log")
NONE = [np.nan] * 3


def seconds(**of_ranks):
    """Return the seconds of each part for both ranks, zero where not given."""
    return {f"{part}_seconds": of_ranks.get(part, [0.0, 0.0]) for part in PARTS}


@pytest.fixture
def written(tmp_path, log_content):
    """Return a function that writes rounds to a log and looks at it."""

    def write(values_of_rounds, status="running", variables=TRAINED, **config):
        log_content.attributes = log_content.attributes | {"config": json.dumps({"rounds": 40} | config)}
        path = log_content.write(
            tmp_path / "run.h5", [log_content.round(**values) for values in values_of_rounds], status, variables
        )
        os.utime(path, (1000.0, 1000.0))
        return look(path)

    return write


def test_metrics_are_means_over_nodes_by_round_and_the_last_round_s_nodes(written):
    found = written(
        [
            {
                "iid_accuracy": [0.0, 0.1, 0.2],
                "ood_accuracy": [0, 0, 1],
                "train_loss": [1, 2, 6],
                "consensus_distance": 0.5,
            },
            {
                "iid_accuracy": [0.5, 0.9, 0.4],
                "ood_accuracy": [0.5, 0, 1],
                "train_loss": [1, np.nan, 2],
                "consensus_distance": 0.25,
            },
        ]
    )
    assert (found.title, found.status) == ("degree on ring:n=3, digits, seed 0", "running")
    assert (found.num_rounds, found.wanted_rounds, found.after_aggregation) == (2, 40, False)
    iid, ood, loss, consensus = found.metrics
    assert [metric.name for metric in found.metrics] == ["IID accuracy", "OOD accuracy", "train loss", "consensus"]
    np.testing.assert_allclose(iid.over_rounds, [0.1, 0.6])
    np.testing.assert_allclose(ood.over_rounds, [1 / 3, 0.5])
    np.testing.assert_allclose(loss.over_rounds, [3, 1.5])  # of the nodes that have a loss
    np.testing.assert_allclose(consensus.over_rounds, [0.5, 0.25])
    assert [metric.last for metric in found.metrics] == pytest.approx([0.6, 0.5, 1.5, 0.25])
    np.testing.assert_array_equal(iid.of_nodes, [0.5, 0.9, 0.4])
    np.testing.assert_array_equal(loss.of_nodes, [1, np.nan, 2])
    assert consensus.of_nodes is None


def test_a_round_takes_what_the_rank_with_the_longest_account_of_it_says(written):
    found = written(
        [
            seconds(train=[1, 3], test=[0.5, 0.25], exchange=[2, 0], mix=[0, 0.25], log=[0.25, 0]),  # 3.75, 3.5
            seconds(train=[1, 1], test=[0, 0.25]),
        ]
    )
    np.testing.assert_allclose(found.round_seconds, [3.75, 1.25])
    assert found.seconds_a_round == 2.5


def test_the_time_left_is_that_of_the_rounds_to_come_without_what_has_passed_of_the_first_of_them(written):
    found = written([seconds(train=[2, 1]), seconds(train=[1, 4])])  # 3 s a round
    assert found.written == 1000.0
    assert found.seconds_left(1000.0) == 38 * 3
    assert found.seconds_left(1001.0) == 38 * 3 - 1
    assert found.seconds_left(2000.0) == 37 * 3  # that round must be over soon
    assert found.seconds_left(900.0) == 38 * 3  # the clocks of two hosts need not agree


@pytest.mark.parametrize("wanted", [2, 1])
def test_no_time_is_left_after_the_last_round(written, wanted):
    assert written([seconds(train=[1, 1])] * 2, rounds=wanted).seconds_left(1000.5) == 0.0


def test_the_last_ten_rounds_tell_what_a_round_takes_and_who_is_slow(written):
    found = written([seconds(train=[100, 1])] * 2 + [seconds(train=[1, 2])] * 10)
    assert found.seconds_a_round == 2.0
    assert (found.slowest.rank, found.slowest.seconds) == (1, 2.0)


def test_the_slowest_rank_works_most_whatever_it_waits(written, log_content):
    log_content.sizes = log_content.sizes | {"rank": 3}
    log_content.attributes |= {"hosts": json.dumps(["north", "south", "west"])}
    rounds = [
        seconds(train=[1, 2, 3], test=[0, 1, 1], exchange=[9, 0, 0], mix=[0, 1, 2], log=[9, 0, 0]),  # work: 1, 4, 6
        seconds(train=[1, 4, 4], test=[1, 0, 0], exchange=[9, 0, 0], mix=[0, 0, 2], log=[9, 0, 0]),  # work: 2, 4, 6
    ]
    slowest = written(rounds).slowest
    assert (slowest.rank, slowest.host, slowest.seconds) == (2, "west", 6.0)
    assert slowest.over_median == 0.5  # the median rank works 4 s


def test_of_a_run_that_goes_on_on_fewer_ranks_only_those_count(written):
    alone = {name: values[:1] for name, values in seconds(train=[2, 0]).items()}
    found = written([seconds(train=[1, 50]), alone])
    np.testing.assert_allclose(found.round_seconds, [50, 2])
    assert (found.slowest.rank, found.slowest.seconds) == (0, 1.5)
    assert np.isnan(found.slowest.over_median)  # there is nobody else


def test_a_rank_that_does_not_work_leaves_no_share_to_compare_with(written):
    assert np.isnan(written([seconds(exchange=[1, 2])]).slowest.over_median)


@pytest.mark.parametrize("hosts", ["[]", "no JSON", '{"0": "north"}', '["north"]'])
def test_a_host_that_the_log_does_not_tell_is_empty(written, log_content, hosts):
    log_content.attributes |= {"hosts": hosts}
    assert written([seconds(train=[1, 2])]).slowest.host == ""


def test_bytes_are_those_of_all_ranks_in_the_last_round(written):
    assert written([{"bytes_sent": [1, 2]}, {"bytes_sent": [30, 4]}]).bytes_sent == 34


@pytest.mark.parametrize(
    ("participated", "no_train", "diverged"),
    [([1, 1, 1], False, [0, 2]), ([0, 1, 1], False, [2]), ([1, 1, 1], True, [])],
)
def test_who_trained_and_has_no_finite_loss_has_diverged(written, participated, no_train, diverged):
    earlier = {"train_loss": NONE, "participated": [1, 1, 1]}
    last = {"train_loss": [np.nan, 1.0, np.inf], "participated": participated}
    assert written([earlier, last], no_train=no_train).diverged == diverged


def test_a_round_without_numbers_has_none_and_the_others_keep_theirs(written):
    empty = {f"{part}_seconds": [np.nan, np.nan] for part in PARTS} | {"iid_accuracy": NONE, "ood_accuracy": NONE}
    found = written([{"iid_accuracy": [0.5, 0.5, 0.5], "ood_accuracy": NONE} | seconds(train=[1, 2]), empty])
    np.testing.assert_array_equal(found.metrics[0].over_rounds, [0.5, np.nan])
    np.testing.assert_array_equal(found.metrics[1].over_rounds, [np.nan, np.nan])
    np.testing.assert_array_equal(found.round_seconds, [2, np.nan])
    assert found.seconds_a_round == 2
    assert found.slowest is None


def test_a_log_without_a_round_has_no_figures(written):
    found = written([])
    assert (found.status, found.num_rounds, found.bytes_sent, found.slowest) == ("running", 0, None, None)
    assert np.isnan([metric.last for metric in found.metrics]).all()
    assert [metric.of_nodes for metric in found.metrics] == [None] * 4
    assert np.isnan(found.seconds_left(1000.0))
    assert found.diverged == []


def test_where_only_aggregated_models_were_tested_their_scores_stand(written):
    variables = logged_variables(trained=False, aggregated=True, epochs=False)
    found = written([{"iid_accuracy_aggregated": [0.1, 0.2, 0.6]}], variables=variables)
    assert found.after_aggregation
    assert found.metrics[0].last == pytest.approx(0.3)


def test_what_is_no_log_is_told_in_one_line(tmp_path):
    (tmp_path / "run.h5").write_text("no log")
    with pytest.raises(InputError, match=r"run\.h5: cannot be read as HDF5"):
        look(tmp_path / "run.h5")
