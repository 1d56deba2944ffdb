"""The topology: an undirected graph of nodes 0…n-1.

An edge has a value in (0, 1]: the probability that it works in a round. 1, the usual value, is an edge that never
fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mpisim.errors import InputError

if TYPE_CHECKING:
    import networkx
    from scipy import sparse

MAX_ENTRIES = 200_000_000  # of a dense matrix that we are ready to hold: 1.6 GB as float64


@dataclass(frozen=True)
class Topology:
    """An undirected graph without self loops.

    Attributes
    ----------
    adjacency : CSR array of float64, shape (num_nodes, num_nodes)
        Symmetric, zero diagonal, columns ascending; the values are the edges' probabilities, in (0, 1].
    source : str
        The specification or the file it came from, for people to read.
    """

    adjacency: sparse.csr_array
    source: str = field(default="")

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return int(self.adjacency.shape[0])

    @property
    def num_edges(self) -> int:
        """The number of undirected edges."""
        return int(self.adjacency.nnz // 2)

    @cached_property
    def degrees(self) -> np.ndarray:
        """The number of neighbors of each node, int64, shape (num_nodes,)."""
        return np.diff(self.adjacency.indptr).astype(np.int64)

    @cached_property
    def graph(self) -> networkx.Graph:
        """The same graph for networkx, with nodes in ascending order."""
        import networkx as nx

        return nx.from_scipy_sparse_array(self.adjacency, edge_attribute="probability")

    @cached_property
    def num_components(self) -> int:
        """The number of connected components."""
        from scipy.sparse.csgraph import connected_components

        count, _ = connected_components(self.adjacency, directed=False)
        return count

    def nodes_by_degree(self) -> np.ndarray:
        """Return all nodes, the highest degree first; nodes of equal degree in ascending order."""
        return np.argsort(-self.degrees, kind="stable")


def topology_from_edges(
    num_nodes: int, edges: np.ndarray, probabilities: np.ndarray | None = None, source: str = ""
) -> Topology:
    """Return the topology with these edges.

    Parameters
    ----------
    num_nodes : int
    edges : int array, shape (num_edges, 2)
        Each undirected edge once or in both directions; self loops are left out.
    probabilities : float array, shape (num_edges,), optional
        Ones if not given.

    Raises
    ------
    InputError
        If a value is not in [0, 1], or the two directions of an edge have different values.
    """
    from scipy import sparse

    values = np.ones(len(edges)) if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    edges = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise InputError(
            f"{source}: the edge {edges[first, 0]}–{edges[first, 1]} has the value {values[first]:.15g}:"
            " an edge's value is its probability, from 0 (no edge) to 1"
        )
    kept = edges[:, 0] != edges[:, 1]
    low, high = edges[kept].min(axis=1, initial=num_nodes), edges[kept].max(axis=1, initial=0)
    keys, first_of = np.unique(low * num_nodes + high, return_index=True)
    kept_values = values[kept]
    unequal = kept_values != kept_values[first_of][np.searchsorted(keys, low * num_nodes + high)]
    if unequal.any():
        at = int(np.argmax(unequal))
        raise InputError(
            f"{source}: the edge {low[at]}–{high[at]} is given twice with different values: a topology is undirected"
        )
    first_of = first_of[kept_values[first_of] > 0]
    low, high, kept_values = low[first_of], high[first_of], kept_values[first_of]
    rows, columns = np.concatenate([low, high]), np.concatenate([high, low])
    adjacency = sparse.csr_array((np.tile(kept_values, 2), (rows, columns)), shape=(num_nodes, num_nodes))
    adjacency.sort_indices()
    return Topology(adjacency, source)
