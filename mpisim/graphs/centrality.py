"""Centralities: how much a node is in the middle of things. All of them are networkx's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpisim.errors import InputError
from mpisim.graphs.topology import Topology


def degree_centrality(topology: Topology) -> np.ndarray:
    """Return degree / (n - 1) of each node; 1 for a node that is alone."""
    import networkx as nx

    return _by_node(nx.degree_centrality(topology.graph))


def betweenness_centrality(topology: Topology) -> np.ndarray:
    """Return the share of shortest paths that pass through, or end at, each node."""
    import networkx as nx

    return _by_node(nx.betweenness_centrality(topology.graph, normalized=True, endpoints=True))


def closeness_centrality(topology: Topology) -> np.ndarray:
    """Return the inverse mean distance to the nodes that reach each node, scaled by the share of those nodes."""
    import networkx as nx

    return _by_node(nx.closeness_centrality(topology.graph))


def eigenvector_centrality(topology: Topology) -> np.ndarray:
    """Return the leading eigenvector of the adjacency matrix, with norm 1.

    Raises
    ------
    InputError
        If power iteration, which unlike ARPACK starts from no random vector, does not converge.
    """
    import networkx as nx

    try:
        return _by_node(nx.eigenvector_centrality(topology.graph, max_iter=20_000, tol=1e-10))
    except nx.PowerIterationFailedConvergence as error:
        raise InputError(
            f"topology {topology.source!r}: its eigenvector centrality does not converge: take another strategy"
        ) from error


def clustering_coefficient(topology: Topology) -> np.ndarray:
    """Return the share of the pairs of a node's neighbors that are neighbors of each other; 0 below two neighbors."""
    import networkx as nx

    return _by_node(nx.clustering(topology.graph))


def _by_node(centrality: dict[int, float]) -> np.ndarray:
    return np.array([centrality[node] for node in range(len(centrality))], dtype=np.float64)


CENTRALITIES: dict[str, Callable[[Topology], np.ndarray]] = {
    "betweenness": betweenness_centrality,
    "closeness": closeness_centrality,
    "clustering": clustering_coefficient,
    "degree": degree_centrality,
    "eigenvector": eigenvector_centrality,
}
