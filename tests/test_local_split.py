"""The local split: three disjoint parts that make the whole, every label in each, in proportion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.data.local_split import split_locally
from mpisim.errors import InputError

SHARES = (0.7, 0.2, 0.1)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=30, max_size=200), st.integers(0, 5))
def test_the_parts_are_disjoint_and_complete(labels, node):
    labels = np.array([0, 0, 0, *labels])
    samples = np.arange(len(labels))[::-1]
    split = split_locally(labels, samples, SHARES, seed=3, node=node)
    parts = [split.train, split.test, split.validation]
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        sizes = [int((labels[part] == label).sum()) for part in parts]
        if count >= 3:
            assert min(sizes) >= 1
            assert all(abs(size - share * count) < 2 for size, share in zip(sizes, SHARES, strict=True))
        else:
            assert sizes == [1, count - 1, 0]


def test_a_large_shard_is_split_by_the_shares():
    labels = np.repeat([0, 1], 500)
    split = split_locally(labels, np.arange(1000), SHARES, seed=0, node=1)
    assert [len(split.train), len(split.test), len(split.validation)] == [700, 200, 100]
    assert (labels[split.test] == 0).sum() == 100


def test_nodes_and_seeds_draw_for_themselves():
    labels = np.zeros(60, dtype=int)
    drawn = [tuple(split_locally(labels, np.arange(60), SHARES, seed, node).test) for seed in (0, 1) for node in (0, 1)]
    assert len(set(drawn)) == 4
    assert tuple(split_locally(labels, np.arange(60), SHARES, 1, 1).test) == drawn[-1]


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_samples_are_an_input_error(count):
    with pytest.raises(InputError, match=f"node 4 has {count} samples, too few for a training, a test and a valid"):
        split_locally(np.zeros(count, dtype=int), np.arange(count), SHARES, seed=0, node=4)
