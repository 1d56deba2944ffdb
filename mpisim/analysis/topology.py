"""The topology of a run, from its log: the graph, where its nodes stand in it, and where to draw them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mpisim.analysis.layout import spread_out
from mpisim.analysis.logs import configuration
from mpisim.errors import InputError
from mpisim.graphs.files import FILE_KINDS
from mpisim.graphs.generators import make_topology

if TYPE_CHECKING:
    import h5py
    import networkx

MAX_OOD_NAMED = 8
MAX_NODES_FOR_DISTANCES = 100  # a layout from the distances of all pairs of more nodes takes seconds


def graph_of(file: h5py.File) -> networkx.Graph:
    """Return the topology of a run: nodes 0…n-1 and the edges between them, whatever W makes of them.

    Under most strategies the links of the log are the neighborhoods, and their edges the topology's. Under ``fl``,
    ``none`` and ``scale`` they are not: there the topology is made anew from the options. If that fails (its file is
    gone, say), the graph is that of the links: who listened to whom.

    Raises
    ------
    InputError
        If a link is one of no node.
    """
    return as_graph(len(file["degree"]), edges_of(file))


def as_graph(num_nodes: int, edges: np.ndarray) -> networkx.Graph:
    """Return the graph of nodes 0…n-1 with these edges, int64, shape (num_edges, 2)."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(range(num_nodes))
    graph.add_edges_from(edges.tolist())
    return graph


def edges_of(file: h5py.File) -> np.ndarray:
    """Return the edges of ``graph_of``, each once: int64, shape (num_edges, 2), low node first, ascending.

    Raises
    ------
    InputError
        If a link is one of no node.
    """
    targets, sources = links(file)
    degrees = file["degree"][:]
    num_nodes = len(degrees)
    pairs = np.stack([np.minimum(targets, sources), np.maximum(targets, sources)], axis=1)
    edges = np.unique(pairs[targets != sources], axis=0)
    if not np.array_equal(_degrees(num_nodes, edges), degrees):
        made = _edges_of_spec(str(configuration(file).get("topology")))
        if made is not None and np.array_equal(_degrees(num_nodes, made), degrees):
            return made
    return edges


def links(file: h5py.File) -> tuple[np.ndarray, np.ndarray]:
    """Return who listens to whom in a run: two int64 arrays of node numbers, shape (num_links,).

    Raises
    ------
    InputError
        If a link is one of no node.
    """
    targets, sources = (file[name][:].astype(np.int64) for name in ("link_target", "link_source"))
    num_nodes = len(file["degree"])
    for nodes in (targets, sources):
        outside = (nodes < 0) | (nodes >= num_nodes)
        if outside.any():
            raise InputError(
                f"{file.filename}: is a broken log: a link is of node {nodes[outside][0]}, but the nodes are"
                f" 0…{num_nodes - 1}"
            )
    return targets, sources


def _degrees(num_nodes: int, edges: np.ndarray) -> np.ndarray:
    # Edges of more nodes than there are give a longer array, which equals no log's degrees.
    return np.bincount(edges.reshape(-1), minlength=num_nodes)


def _edges_of_spec(spec: str) -> np.ndarray | None:
    """Return the edges of a topology's specification, None where it cannot be made (any more)."""
    is_file = any(spec.endswith(suffix) for suffix in FILE_KINDS)
    try:
        # A generator's graph is always the same, a file's is not.
        return _edges_made.__wrapped__(spec) if is_file else _edges_made(spec)
    except InputError:
        return None


@functools.lru_cache(maxsize=256)
def _edges_made(spec: str) -> np.ndarray:
    adjacency = make_topology(spec).adjacency.tocoo()
    once = adjacency.row < adjacency.col
    return np.stack([adjacency.row[once], adjacency.col[once]], axis=1).astype(np.int64)


def degree_rank(degrees: np.ndarray) -> np.ndarray:
    """Return each node's place in the order of degrees: 1 is the highest; of equal ones, the lower node comes first.

    Returns
    -------
    int64, shape (num_nodes,)

    >>> degree_rank(np.array([2, 5, 2, 3]))
    array([3, 1, 4, 2])
    """
    ranks = np.empty(len(degrees), dtype=np.int64)
    ranks[np.argsort(-np.asarray(degrees, dtype=np.int64), kind="stable")] = np.arange(1, len(degrees) + 1)
    return ranks


