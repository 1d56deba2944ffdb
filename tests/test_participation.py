"""Participation: as many nodes as the fraction says, each as often as the others, the same for everybody who asks."""

import numpy as np
import pytest

from mpisim.graphs.participation import participants


@pytest.mark.parametrize(
    "num_nodes, fraction, count",
    [
        (10, 1.0, 10),
        (10, 0.5, 5),
        (10, 0.59, 5),
        (10, 0.01, 1),
        (1, 0.5, 1),
        (3, 0.99, 2),
        (100, 0.29, 29),
        (100, 0.57, 57),
        (100, 0.58, 58),
    ],
)
def test_as_many_as_the_fraction_says(num_nodes, fraction, count):
    for round in range(1, 6):
        assert participants(num_nodes, fraction, seed=0, round=round).sum() == count


def test_rounds_and_seeds_differ_and_calls_do_not():
    drawn = [participants(40, 0.5, seed, round) for seed in range(3) for round in range(1, 4)]
    assert len({tuple(each) for each in drawn}) == 9
    np.testing.assert_array_equal(participants(40, 0.5, 2, 3), drawn[-1])


def test_every_node_takes_part_as_often():
    counts = sum(participants(20, 0.25, seed=1, round=round).astype(int) for round in range(1, 2001))
    assert abs(counts - 500).max() < 5 * (2000 * 0.25 * 0.75) ** 0.5
