"""The measures of a study: against scipy, the paper's own figures, and resamples that are all enumerated."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.stats import bootstrap

from mpisim.analysis.measures import (
    accuracy_auc,
    bootstrap_interval,
    improvement,
    improvements,
    perplexity,
    relative_difference,
    rounds_until,
)
from mpisim.errors import InputError

pure = settings(derandomize=True, deadline=None, max_examples=100)
accuracies = st.floats(0, 1)

# arXiv 2505.11760, OOD accuracy AUC read off its bars: Unweighted, Weighted, Random, Betweenness, Degree; a row for
# each data set on BA graphs of 33 nodes with m = 1, then 2, then 3.
PAPER = np.array(
    [
        [132, 123, 71, 184, 163],
        [82, 71, 67, 178, 157],
        [52, 53, 67, 147, 141],
        [44, 46, 57, 152, 135],
        [39, 40, 50, 100, 77],
        [97, 99, 60, 188, 188],
        [126, 137, 49, 187, 187],
        [90, 79, 54, 176, 180],
        [66, 68, 41, 181, 182],
        [55, 54, 42, 98, 114],
        [67, 78, 142, 186, 188],
        [138, 150, 127, 177, 187],
        [90, 87, 65, 170, 164],
        [29, 31, 81, 169, 179],
        [53, 54, 54, 101, 88],
    ]
)


@pytest.mark.parametrize("shape", [(2,), (20,), (20, 3), (7, 3, 4)])
def test_the_auc_is_the_trapezoid_area_over_its_length(shape):
    accuracy = np.random.default_rng(0).random(shape)
    np.testing.assert_allclose(accuracy_auc(accuracy), trapezoid(accuracy, axis=0) / (shape[0] - 1), rtol=1e-12)


def test_perfect_from_the_start_is_1_and_a_straight_rise_a_half():
    np.testing.assert_array_equal(accuracy_auc(np.ones((9, 2))), [1, 1])
    assert accuracy_auc(np.linspace(0, 1, 201)) == pytest.approx(0.5)


def test_the_ends_count_half():
    assert accuracy_auc(np.array([1.0, 0.0, 0.0])) == 0.25


@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_the_auc_of_one_round_is_its_accuracy_and_of_none_nan(shape):
    accuracy = np.random.default_rng(0).random((1, *shape))
    np.testing.assert_array_equal(accuracy_auc(accuracy), accuracy[0])
    nothing = accuracy_auc(np.empty((0, *shape)))
    assert nothing.shape == shape
    assert np.isnan(nothing).all()


def test_a_node_without_an_accuracy_has_no_auc_and_the_others_have():
    accuracy = np.array([[0.0, np.nan], [1.0, np.nan]])
    np.testing.assert_array_equal(accuracy_auc(accuracy), [0.5, np.nan])


def test_perplexity_is_the_number_of_equally_likely_tokens():
    np.testing.assert_allclose(perplexity(np.log([1.0, 14.0, 1e300])), [1, 14, 1e300])
    assert perplexity(np.array(1e4)) == np.inf


@pytest.mark.parametrize(
    "iid, ood, percent", [(0.5, 0.5, 0), (0.4, 0.8, 200 / 3), (0.75, 0.25, -100), (0.3, 0, -200), (0, 0.3, 200)]
)
def test_the_relative_difference_is_in_percent_of_the_mean(iid, ood, percent):
    assert relative_difference(iid, ood) == pytest.approx(percent)


@pure
@given(accuracies, accuracies)
def test_the_relative_difference_turns_around_with_its_arguments_and_stays_within_200(iid, ood):
    difference = relative_difference(iid, ood)
    if iid == ood == 0:
        assert np.isnan(difference)
    else:
        assert difference == -relative_difference(ood, iid)
        assert -200 <= difference <= 200


def test_a_relative_difference_without_a_figure_is_nan_and_the_others_stand():
    np.testing.assert_array_equal(relative_difference([0.5, np.nan, 0.5], [0.5, 0.5, np.nan]), [0, np.nan, np.nan])


def test_the_improvement_of_the_papers_bars_is_its_headline():
    """123 % is the paper's figure; its bars can be read to 2 points in 200, which gives 125 %."""
    assert improvement(PAPER[:, 3:].mean(axis=1), PAPER[:, :3].mean(axis=1)) == pytest.approx(1.23, abs=0.03)