def ood_nodes_in_words(degrees: np.ndarray, is_ood: np.ndarray) -> str:
    """Return which nodes have OOD samples, and where they stand in the topology; of many, the first few.

    >>> ood_nodes_in_words(np.array([2, 5, 2]), np.array([0, 1, 0]))
    'OOD node 1 (degree 5, degree rank 1)'
    """
    nodes, ranks = np.flatnonzero(is_ood), degree_rank(degrees)
    if len(nodes) == 0:
        return "no OOD node"
    named = [f"{node} (degree {degrees[node]}, degree rank {ranks[node]})" for node in nodes[:MAX_OOD_NAMED]]
    more = f" and {len(nodes) - MAX_OOD_NAMED} more" if len(nodes) > MAX_OOD_NAMED else ""
    return f"OOD node{'s' if len(nodes) > 1 else ''} {', '.join(named)}{more}"


def modularity(graph: networkx.Graph) -> float:
    """Return the modularity of the communities that greedy merging finds; NaN where there is no edge.

    References
    ----------
    Clauset, Newman, Moore, "Finding community structure in very large networks", 2004, as networkx has it.
    """
    import networkx as nx

    if graph.number_of_edges() == 0:
        return float("nan")
    return float(nx.community.modularity(graph, nx.community.greedy_modularity_communities(graph)))


def modularity_of_edges(num_nodes: int, edges: np.ndarray) -> float:
    """Return the modularity of the graph with these edges, found once for each graph: many runs share one.

    Parameters
    ----------
    edges : int64, shape (num_edges, 2)
    """
    return _modularity_of_bytes(num_nodes, np.ascontiguousarray(edges, dtype=np.int64).tobytes())


@functools.lru_cache(maxsize=256)
def _modularity_of_bytes(num_nodes: int, edges: bytes) -> float:
    return modularity(as_graph(num_nodes, np.frombuffer(edges, dtype=np.int64).reshape(-1, 2)))


def distances(graph: networkx.Graph, sources: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return how many edges each node is from the nearest source.

    Returns
    -------
    float64, shape (num_nodes,): infinite for a node that no source reaches.
    """
    found = np.full(len(graph), np.inf)
    layer, away = {int(source) for source in sources}, 0
    while layer:
        found[list(layer)] = away
        layer = {neighbor for node in layer for neighbor in graph[node] if found[neighbor] == np.inf}
        away += 1
    return found


def positions(graph: networkx.Graph) -> np.ndarray:
    """Return where to draw the nodes: the same for the same graph, no two nodes on one spot.

    Returns
    -------
    float64, shape (num_nodes, 2), in [0, 1].
    """
    import networkx as nx

    num_nodes = len(graph)
    if num_nodes < 2:
        return np.full((num_nodes, 2), 0.5)
    if num_nodes > MAX_NODES_FOR_DISTANCES:
        return _in_unit_square(spread_out(graph))
    ordered = nx.empty_graph(num_nodes)  # where the layout begins depends on the order of the nodes
    ordered.add_edges_from(graph.edges)
    placed = nx.kamada_kawai_layout(ordered, dist=_finite_distances(ordered))
    return _in_unit_square(np.array([placed[node] for node in range(num_nodes)], dtype=np.float64))


def _finite_distances(graph: networkx.Graph) -> dict[int, dict[int, float]]:
    """Return the distances of all pairs of nodes; those in different components are a bit farther than any others."""
    from_each = np.array([distances(graph, [node]) for node in range(len(graph))])
    apart = from_each[np.isfinite(from_each)].max() + 1
    from_each[np.isinf(from_each)] = apart
    return {node: dict(enumerate(row.tolist())) for node, row in enumerate(from_each)}


def _in_unit_square(placed: np.ndarray) -> np.ndarray:
    """Return positions moved into the unit square, as large as they fit, without bending them."""
    low, high = placed.min(axis=0), placed.max(axis=0)
    extent = (high - low).max()
    if extent == 0 or len(np.unique((placed / extent).round(6), axis=0)) < len(placed):
        angles = 2 * np.pi * np.arange(len(placed)) / len(placed)
        return np.asarray(0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    return np.asarray(np.clip(0.5 + (placed - (low + high) / 2) / extent, 0, 1))
