"""What a log's topology is: against networkx, distances by hand, and places to draw nodes at that can be told apart."""

import h5py
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_logs import write_log

from mpisim.analysis.logs import reading
from mpisim.analysis.topology import (
    degree_rank,
    distances,
    edges_of,
    graph_of,
    modularity,
    modularity_of_edges,
    positions,
)
from mpisim.graphs.generators import make_topology

pure = settings(derandomize=True, deadline=None, max_examples=60)
BA12 = "ba:n=12,m=2,seed=1"


def graph(num_nodes, *edges):
    made = nx.empty_graph(num_nodes)
    made.add_edges_from(edges)
    return made


@st.composite
def graphs(draw):
    num_nodes = draw(st.integers(1, 12))
    pairs = st.tuples(st.integers(0, num_nodes - 1), st.integers(0, num_nodes - 1))
    return graph(num_nodes, *draw(st.lists(pairs.filter(lambda pair: pair[0] != pair[1]), max_size=20)))


def flat(num_nodes):
    return np.zeros((1, num_nodes))


@pytest.mark.parametrize("strategy", ["unweighted", "degree", "random", "degree-similarity", "fl", "none", "scale"])
def test_the_graph_of_a_run_is_its_topology_whatever_the_strategy_makes_of_it(tmp_path, strategy):
    path = write_log(tmp_path / "run.h5", BA12, strategy, flat(12), flat(12))
    with reading(path) as file:
        found = graph_of(file)
        edges = edges_of(file)
    assert sorted(found.nodes) == list(range(12))
    assert nx.utils.edges_equal(found.edges, make_topology(BA12).graph.edges)
    assert edges.tolist() == sorted([low, high] for low, high in make_topology(BA12).graph.edges)


def test_a_node_without_neighbors_is_in_the_graph(tmp_path):
    topology = "er:n=12,p=0.05,seed=3"
    assert min(make_topology(topology).degrees) == 0
    with reading(write_log(tmp_path / "run.h5", topology, "degree", flat(12), flat(12))) as file:
        assert sorted(graph_of(file).nodes) == list(range(12))


