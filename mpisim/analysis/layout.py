"""Where to draw the nodes of a large graph: a thousand of them in a second or two.

networkx has the same two steps apart, and takes many seconds for them: first distances to a few pivots give the whole
its shape, then forces spread what lies on one spot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import networkx
    from scipy import sparse

NUM_PIVOTS = 50
NUM_STEPS = 60
LONGEST_STEP = 0.1  # of a layout about 1 wide
MAX_PUSHING = 1_000  # nodes that push the others away; of more, an even sample stands for all


def spread_out(graph: networkx.Graph) -> np.ndarray:
    """Return positions of the nodes 0…n-1, at least two: float64, shape (num_nodes, 2), about 1 wide.

    References
    ----------
    Brandes, Pich, "Eigensolver methods for progressive multidimensional scaling of large data", 2006: the pivots.
    Fruchterman, Reingold, "Graph drawing by force-directed placement", 1991: the forces.
    """
    import networkx as nx

    num_nodes = len(graph)
    adjacency = nx.to_scipy_sparse_array(graph, nodelist=range(num_nodes), weight=None, dtype=np.float64, format="csr")
    placed = _by_pivots(adjacency)
    # Nodes that no pivot tells apart lie on one spot: a small spiral gives each its own, and the forces a direction.
    turns = np.arange(num_nodes) * np.pi * (3 - np.sqrt(5))
    spiral = np.sqrt((np.arange(num_nodes) + 0.5) / num_nodes) * np.stack([np.cos(turns), np.sin(turns)])
    return _pushed_apart(adjacency, 0.5 * placed / max(np.abs(placed).max(), 1e-9) + 0.05 * spiral.T)


def _by_pivots(adjacency: sparse.csr_array) -> np.ndarray:
    """Return positions whose distances are near the numbers of edges to a few nodes that are far from each other."""
    from scipy.sparse.csgraph import dijkstra

    num_nodes = adjacency.shape[0]
    pivot, nearest, columns = int(np.diff(adjacency.indptr).argmax()), np.full(num_nodes, np.inf), []
    for _ in range(min(num_nodes, NUM_PIVOTS)):
        columns.append(dijkstra(adjacency, unweighted=True, indices=[pivot])[0])
        nearest = np.minimum(nearest, columns[-1])
        pivot = int(nearest.argmax())
    away = np.stack(columns, axis=1)
    away[np.isinf(away)] = away[np.isfinite(away)].max() + 1  # another component
    squares = away**2
    centered = squares.mean(axis=0) + squares.mean(axis=1, keepdims=True) - squares - squares.mean()
    _, directions = np.linalg.eigh(centered.T @ centered)
    return np.asarray(centered @ directions[:, -2:])


def _pushed_apart(adjacency: sparse.csr_array, placed: np.ndarray) -> np.ndarray:
    """Return positions after steps in which all nodes push each other away, and edges pull."""
    num_nodes = len(placed)
    placed = placed.astype(np.float32)  # twice as fast, and finer than any screen
    edges, unit = adjacency.tocoo(), 1 / np.sqrt(num_nodes)
    pushing = np.unique(np.linspace(0, num_nodes - 1, min(num_nodes, MAX_PUSHING)).astype(np.int64))
    for step in range(NUM_STEPS):
        apart = [placed[:, [axis]] - placed[pushing, axis] for axis in (0, 1)]
        share = unit**2 / np.maximum(apart[0] ** 2 + apart[1] ** 2, 1e-4 * unit**2) * (num_nodes / len(pushing))
        force = np.stack([(share * along).sum(axis=1) for along in apart], axis=1)
        along_edges = placed[edges.row] - placed[edges.col]
        pull = along_edges * np.linalg.norm(along_edges, axis=1, keepdims=True) / unit
        force -= np.stack([np.bincount(edges.row, pull[:, axis], num_nodes) for axis in (0, 1)], axis=1)
        strength = np.maximum(np.linalg.norm(force, axis=1, keepdims=True), 1e-9)
        longest = LONGEST_STEP * (1 - step / NUM_STEPS)
        placed = (placed + force * np.minimum(1, longest / strength)).astype(np.float32)
    return placed.astype(np.float64)
