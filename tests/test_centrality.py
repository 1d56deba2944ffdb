"""Centralities are what their definitions say, computed here with dense matrices or by hand."""

import itertools

import numpy as np
import pytest

from mpisim.errors import InputError
from mpisim.graphs.centrality import (
    betweenness_centrality,
    closeness_centrality,
    clustering_coefficient,
    degree_centrality,
    eigenvector_centrality,
)
from mpisim.graphs.generators import make_topology
from mpisim.graphs.topology import Topology, topology_from_edges

CONNECTED = ["path:n=2", "path:n=7", "star:n=6", "ring:n=9", "torus:n=12", "ba:n=20,m=2,seed=3", "ws:n=16,k=4,p=0.5"]
IN_PARTS = ["sb:sizes=11-11-11,p_in=0.5,p_out=0.009,seed=1", "er:n=20,p=0.08,seed=0", "regular:n=4,k=0"]


def distances_and_counts(topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    """Return the length of the shortest paths between all pairs, inf where there is none, and their number."""
    adjacency = (topology.adjacency.toarray() > 0).astype(np.float64)
    distance = np.where(np.eye(len(adjacency)) > 0, 0.0, np.inf)
    count = np.eye(len(adjacency))
    walks = np.eye(len(adjacency))
    for length in range(1, len(adjacency)):
        walks = walks @ adjacency  # a walk of the least possible length is a shortest path
        new = np.isinf(distance) & (walks > 0)
        distance[new], count[new] = length, walks[new]
    return distance, count


@pytest.mark.parametrize("spec", CONNECTED + IN_PARTS)
def test_betweenness_is_the_share_of_shortest_paths_through_or_ending_at_a_node(spec: str) -> None:
    topology = make_topology(spec)
    distance, count = distances_and_counts(topology)
    num_nodes = topology.num_nodes
    expected = np.zeros(num_nodes)
    for first, second in itertools.combinations(range(num_nodes), 2):
        if np.isfinite(distance[first, second]):
            on_the_way = distance[first] + distance[second] == distance[first, second]
            expected += on_the_way * count[first] * count[second] / count[first, second]
    expected /= num_nodes * (num_nodes - 1) / 2
    np.testing.assert_allclose(betweenness_centrality(topology), expected, atol=1e-12)


@pytest.mark.parametrize("spec", CONNECTED + IN_PARTS)
def test_closeness_is_the_inverse_mean_distance_times_the_share_of_nodes_reached(spec: str) -> None:
    topology = make_topology(spec)
    distance, _ = distances_and_counts(topology)
    expected = []
    for row in distance:
        others = row[np.isfinite(row) & (row > 0)]
        expected.append(len(others) / (topology.num_nodes - 1) / others.mean() if len(others) else 0.0)
    np.testing.assert_allclose(closeness_centrality(topology), expected, atol=1e-12)


@pytest.mark.parametrize("spec", CONNECTED + IN_PARTS)
def test_degree_centrality_is_the_share_of_the_other_nodes_that_are_neighbors(spec: str) -> None:
    topology = make_topology(spec)
    expected = (topology.adjacency.toarray() > 0).sum(axis=1) / (topology.num_nodes - 1)
    np.testing.assert_allclose(degree_centrality(topology), expected, rtol=1e-15)


@pytest.mark.parametrize("spec", CONNECTED + IN_PARTS)
def test_clustering_is_the_share_of_pairs_of_neighbors_that_are_neighbors(spec: str) -> None:
    topology = make_topology(spec)
    adjacency = (topology.adjacency.toarray() > 0).astype(np.float64)
    degree = adjacency.sum(axis=1)
    closed_walks = np.diag(np.linalg.matrix_power(adjacency, 3))  # each triangle is walked in two directions
    expected = np.where(degree > 1, closed_walks / np.maximum(degree * (degree - 1), 1), 0)
    np.testing.assert_allclose(clustering_coefficient(topology), expected, rtol=1e-14)


@pytest.mark.parametrize("spec", CONNECTED)
def test_eigenvector_centrality_is_the_leading_eigenvector_of_the_adjacency_matrix(spec: str) -> None:
    topology = make_topology(spec)
    _, vectors = np.linalg.eigh(topology.adjacency.toarray())  # eigenvalues ascend
    np.testing.assert_allclose(eigenvector_centrality(topology), np.abs(vectors[:, -1]), atol=1e-6)


@pytest.mark.parametrize(
    ("centrality", "expected"),
    [
        (degree_centrality, [1 / 3, 2 / 3, 2 / 3, 1 / 3]),
        (betweenness_centrality, [3 / 6, 5 / 6, 5 / 6, 3 / 6]),
        (closeness_centrality, [3 / 6, 3 / 4, 3 / 4, 3 / 6]),
        (clustering_coefficient, [0, 0, 0, 0]),
        (eigenvector_centrality, np.array([1, 1.618034, 1.618034, 1]) / 2.689994),
    ],
)
def test_a_path_of_four_nodes_by_hand(centrality, expected) -> None:
    np.testing.assert_allclose(centrality(make_topology("path:n=4")), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("centrality", "expected"),
    [
        (degree_centrality, [1.0]),
        (betweenness_centrality, [0.0]),
        (closeness_centrality, [0.0]),
        (clustering_coefficient, [0.0]),
        (eigenvector_centrality, [1.0]),
    ],
)
def test_a_node_that_is_alone(centrality, expected) -> None:
    np.testing.assert_allclose(centrality(make_topology("path:n=1")), expected, atol=1e-12)


@pytest.mark.parametrize(
    "centrality",
    [
        degree_centrality,
        betweenness_centrality,
        closeness_centrality,
        clustering_coefficient,
        eigenvector_centrality,
    ],
)
def test_an_edge_counts_the_same_however_often_it_fails(centrality) -> None:
    edges = np.array([(0, 1), (1, 2), (2, 3), (1, 3)])
    failing = topology_from_edges(4, edges, np.array([0.1, 0.5, 1.0, 0.9]))
    np.testing.assert_array_equal(centrality(failing), centrality(topology_from_edges(4, edges)))


def test_eigenvector_centrality_that_does_not_converge_is_an_input_error() -> None:
    # Two paths of nearly the same length: their leading eigenvalues are so close that neither wins in 20,000 steps.
    edges = np.array([(node, node + 1) for node in range(44) if node != 21])
    topology = topology_from_edges(45, edges, source="two-paths.edgelist")
    message = "'two-paths.edgelist': its eigenvector centrality does not converge: take another strategy"
    with pytest.raises(InputError, match=message):
        eigenvector_centrality(topology)
