"""The least alike neighbor is the one that a plain loop over torch's cosine similarity finds, on any ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from mpisim.exchange.mixing import positions_in_rows
from mpisim.exchange.similarity import BLOCK, least_alike, similarities
from mpisim.graphs.generators import make_topology
from mpisim.graphs.strategies import mixing_rule
from mpisim.graphs.topology import topology_from_edges
from mpisim.learning.parameters import StateLayout, allocate_rows

CPU = torch.device("cpu")
SHAPES = {
    "a perceptron": [(12, 5), (12,), (3, 12), (3,)],
    "convolutions": [(6, 3, 3, 3), (6,), (4, 6, 1, 1)],
    "a scalar and a vector": [(), (17,)],
    "a matrix of more than a block, and a row of more": [(3, BLOCK // 2 + 1), (BLOCK + 7,)],
}


def layout_of(shapes):
    module = torch.nn.Module()
    for number, shape in enumerate(shapes):
        module.register_parameter(f"layer{number}", torch.nn.Parameter(torch.zeros(shape)))
    return StateLayout.of(module)


def models(layout, num_nodes, seed=0):
    rows = allocate_rows(num_nodes, layout.num_columns, CPU)
    values = np.random.default_rng(seed).standard_normal((num_nodes, layout.num_columns))
    return rows.copy_(torch.from_numpy(values.astype(np.float32)))


def alike(layout, first, second):
    """Return the mean over the layers of the mean cosine of a tensor's rows."""
    means = []
    for one, other in zip(layout.views(first.double()), layout.views(second.double()), strict=True):
        height = one.shape[0] if one.ndim > 1 else 1
        means.append(cosine_similarity(one.reshape(height, -1), other.reshape(height, -1), dim=1).mean().item())
    return sum(means) / len(means)


def by_loop(layout, topology, rows):
    """Return the least alike neighbor of each node, -1 for one that has none."""
    found = []
    for node in range(topology.num_nodes):
        neighbors = sorted(topology.graph[node])
        scores = [alike(layout, rows[node], rows[neighbor]) for neighbor in neighbors]
        found.append(neighbors[scores.index(min(scores))] if neighbors else -1)
    return found


def whole(layout, rule, rows, answers=None):
    """Return the least alike neighbor of each node, where one rank owns them all."""
    nodes = np.arange(rule.num_nodes)
    entries = least_alike(layout.shapes, layout.offsets, list(rows), rule.indptr, rule.indices, nodes, answers)
    return np.where(entries < 0, -1, rule.indices[entries]).tolist()


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_similarity_is_torchs_cosine_averaged_over_rows_and_layers(shapes):
    layout = layout_of(shapes)
    rows = models(layout, 4)
    pairs = np.array([(0, 1), (2, 1), (3, 0), (2, 2)])
    found = similarities(layout.shapes, layout.offsets, list(rows), pairs)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [alike(layout, rows[i], rows[j]) for i, j in pairs], rtol=0, atol=1e-13)
    assert found[3] == pytest.approx(1, abs=1e-14)


def test_similarity_by_hand():
    # A matrix of rows (1, 0), (0, 2) and a bias of (3, 4), against (1, 1), (0, -1) and (4, 3).
    layout = layout_of([(2, 2), (2,)])
    rows = torch.tensor([[1.0, 0, 0, 2, 3, 4], [1, 1, 0, -1, 4, 3]])
    expected = ((1 / np.sqrt(2) - 1) / 2 + 24 / 25) / 2
    found = similarities(layout.shapes, layout.offsets, list(rows), np.array([(0, 1)]))
    assert found[0] == pytest.approx(expected, abs=1e-15)


def test_rows_of_zeros_are_like_nothing():
    layout = layout_of([(2, 3), (2,)])
    rows = models(layout, 2)
    rows[0] = 0
    pairs = np.array([(0, 1), (0, 0)])
    assert similarities(layout.shapes, layout.offsets, list(rows), pairs).tolist() == [0, 0]


def test_sums_are_in_float64():
    # In float32 the ones are lost beside 1e8 squared; in float64 the cosine is short of 1 by what they make of it.
    layout = layout_of([(1, 3)])
    rows = torch.tensor([[1e4, 1.0, 0], [1e4, 0, 1]])
    found = similarities(layout.shapes, layout.offsets, list(rows), np.array([(0, 1)]))
    assert 1 - found[0] == pytest.approx(1 / (1e8 + 1), rel=1e-6)


