"""Nodes go to ranks in blocks of consecutive nodes, as evenly as whole nodes allow; or such that few rows travel."""

import sys

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.errors import InputError
from mpisim.graphs.generators import make_topology
from mpisim.graphs.placement import contiguous, mincut, rows_between_ranks
from mpisim.graphs.strategies import mixing_rule
from mpisim.graphs.topology import topology_from_edges


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 300), st.integers(1, 400))
def test_every_rank_owns_the_block_that_numpy_would_cut(num_nodes: int, num_ranks: int) -> None:
    rank_of_node = contiguous(num_nodes, num_ranks)
    assert rank_of_node.shape == (num_nodes,)
    for rank, nodes in enumerate(np.array_split(np.arange(num_nodes), num_ranks)):
        np.testing.assert_array_equal(np.flatnonzero(rank_of_node == rank), nodes)


def test_ranks_beyond_the_nodes_own_none() -> None:
    assert contiguous(3, 5).tolist() == [0, 1, 2]


def test_a_block_more_goes_to_the_first_ranks() -> None:
    assert contiguous(8, 3).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_one_rank_owns_every_node() -> None:
    assert contiguous(4, 1).tolist() == [0, 0, 0, 0]


def listeners(topology):
    rule = mixing_rule(topology, "degree", np.ones(topology.num_nodes))
    return rule.indptr, rule.indices


def of_graph(graph):
    return topology_from_edges(len(graph), np.array(graph.edges).reshape(-1, 2))


def rows_by_looking(graph, rank_of_node):
    """Count the (listening rank, node of another rank) pairs, edge by edge."""
    both = [*graph.edges, *((j, i) for i, j in graph.edges)]
    return len({(rank_of_node[i], j) for i, j in both if rank_of_node[i] != rank_of_node[j]})


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    num_nodes=st.integers(1, 40),
    num_ranks=st.integers(1, 12),
    density=st.sampled_from([0.0, 0.05, 0.2, 0.6, 1.0]),
    spread=st.sampled_from([1, 2, 20]),
    seed=st.integers(0, 1000),
)
def test_no_more_rows_travel_than_between_blocks_and_no_rank_is_empty_or_overloaded(
    num_nodes: int, num_ranks: int, density: float, spread: int, seed: int
) -> None:
    graph = nx.gnp_random_graph(num_nodes, density, seed=seed)
    topology, simple = of_graph(graph), contiguous(num_nodes, num_ranks)
    loads = np.random.default_rng(seed).integers(10, 10 * spread + 1, num_nodes)
    found = mincut(*listeners(topology), loads, num_ranks)
    np.testing.assert_array_equal(found, mincut(*listeners(topology), loads, num_ranks))
    assert np.unique(found).tolist() == np.unique(simple).tolist()
    assert rows_between_ranks(*listeners(topology), found) == rows_by_looking(graph, found)
    assert rows_by_looking(graph, found) <= rows_by_looking(graph, simple)
    assert np.bincount(found, weights=loads).max() <= 1.05 * np.bincount(simple, weights=loads).max()
    first = [int(np.flatnonzero(found == rank)[0]) for rank in range(found.max() + 1)]
    assert first == sorted(first)  # so that blocks, where METIS finds them, are the contiguous placement


def test_scattered_cliques_come_together() -> None:
    """Four cliques of six in a ring, numbered at random: at the best, each clique hears one node of two others."""
    number = np.random.default_rng(4).permutation(24)
    graph = nx.Graph(
        [(number[6 * c + i], number[6 * c + j]) for c in range(4) for i in range(6) for j in range(i)]
        + [(number[6 * c], number[(6 * c + 7) % 24]) for c in range(4)]
    )
    found = mincut(*listeners(of_graph(graph)), np.ones(24), 4)
    assert rows_by_looking(graph, contiguous(24, 4)) > 40
    assert rows_by_looking(graph, found) == 8
    for c in range(4):
        assert len(set(found[number[6 * c : 6 * c + 6]])) == 1


def test_a_heavy_node_counts_as_its_samples() -> None:
    """A path of nine, whose first node has as many samples as all others: it gets a rank of its own."""
    found = mincut(*listeners(make_topology("path:n=9")), np.array([80] + [10] * 8), 2)
    assert found.tolist() == [0] + [1] * 8


def test_the_default_topology_sends_a_third_less() -> None:
    topology = make_topology("ba:n=24,m=2,seed=0")
    sends = [
        rows_between_ranks(*listeners(topology), placement)
        for placement in (mincut(*listeners(topology), np.ones(24), 4), contiguous(24, 4))
    ]
    assert sends[0] <= sends[1] * 2 / 3 + 2
    assert sends[1] == 40


@pytest.mark.parametrize("spec", ["complete:n=12", "path:n=5"])
@pytest.mark.parametrize("num_ranks", [1, 5])
def test_where_nothing_is_won_blocks_stay(spec: str, num_ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymetis", None)  # not even asked
    topology = make_topology(spec)
    found = mincut(*listeners(topology), np.ones(topology.num_nodes), num_ranks)
    np.testing.assert_array_equal(found, contiguous(topology.num_nodes, num_ranks))


def test_without_pymetis_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(InputError, match="--placement mincut: needs pymetis, which is missing: pip install pymetis"):
        mincut(*listeners(make_topology("ring:n=8")), np.ones(8), 2)
