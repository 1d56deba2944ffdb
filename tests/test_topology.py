"""A topology is the symmetric matrix that its edges give, and networkx sees the same graph."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.errors import InputError
from mpisim.graphs.topology import Topology, topology_from_edges

PURE = settings(derandomize=True, deadline=None, max_examples=60)


@st.composite
def edge_lists(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], list[float]]:
    """Draw edges as people give them: in any order and direction, some twice, some loops, some that can fail."""
    num_nodes = draw(st.integers(1, 8))
    pairs = st.tuples(st.integers(0, num_nodes - 1), st.integers(0, num_nodes - 1))
    edges = draw(st.lists(pairs, max_size=20))
    # One value for an edge, however often and in whichever direction it is given.
    values = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=64, max_size=64))
    return num_nodes, edges, [values[8 * min(edge) + max(edge)] for edge in edges]


def dense(num_nodes: int, edges: list[tuple[int, int]], values: list[float]) -> np.ndarray:
    """Return the adjacency matrix entry by entry."""
    matrix = np.zeros((num_nodes, num_nodes))
    for (first, second), value in zip(edges, values, strict=True):
        if first != second:
            matrix[first, second] = matrix[second, first] = value
    return matrix


def make(edge_list: tuple[int, list[tuple[int, int]], list[float]]) -> Topology:
    num_nodes, edges, values = edge_list
    return topology_from_edges(num_nodes, np.array(edges, dtype=np.int64), np.array(values))


@PURE
@given(edge_lists())
def test_the_adjacency_matrix_is_the_one_filled_entry_by_entry(edge_list) -> None:
    np.testing.assert_array_equal(make(edge_list).adjacency.toarray(), dense(*edge_list))


@PURE
@given(edge_lists())
def test_a_row_holds_its_edges_once_with_columns_ascending(edge_list) -> None:
    adjacency = make(edge_list).adjacency
    assert (adjacency.data > 0).all()
    for row in range(adjacency.shape[0]):
        columns = adjacency.indices[adjacency.indptr[row] : adjacency.indptr[row + 1]]
        assert (np.diff(columns) > 0).all()


@PURE
@given(edge_lists())
def test_counts_are_those_of_the_dense_matrix(edge_list) -> None:
    topology, matrix = make(edge_list), dense(*edge_list)
    assert topology.num_nodes == len(matrix)
    assert topology.num_edges == np.count_nonzero(np.triu(matrix))
    np.testing.assert_array_equal(topology.degrees, np.count_nonzero(matrix, axis=1))
    assert topology.degrees.dtype == np.int64


@PURE
@given(edge_lists())
def test_the_number_of_components_is_what_networkx_counts(edge_list) -> None:
    graph = nx.from_numpy_array(dense(*edge_list))
    assert make(edge_list).num_components == nx.number_connected_components(graph)


@PURE
@given(edge_lists())
def test_networkx_gets_the_same_graph_with_nodes_in_order_and_probabilities(edge_list) -> None:
    graph = make(edge_list).graph
    assert list(graph.nodes) == list(range(edge_list[0]))
    np.testing.assert_array_equal(nx.to_numpy_array(graph, weight="probability"), dense(*edge_list))


@PURE
@given(edge_lists())
def test_nodes_by_degree_sorts_by_degree_and_then_by_number(edge_list) -> None:
    degrees = np.count_nonzero(dense(*edge_list), axis=1)
    expected = sorted(range(len(degrees)), key=lambda node: (-degrees[node], node))
    assert make(edge_list).nodes_by_degree().tolist() == expected


def test_edges_without_values_never_fail() -> None:
    topology = topology_from_edges(3, np.array([(0, 1), (1, 2)]))
    assert topology.adjacency.toarray().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]


def test_nodes_without_edges_are_a_topology() -> None:
    topology = topology_from_edges(3, np.empty((0, 2)))
    assert topology.degrees.tolist() == [0, 0, 0]
    assert topology.num_components == 3


def test_the_source_is_kept_for_people_to_read() -> None:
    assert topology_from_edges(2, np.array([(0, 1)]), source="two.txt").source == "two.txt"


@pytest.mark.parametrize(("value", "printed"), [(-0.5, "-0.5"), (1.5, "1.5"), (np.nan, "nan"), (np.inf, "inf")])
def test_a_value_outside_0_to_1_is_an_input_error(value: float, printed: str) -> None:
    message = f"^a.txt: the edge 1–2 has the value {printed}: an edge's value is its probability, from 0 .* to 1$"
    with pytest.raises(InputError, match=message):
        topology_from_edges(3, np.array([(0, 1), (1, 2)]), np.array([1.0, value]), "a.txt")


@pytest.mark.parametrize("values", [(0.5, 0.6), (1.0, 0.5), (0.5, 0.0), (0.0, 0.5)])
def test_two_directions_with_different_values_are_an_input_error(values: tuple[float, float]) -> None:
    message = "^a.txt: the edge 1–2 is given twice with different values: a topology is undirected$"
    with pytest.raises(InputError, match=message):
        topology_from_edges(3, np.array([(1, 2), (2, 1)]), np.array(values), "a.txt")
