"""The partition deals every sample once, to nodes whose sizes and labels follow the Dirichlet draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpisim.data.partition
from mpisim.data.partition import label_shares, partition, place_by_centrality, sample_counts
from mpisim.errors import InputError
from mpisim.streams import Purpose, stream

NUM_CLASSES = 10
LABELS = np.random.default_rng(0).integers(0, NUM_CLASSES, 60_000)


def deal(labels, num_nodes, *, sample_alpha=1000.0, label_alpha=1000.0, seed=0):
    return partition(labels, num_nodes, NUM_CLASSES, sample_alpha=sample_alpha, label_alpha=label_alpha, seed=seed)


def redraw(num_samples, num_nodes, sample_alpha, label_alpha, seed=0):
    """Return the sizes and the label shares that a partition draws first from its stream."""
    rng = stream(seed, Purpose.PARTITION)
    counts = sample_counts(num_samples, num_nodes, sample_alpha, rng)
    return counts, label_shares(num_nodes, NUM_CLASSES, label_alpha, rng)


def label_table(dealt, labels=LABELS):
    """Return how many samples each node has of each label, shape (num_nodes, NUM_CLASSES)."""
    return np.array([np.bincount(labels[samples], minlength=NUM_CLASSES) for samples in dealt])


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    num_nodes=st.integers(1, 80),
    more=st.integers(0, 2000),
    alpha=st.sampled_from([1e-300, 1e-8, 1e-3, 0.1, 1.0, 1000.0, 1e12]),
    seed=st.integers(0, 1000),
)
def test_counts_add_up_and_every_node_gets_at_least_one_sample(num_nodes, more, alpha, seed):
    counts = sample_counts(num_nodes + more, num_nodes, alpha, np.random.default_rng(seed))
    assert counts.dtype == np.int64
    assert counts.shape == (num_nodes,)
    assert counts.sum() == num_nodes + more
    assert counts.min() >= 1


@pytest.mark.parametrize("alpha", [1e308, 0.0, -1.0, float("nan")])
def test_a_concentration_that_no_dirichlet_has_is_an_input_error(alpha):
    with pytest.raises(InputError, match=r"a Dirichlet concentration of .*: must be above 0, and 1e\+12 at most"):
        sample_counts(1000, 8, alpha, np.random.default_rng(0))


@pytest.mark.parametrize("alpha", [1.0, 1000.0])
def test_counts_are_the_drawn_shares_and_the_largest_remainders_are_rounded_up(alpha):
    counts = sample_counts(60_000, 64, alpha, np.random.default_rng(3))
    exact = np.random.default_rng(3).dirichlet(np.full(64, alpha)) * 60_000
    assert exact.min() >= 1, "no node had to be raised to one sample"
    remainder, up = exact - np.floor(exact), counts - np.floor(exact)
    assert set(up) == {0, 1}
    assert remainder[up == 1].min() >= remainder[up == 0].max()


def test_label_shares_are_one_distribution_per_node():
    shares = label_shares(5, 3, 0.5, np.random.default_rng(0))
    assert shares.shape == (5, 3)
    assert shares.min() >= 0
    np.testing.assert_allclose(shares.sum(axis=1), 1)


@pytest.mark.parametrize("num_samples, num_nodes", [(1, 1), (7, 7), (100, 1), (1000, 33), (60_000, 64)])
@pytest.mark.parametrize("sample_alpha", [1e-8, 1.0, 1000.0])
@pytest.mark.parametrize("label_alpha", [1e-8, 1.0, 1000.0])
def test_every_sample_goes_to_one_node_and_sizes_are_those_drawn(num_samples, num_nodes, sample_alpha, label_alpha):
    dealt = deal(LABELS[:num_samples], num_nodes, sample_alpha=sample_alpha, label_alpha=label_alpha)
    counts, _ = redraw(num_samples, num_nodes, sample_alpha, label_alpha)
    assert [len(samples) for samples in dealt] == counts.tolist()
    np.testing.assert_array_equal(np.sort(np.concatenate(dealt)), np.arange(num_samples))
    assert all((np.diff(samples) > 0).all() for samples in dealt)


def test_a_seed_fixes_the_partition_and_another_changes_it():
    first, again, other = (np.concatenate(deal(LABELS[:500], 8, seed=seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nodes_with_room_get_each_label_in_proportion_to_their_tastes_for_it(monkeypatch):
    num_nodes, per_label = 12, np.bincount(LABELS)
    taste = label_shares(num_nodes, NUM_CLASSES, 1.0, stream(0, Purpose.PARTITION))
    share = taste / taste.sum(axis=0)  # of each label's samples, to each node
    # Every node has room for what it will draw, but for chance: then nobody is turned away for lack of it.
    room = np.floor(share @ per_label).astype(np.int64)
    room[0] += len(LABELS) - room.sum()
    monkeypatch.setattr(mpisim.data.partition, "sample_counts", lambda *_: room.copy())
    realised = label_table(deal(LABELS, num_nodes, label_alpha=1.0)) / per_label
    deviation = np.sqrt(share * (1 - share) / per_label)
    assert (np.abs(realised - share) < 5 * deviation + 2 / per_label).all()


@pytest.mark.parametrize("alpha, low, high", [(1000.0, 0.8, 1.4), (0.1, 100, np.inf)])
def test_alpha_1000_is_near_iid_and_a_small_alpha_is_far_from_it(alpha, low, high):
    table = label_table(deal(LABELS, 64, label_alpha=alpha))
    expected = table.sum(axis=1, keepdims=True) * np.bincount(LABELS) / len(LABELS)
    # Pearson's statistic over its degrees of freedom: 1 if labels did not depend on the node.
    assert low < ((table - expected) ** 2 / expected).sum() / (63 * 9) < high


def test_alpha_1000_makes_shards_of_nearly_one_size():
    sizes = np.array([len(samples) for samples in deal(LABELS, 64)])
    assert 0.7 < sizes.std() / sizes.mean() * np.sqrt(1000) < 1.3  # Dirichlet: 1/√1000 of the mean


def test_with_tiny_alphas_one_node_has_all_and_the_others_one_sample_each():
    sizes = sorted(len(samples) for samples in deal(LABELS, 64, sample_alpha=1e-8, label_alpha=1e-8))
    assert sizes == [1] * 63 + [60_000 - 63]


def test_with_a_tiny_label_alpha_nodes_hold_the_one_label_they_want():
    table = label_table(deal(LABELS, 64, label_alpha=1e-8))
    _, taste = redraw(60_000, 64, 1000.0, 1e-8)
    for label in range(NUM_CLASSES):
        wanted_by = taste[:, label] > 0.5
        all_there = table[~wanted_by, label].sum() == 0
        nothing_else = table[wanted_by].sum() == table[wanted_by, label].sum()
        assert wanted_by.any()
        assert all_there or nothing_else


def test_more_nodes_than_samples_is_an_error_that_gives_both_numbers():
    with pytest.raises(InputError, match="5 nodes but only 4 training samples: every node needs at least one"):
        deal(LABELS[:4], 5)


@pytest.mark.parametrize("offset", [0, 1, 4, 5, 7])
def test_shards_by_centrality_match_the_orders_rotated_by_the_offset(offset):
    sizes, centrality = [3, 9, 1, 7, 5], np.array([0.2, 0.1, 0.9, 0.5, 0.4])
    shards = [np.full(size, number) for number, size in enumerate(sizes)]
    placed = place_by_centrality(shards, centrality, offset)
    most_central_first = [2, 3, 4, 0, 1]
    for place, size in enumerate([9, 7, 5, 3, 1]):
        assert len(placed[most_central_first[(place + offset) % 5]]) == size
    assert sorted(len(shard) for shard in placed) == sorted(sizes)


@pytest.mark.parametrize("label_alpha", [0.1, 1000.0])
@pytest.mark.parametrize("sample_alpha", [0.1, 1000.0])
def test_every_node_gets_so_many_of_each_label_where_that_is_asked(sample_alpha, label_alpha):
    labels = LABELS[LABELS != 4][:2000]  # a label that does not occur is not asked for
    alphas = {"sample_alpha": sample_alpha, "label_alpha": label_alpha}
    dealt = partition(labels, 12, NUM_CLASSES, **alphas, seed=3, of_each_label=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(dealt)), np.arange(2000))
    table = label_table(dealt, labels)
    assert (np.delete(table, 4, axis=1) >= 3).all()
    if sample_alpha < 1:
        assert table.sum(axis=1).max() > 4 * table.sum(axis=1).min()  # and the rest is as uneven as it was


def test_a_label_too_rare_for_all_nodes_is_named():
    labels = np.repeat([0, 1], [90, 5])
    with pytest.raises(InputError, match="3 nodes but only 5 training samples of label 1: every node needs at least 2"):
        partition(labels, 3, 2, sample_alpha=1000.0, label_alpha=1000.0, seed=0, of_each_label=2)