def test_the_improvement_is_a_mean_of_ratios_not_a_ratio_of_means():
    assert improvement(np.array([0.9, 0.3]), np.array([0.3, 0.3])) == pytest.approx((2 + 0) / 2)


def test_cells_without_both_kinds_of_strategies_do_not_count():
    aware = np.array([0.6, np.nan, 0.5, 0.5, np.inf])
    unaware = np.array([0.4, 0.4, np.nan, 0.0, 0.4])
    np.testing.assert_allclose(improvements(aware, unaware), [0.5])
    assert improvement(aware, unaware) == pytest.approx(0.5)
    assert np.isnan(improvement(np.array([np.nan]), np.array([0.4])))


def test_a_node_passes_a_threshold_in_the_first_round_that_reaches_it():
    accuracy = np.array([[0.5, 0.1, 0.0, np.nan], [0.1, 0.4, 0.0, np.nan], [0.9, 0.5, 0.4, np.nan]])
    np.testing.assert_array_equal(rounds_until(accuracy, 0.5), [1, 3, np.nan, np.nan])
    assert np.isnan(rounds_until(np.empty((0, 2)), 0.5)).all()


@pure
@given(st.lists(st.lists(accuracies, min_size=3, max_size=3), min_size=1, max_size=8), accuracies)
def test_rounds_until_agrees_with_a_search_round_by_round(rows, threshold):
    found = rounds_until(np.array(rows), threshold)
    for node in range(3):
        first = next((number for number, row in enumerate(rows, start=1) if row[node] >= threshold), np.nan)
        np.testing.assert_equal(found[node], first)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_the_bootstrap_interval_is_that_of_all_resamples(level):
    """Three values have 27 resamples, four 256: all of them make the distribution that the drawn ones approach."""
    for values in ([0.2, 0.5, 0.9], [0.1, 0.15, 0.4, 0.8]):
        means = [np.mean(resample) for resample in itertools.product(values, repeat=len(values))]
        exact = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        # The distribution has steps: a drawn quantile may stand on the step beside.
        near = np.unique(np.round(means, 12))
        for found, wanted in zip(bootstrap_interval(np.array(values), level), exact, strict=True):
            steps = abs(int(np.abs(near - found).argmin()) - int(np.abs(near - wanted).argmin()))
            assert steps <= 1


def test_the_bootstrap_interval_agrees_with_scipys():
    values = np.random.default_rng(0).gamma(2.0, size=40)
    exact = bootstrap((values,), np.mean, method="percentile", n_resamples=10_000).confidence_interval
    np.testing.assert_allclose(bootstrap_interval(values), exact, atol=0.03 * values.std())


def test_the_bootstrap_interval_depends_on_nothing_but_values_level_and_seed():
    values = np.array([0.1, 0.4, 0.35, 0.8])
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(np.append(values, np.nan), seed=3) == bootstrap_interval(values, seed=3)
    inner, outer = bootstrap_interval(values, 0.5), bootstrap_interval(values, 0.99)
    assert outer[0] < inner[0] < values.mean() < inner[1] < outer[1]


@pytest.mark.parametrize("values", [[], [0.5], [0.5, np.nan]])
def test_one_value_has_no_interval(values):
    assert np.isnan(bootstrap_interval(np.array(values))).all()


def test_equal_values_have_an_interval_without_width():
    assert bootstrap_interval(np.full(5, 0.25)) == (0.25, 0.25)


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, np.nan])
def test_a_level_out_of_range_is_told(level):
    with pytest.raises(InputError, match=r"the level of an interval is .*: must be above 0 and below 1"):
        bootstrap_interval(np.ones(3), level)