def test_links_that_did_not_work_in_the_first_round_are_edges(tmp_path):
    path = write_log(tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        file["link_weight"][:] = 0
    with reading(path) as file:
        assert set(graph_of(file).edges) == {(0, 1), (1, 2), (2, 3)}


def test_where_the_topologys_file_is_gone_or_another_the_graph_is_that_of_the_links(tmp_path):
    place = tmp_path / "topology.txt"
    place.write_text("0 1 0\n1 0 1\n0 1 0\n")
    path = write_log(tmp_path / "run.h5", str(place), "fl", flat(3), flat(3))
    with reading(path) as file:
        assert set(graph_of(file).edges) == {(0, 1), (1, 2)}
    for change in (lambda: place.write_text("0 0 1\n0 0 1\n1 1 0\n"), place.unlink):
        change()
        with reading(path) as file:
            assert set(graph_of(file).edges) == {(0, 1), (0, 2), (1, 2)}


def test_the_highest_degree_is_rank_1_and_of_equal_ones_the_lower_node_comes_first():
    assert degree_rank(np.array([3, 1, 4, 1, 5, 4])).tolist() == [4, 5, 2, 6, 1, 3]


@pure
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_degree_ranks_are_those_by_which_a_run_chooses_its_ood_node(degrees):
    order = sorted(range(len(degrees)), key=lambda node: (-degrees[node], node))
    ranks = degree_rank(np.array(degrees))
    assert [order[rank - 1] for rank in ranks] == list(range(len(degrees)))


@pytest.mark.parametrize("spec", [BA12, "ring:n=10", "sb:sizes=5-5,p_in=0.8,p_out=0.1,seed=0"])
def test_modularity_is_networkxs_of_greedy_communities(spec):
    topology = make_topology(spec)
    communities = nx.community.greedy_modularity_communities(topology.graph)
    expected = nx.community.modularity(topology.graph, communities)
    assert modularity(topology.graph) == pytest.approx(expected, abs=1e-12)
    edges = np.array(topology.graph.edges)
    assert modularity_of_edges(topology.num_nodes, edges) == pytest.approx(expected, abs=1e-12)


def test_two_cliques_and_a_bridge_are_as_modular_as_computed_by_hand():
    cliques = graph(6, (0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (2, 3))
    assert modularity(cliques) == pytest.approx(2 * (3 / 7 - (7 / 14) ** 2))


def test_a_graph_without_edges_has_no_modularity():
    assert np.isnan(modularity(graph(3)))
    assert np.isnan(modularity_of_edges(3, np.empty((0, 2), dtype=np.int64)))


def test_many_runs_on_one_topology_find_its_modularity_once(monkeypatch):
    calls = []
    real = nx.community.greedy_modularity_communities
    monkeypatch.setattr(
        nx.community, "greedy_modularity_communities", lambda graph: (calls.append(len(graph)), real(graph))[1]
    )
    edges = np.array([[0, 1], [1, 2], [2, 3], [3, 17]])
    found = {modularity_of_edges(num_nodes, edges.copy()) for _ in range(5) for num_nodes in (18, 19)}
    assert calls == [18, 19]
    assert len(found) == 1  # nodes without edges change nothing


@pytest.mark.parametrize(
    "sources, expected",
    [([0], [0, 1, 2, 3, np.inf]), ([1], [1, 0, 1, 2, np.inf]), ([0, 3], [0, 1, 1, 0, np.inf]), ([], [np.inf] * 5)],
)
def test_distances_along_a_path_beside_a_lonely_node(sources, expected):
    assert distances(graph(5, (0, 1), (1, 2), (2, 3)), sources).tolist() == expected


@pure
@given(graphs(), st.data())
def test_distances_are_those_to_the_nearest_source(made, data):
    sources = data.draw(st.lists(st.integers(0, len(made) - 1), max_size=3))
    from_each = [nx.single_source_shortest_path_length(made, source) for source in sources]
    expected = [min((lengths.get(node, np.inf) for lengths in from_each), default=np.inf) for node in range(len(made))]
    assert distances(made, np.array(sources, dtype=np.int64)).tolist() == expected


def check_places(places, num_nodes):
    """Check that places are in the unit square, and no two nodes nearer than a thousandth of what an even grid has."""
    assert places.shape == (num_nodes, 2)
    assert places.dtype == np.float64
    assert 0 <= places.min() <= places.max() <= 1
    apart = np.linalg.norm(places[:, None] - places, axis=2) + np.eye(num_nodes)
    assert apart.min() > 0.001 / np.sqrt(num_nodes)


@pure
@given(graphs())
def test_no_two_nodes_of_a_small_graph_are_drawn_on_one_spot(made):
    check_places(positions(made), len(made))


@pytest.mark.parametrize(
    "made",
    [
        nx.barabasi_albert_graph(300, 1, seed=0),
        nx.star_graph(150),
        nx.complete_graph(101),
        nx.empty_graph(130),
        nx.disjoint_union_all([nx.cycle_graph(40)] * 4),
        nx.path_graph(1100),
    ],
    ids=["ba", "star", "complete", "no edges", "rings", "path"],
)
def test_no_two_nodes_of_a_large_graph_are_drawn_on_one_spot(made):
    check_places(positions(made), len(made))


@pytest.mark.parametrize("num_nodes", [1, 8, 130])
def test_places_are_the_same_each_time_and_in_any_order_of_nodes(num_nodes):
    made = nx.cycle_graph(num_nodes)
    turned = nx.empty_graph(0)
    turned.add_nodes_from(reversed(range(num_nodes)))
    turned.add_edges_from(made.edges)
    np.testing.assert_array_equal(positions(made), positions(made))
    np.testing.assert_array_equal(positions(turned), positions(made))


@pytest.mark.parametrize("made", [nx.grid_2d_graph(6, 6), nx.grid_2d_graph(13, 13)], ids=["small", "large"])
def test_neighbors_are_drawn_nearer_than_other_nodes(made):
    made = nx.convert_node_labels_to_integers(made)
    places = positions(made)
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    neighbors = nx.to_numpy_array(made, dtype=bool)
    assert apart[neighbors].mean() < apart[~neighbors].mean() / 2


def test_a_ring_is_drawn_as_a_ring():
    from_center = np.linalg.norm(positions(nx.cycle_graph(12)) - 0.5, axis=1)
    np.testing.assert_allclose(from_center, 0.5, atol=0.02)


def test_parts_that_nothing_joins_are_drawn_apart():
    parts = nx.disjoint_union_all([nx.complete_graph(5)] * 3)
    places = positions(parts).reshape(3, 5, 2)
    centers = places.mean(axis=1)
    within = np.linalg.norm(places - centers[:, None], axis=2).max()
    between = min(np.linalg.norm(centers[a] - centers[b]) for a in range(3) for b in range(a))
    assert between > 2 * within