def test_layers_left_out_do_not_count():
    layout = layout_of([(4, 3), (5,), (2, 2)])
    rows = models(layout, 3)
    found = similarities(layout.shapes[:2], layout.offsets[:2], list(rows), np.array([(0, 2)]))
    first = layout_of([(4, 3), (5,)])
    np.testing.assert_allclose(found, [alike(first, rows[0, :17], rows[2, :17])], atol=1e-14)


GRAPHS = ["ba:n=33,m=2,seed=0", "ring:n=7", "star:n=9", "path:n=2", "complete:n=6"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spec", GRAPHS)
def test_the_least_alike_neighbor_is_the_one_a_loop_finds(spec, seed):
    layout = layout_of(SHAPES["a perceptron"])
    topology = make_topology(spec)
    rows = models(layout, topology.num_nodes, seed)
    rule = mixing_rule(topology, "degree-similarity", np.ones(topology.num_nodes))
    assert whole(layout, rule, rows) == by_loop(layout, topology, rows)


def test_a_node_without_neighbors_has_no_least_alike_one():
    layout = layout_of([(2, 2)])
    topology = topology_from_edges(4, np.array([(0, 1), (1, 3)]))
    rule = mixing_rule(topology, "degree-similarity", np.ones(4))
    rows = models(layout, 4)
    assert whole(layout, rule, rows) == [1, by_loop(layout, topology, rows)[1], -1, 1]
    alone = rule.of_rows(np.array([2]))
    entries = least_alike(layout.shapes, layout.offsets, [rows[2]], alone.indptr, np.array([0]), np.array([0]))
    assert entries.tolist() == [-1]


def test_a_neighbor_that_is_not_heard_is_not_looked_at():
    layout = layout_of(SHAPES["a perceptron"])
    edges = np.array([(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (3, 4)])
    failing = topology_from_edges(5, edges, np.full(6, 0.5))
    rule = mixing_rule(failing, "betweenness-similarity", np.ones(5))
    rows = models(layout, 5)
    different = set()
    for round in range(1, 21):
        answers = rule.answering(0, round)
        target = np.repeat(np.arange(5), np.diff(rule.indptr))
        working = [(i, j) for i, j in zip(target[answers], rule.indices[answers], strict=True) if i < j]
        heard = topology_from_edges(5, np.array(working, dtype=np.int64).reshape(-1, 2))
        found = whole(layout, rule, rows, answers)
        assert found == by_loop(layout, heard, rows)
        different.add(tuple(found))
    assert len(different) > 5


def test_of_models_that_are_equally_unlike_it_is_the_lowest_node():
    layout = layout_of(SHAPES["convolutions"])
    rows = models(layout, 6)
    rows[2:5] = rows[2].clone()
    rows[5] = rows[0]
    rule = mixing_rule(make_topology("star:n=6"), "degree-similarity", np.ones(6))
    unlike = 1 if alike(layout, rows[0], rows[1]) < alike(layout, rows[0], rows[2]) else 2
    assert whole(layout, rule, rows)[0] == unlike
    rows[1] = rows[2]
    assert whole(layout, rule, rows) == [1, 0, 0, 0, 0, 0]


def test_a_model_that_is_no_number_is_the_least_alike():
    layout = layout_of(SHAPES["convolutions"])
    rows = models(layout, 5)
    rows[3, 7] = float("nan")
    rule = mixing_rule(make_topology("complete:n=5"), "degree-similarity", np.ones(5))
    assert whole(layout, rule, rows) == [3, 3, 3, 0, 3]


@settings(derandomize=True, deadline=None, max_examples=40)
@given(rank_of_node=st.lists(st.integers(0, 2), min_size=16, max_size=16).map(np.array), seed=st.integers(0, 100))
def test_a_rank_finds_for_its_nodes_what_one_rank_finds_for_all(rank_of_node, seed):
    layout = layout_of(SHAPES["a perceptron"])
    topology = make_topology("ba:n=16,m=2,seed=0")
    rule = mixing_rule(topology, "degree-similarity", np.ones(16))
    rows = models(layout, 16, seed)
    expected = whole(layout, rule, rows)
    for rank in range(3):
        own = np.flatnonzero(rank_of_node == rank)
        mine = rule.of_rows(own)
        received = np.setdiff1d(mine.indices, own)[::-1]  # in whatever order
        positions = positions_in_rows(mine.indices, own, received)
        held = [*rows[own], *rows[received.copy()]]
        entries = least_alike(layout.shapes, layout.offsets, held, mine.indptr, positions, np.arange(len(own)))
        assert mine.indices[entries].tolist() == [expected[node] for node in own]
