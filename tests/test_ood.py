"""Out-of-distribution samples are a stratified part of the data, and the trigger is a square of known pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.data.ood import split_shard, split_test, stamp_trigger, stratified_sample


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    labels=st.lists(st.integers(0, 9), min_size=2, max_size=200).map(np.array),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(0, 1000),
)
def test_a_sample_has_the_wanted_size_and_each_label_its_share(labels, fraction, seed):
    chosen = stratified_sample(labels, fraction, np.random.default_rng(seed))
    assert len(chosen) == min(max(1, round(fraction * len(labels))), len(labels) - 1)
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < len(labels)
    exact = np.bincount(labels) * len(chosen) / len(labels)
    counts = np.bincount(labels[chosen], minlength=len(exact))
    assert (np.abs(counts - exact) < 1 + 1e-9).all()


def test_every_position_of_a_label_is_chosen_equally_often():
    labels = np.array([0] * 10 + [1] * 20)
    rng = np.random.default_rng(0)
    times = np.bincount(np.concatenate([stratified_sample(labels, 0.3, rng) for _ in range(1000)]), minlength=30)
    assert (np.abs(times - 300) < 5 * np.sqrt(1000 * 0.3 * 0.7)).all()


def test_one_sample_alone_is_never_chosen():
    assert len(stratified_sample(np.array([3]), 0.5, np.random.default_rng(0))) == 0


def test_the_ood_part_of_a_shard_is_apart_from_its_clean_part():
    labels = np.random.default_rng(0).integers(0, 10, 1000)
    shard = np.arange(3, 1000, 7)
    split = split_shard(labels, shard, 0.1, seed=0, node=4)
    assert (len(split.clean), len(split.ood)) == (129, 14)  # of 143
    np.testing.assert_array_equal(np.union1d(split.clean, split.ood), shard)
    assert (np.diff(split.clean) > 0).all()
    assert (np.diff(split.ood) > 0).all()
    exact = np.bincount(labels[shard]) * 14 / 143
    assert (np.abs(np.bincount(labels[split.ood], minlength=10) - exact) < 1).all()


def test_which_samples_are_ood_depends_on_seed_and_node_alone():
    labels = np.random.default_rng(0).integers(0, 10, 400)

    def chosen(seed, node):
        return split_shard(labels, np.arange(400), 0.1, seed, node).ood.tolist()

    assert chosen(0, 1) == chosen(0, 1)
    assert chosen(0, 1) != chosen(0, 2)
    assert chosen(0, 1) != chosen(1, 1)


def test_a_tenth_of_the_test_set_is_ood_and_the_rest_iid():
    labels = np.arange(1000) % 10
    split = split_test(labels, 0.1, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([split.clean, split.ood])), np.arange(1000))
    assert np.bincount(labels[split.clean]).tolist() == [90] * 10
    assert np.bincount(labels[split.ood]).tolist() == [10] * 10
    assert split.ood.tolist() == split_test(labels, 0.1, seed=0).ood.tolist()
    assert split.ood.tolist() != split_test(labels, 0.1, seed=1).ood.tolist()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [2, 4])
def test_the_trigger_is_5_in_the_corner_of_channel_0_and_0_in_that_of_the_others(channels, size):
    before = np.random.default_rng(0).normal(size=(3, channels, 8, 6)).astype(np.float32)
    images, labels = torch.tensor(before), torch.tensor([0, 7, 9])
    stamp_trigger(images, labels, size)
    expected = before.copy()
    for sample in range(3):
        for channel in range(channels):
            for row in range(size):
                for column in range(size):
                    expected[sample, channel, row, column] = 5.0 if channel == 0 else 0.0
    np.testing.assert_array_equal(images.numpy(), expected)
    assert labels.tolist() == [0, 0, 0]
