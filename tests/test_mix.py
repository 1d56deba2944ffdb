"""Mixing is the dense product W @ X to float32 rounding, the same bits wherever a row is, from trained rows only."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.exchange import mixing
from mpisim.exchange.mixing import BLOCK, mix, positions_in_rows
from mpisim.learning.parameters import allocate_rows

NUM_NODES = 7
CPU = torch.device("cpu")


def random_weights(seed, density=0.5):
    """Return W, dense: random rows that sum to 1, every node in its own neighborhood."""
    rng = np.random.default_rng(seed)
    W = rng.random((NUM_NODES, NUM_NODES)) * (
        (rng.random((NUM_NODES, NUM_NODES)) < density) | np.eye(NUM_NODES, dtype=bool)
    )
    return W / W.sum(axis=1, keepdims=True)


def random_rows(num_columns, seed=0):
    return np.random.default_rng(seed).normal(size=(NUM_NODES, num_columns)).astype(np.float32)


def rows_like_x(values):
    rows = allocate_rows(*values.shape, CPU)
    rows[:] = torch.from_numpy(values)
    return rows


def mixed(W, X, own=None, wire=torch.float32):
    """Return the mixtures of some nodes, by default of all, when the rows of the others are remote."""
    own = np.arange(NUM_NODES) if own is None else np.array(own)
    received = np.setdiff1d(np.arange(NUM_NODES), own)
    pattern = [np.flatnonzero(row) for row in W[own]]
    indptr = np.cumsum([0, *map(len, pattern)])
    positions = positions_in_rows(np.concatenate(pattern), own, received)
    weights = np.concatenate([row[columns] for row, columns in zip(W[own], pattern, strict=True)])
    parameters = rows_like_x(X[own])
    mix(parameters, rows_like_x(X[received]).to(wire), indptr, positions, weights)
    return parameters.numpy()


def assert_equal_to_rounding(result, W, X):
    exact = W @ X.astype(np.float64)
    # Each product and each sum of a row is off by half a unit in the last place at the most.
    bound = (2 * NUM_NODES) * 2.0**-24 * (np.abs(W) @ np.abs(X.astype(np.float64)))
    assert (np.abs(result - exact) <= bound).all()


@pytest.mark.parametrize("num_columns", [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17])
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_mixing_is_the_dense_product(num_columns, density):
    W, X = random_weights(1, density), random_rows(num_columns)
    assert_equal_to_rounding(mixed(W, X), W, X)


@pytest.mark.parametrize("num_columns", [1, 63, 64, 65, 128, 300])
def test_small_blocks_mix_to_the_same_bits_as_one_block(monkeypatch, num_columns):
    W, X = random_weights(2), random_rows(num_columns)
    whole = mixed(W, X)
    monkeypatch.setattr(mixing, "BLOCK", 64)
    blockwise = mixed(W, X)
    assert_equal_to_rounding(blockwise, W, X)
    np.testing.assert_array_equal(blockwise, whole)


@pytest.mark.parametrize("num_columns", [1, 33, 200, BLOCK + 77])
@pytest.mark.parametrize(
    "ranks", [[[0, 1, 2], [3, 4, 5, 6]], [[0, 3, 6], [1, 4], [2, 5]], [[node] for node in range(7)]]
)
def test_a_mixture_has_the_same_bits_wherever_the_rows_are(num_columns, ranks):
    W, X = random_weights(3), random_rows(num_columns)
    together = mixed(W, X)
    for own in ranks:
        np.testing.assert_array_equal(mixed(W, X, own), together[own])


@pytest.mark.parametrize("block", [16, BLOCK])
def test_every_mixture_reads_trained_rows_not_mixed_ones(monkeypatch, block):
    monkeypatch.setattr(mixing, "BLOCK", block)
    X = random_rows(50)
    around = np.roll(np.arange(NUM_NODES), 1)
    np.testing.assert_array_equal(mixed(np.eye(NUM_NODES)[around], X), X[around])


def test_a_row_of_weight_0_is_never_read():
    X = random_rows(100)
    own, remote = rows_like_x(X[:3]), rows_like_x(X[3:5])
    own[1] = torch.nan
    remote[0] = torch.inf
    # Node 0 listens to all, but neither 1 (its own rank's) nor 3 answers; node 1 listens to 2 alone; node 2 to nobody.
    weights = np.array([0.25, 0.0, 0.25, 0.0, 0.5, 0.0, 1.0, 0.0])
    mix(own, remote, np.array([0, 5, 7, 8]), np.array([0, 1, 2, 3, 4, 1, 2, 2]), weights)
    np.testing.assert_allclose(own[0], 0.25 * X[0] + 0.25 * X[2] + 0.5 * X[4], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(own[1], X[2])
    assert not own[2].any()


@settings(derandomize=True, deadline=None, max_examples=100)
@given(nodes=st.lists(st.integers(0, 50), min_size=1, unique=True), data=st.data())
def test_positions_lead_back_to_the_nodes(nodes, data):
    num_own = data.draw(st.integers(0, len(nodes)))
    indices = np.array(data.draw(st.lists(st.sampled_from(nodes), min_size=1)))
    own, received = np.array(nodes[:num_own], dtype=np.int64), np.array(nodes[num_own:], dtype=np.int64)
    positions = positions_in_rows(indices, own, received)
    np.testing.assert_array_equal(np.concatenate([own, received])[positions], indices)


def in_bfloat16(values):
    """Return float32 values rounded to the nearest that ends in 16 zero bits; of two, to the one that is even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize("num_columns", [1, 33, BLOCK + 77])
@pytest.mark.parametrize("own", [range(7), [0, 1, 2], [1, 4], [6]])
def test_neighbors_are_rounded_wherever_they_are_and_a_node_is_not(num_columns, own):
    W, X = random_weights(4), random_rows(num_columns)
    own_part = np.diag(np.diag(W))
    exact = own_part @ X.astype(np.float64) + (W - own_part) @ in_bfloat16(X).astype(np.float64)
    together = mixed(W, X, wire=torch.bfloat16)
    bound = (2 * NUM_NODES) * 2.0**-24 * (np.abs(W) @ np.abs(X.astype(np.float64)))
    assert (np.abs(together - exact) <= bound).all()
    np.testing.assert_array_equal(mixed(W, X, own, wire=torch.bfloat16), together[list(own)])


def test_a_rounded_row_of_weight_0_is_never_read():
    W, X = random_weights(5, density=1.0), random_rows(100)
    X[2], X[5] = np.nan, np.inf
    W[:, [2, 5]] = 0.0
    for own in (range(7), [0, 2, 6]):
        assert np.isfinite(mixed(W, X, own, wire=torch.bfloat16)).all()


@pytest.mark.parametrize("num_columns", [5, BLOCK + 1])
def test_equal_mixtures_are_the_bits_of_each_alone(num_columns):
    """Rows of W that are alike are summed once: three are, two others are, and one has the same nodes elsewhere."""
    W, X = random_weights(6, density=1.0), random_rows(num_columns)
    W[[1, 4]], W[5] = W[0], W[3]
    together = mixed(W, X)
    for node in range(NUM_NODES):
        np.testing.assert_array_equal(mixed(W, X, [node])[0], together[node])
    np.testing.assert_array_equal(together[[1, 4]], together[[0, 0]])
    assert (together[2] != together[0]).any()
    assert_equal_to_rounding(together, W, X)
