"""The accuracy AUC is the area under the accuracy curve by the trapezoid rule, divided by its length."""

import numpy as np
import pytest
from scipy.integrate import trapezoid

from mpisim.analysis.measures import accuracy_auc


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
