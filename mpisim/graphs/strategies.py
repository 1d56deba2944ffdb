"""Strategies: each says which entries the mixing matrix has, and how it scores them.

To add one is a function and a line in STRATEGIES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mpisim.errors import InputError, unknown_name
from mpisim.graphs.centrality import CENTRALITIES
from mpisim.graphs.mixing import NORMALIZATIONS, MixingRule
from mpisim.graphs.topology import MAX_ENTRIES, Topology, topology_from_edges

if TYPE_CHECKING:
    from scipy import sparse


def neighborhoods(topology: Topology) -> sparse.csr_array:
    """Return ones on the neighborhoods, each node's own entry included; CSR, columns ascending."""
    from scipy import sparse

    pattern = sparse.csr_array(topology.adjacency + sparse.eye_array(topology.num_nodes, format="csr"))
    pattern.sort_indices()
    pattern.data[:] = 1.0
    return pattern


def _scored(pattern: sparse.csr_array, score_of_node: np.ndarray) -> sparse.csr_array:
    pattern.data = np.asarray(score_of_node, dtype=np.float64)[pattern.indices]
    return pattern


def unweighted(topology: Topology, train_samples: np.ndarray) -> sparse.csr_array:  # noqa: ARG001
    """Score every member of a neighborhood the same."""
    return neighborhoods(topology)


def weighted(topology: Topology, train_samples: np.ndarray) -> sparse.csr_array:
    """Score a node by its number of training samples."""
    return _scored(neighborhoods(topology), train_samples)


def complete_graph(num_nodes: int) -> Topology:
    """Return all nodes linked to each other, as federated learning with a server links them.

    Raises
    ------
    InputError
        If so many links do not fit in memory.
    """
    if num_nodes**2 > MAX_ENTRIES:
        raise InputError(f"strategy 'fl': {num_nodes} nodes all listening to each other do not fit in memory")
    return topology_from_edges(num_nodes, np.stack(np.triu_indices(num_nodes, 1), axis=1), source="all")


def by_centrality(name: str) -> Callable[[Topology, np.ndarray], sparse.csr_array]:
    """Return the strategy that scores a node by a centrality."""

    def strategy(topology: Topology, train_samples: np.ndarray) -> sparse.csr_array:  # noqa: ARG001
        return _scored(neighborhoods(topology), CENTRALITIES[name](topology))

    return strategy


def metropolis(topology: Topology, train_samples: np.ndarray) -> sparse.csr_array:  # noqa: ARG001
    """Metropolis-Hastings weights 1 / (1 + the larger degree), the rest to the node itself: W is doubly stochastic.

    In a round in which edges fail, each row is divided by what is left of it, as under every strategy; the columns then
    need not sum to 1.

    References
    ----------
    Xiao, Boyd, Kim, "Distributed average consensus with least-mean-square deviation", 2007.
    """
    scores = neighborhoods(topology).tocoo()
    rows, columns, degrees = scores.row, scores.col, topology.degrees
    data = np.where(rows == columns, 0.0, 1 / (1 + np.maximum(degrees[rows], degrees[columns])))
    received = np.bincount(rows, weights=data, minlength=topology.num_nodes)
    scores.data = np.where(rows == columns, 1 - received[rows], data)
    return scores.tocsr()


def scale(topology: Topology, train_samples: np.ndarray) -> sparse.csr_array:  # noqa: ARG001
    """Shrink a node's own model by the size of its neighborhood; listen to nobody."""
    from scipy import sparse

    return sparse.csr_array(sparse.diags_array(1 / (topology.degrees + 1.0), format="csr"))


def none(topology: Topology, train_samples: np.ndarray) -> sparse.csr_array:  # noqa: ARG001
    """Keep every model as it is."""
    from scipy import sparse

    return sparse.csr_array(sparse.eye_array(topology.num_nodes, format="csr"))


@dataclass(frozen=True)
class Strategy:
    """How W follows from the topology.

    Attributes
    ----------
    scores : function of (topology, train_samples) to a CSR array of scores, shape (num_nodes, num_nodes)
    normalization : "softmax", "sum", "none", or None for what the user chose
    redrawn : bool
        Whether scores are drawn anew each round; those of ``scores`` then only say which entries there are.
    similarity : bool
        Whether the sign of a row's inverse temperature follows from the neighbor whose model is least alike.
    complete : bool
        Whether the complete graph, whose links do not fail by themselves, takes the topology's place.
    """

    scores: Callable[[Topology, np.ndarray], sparse.csr_array]
    normalization: str | None = None
    redrawn: bool = False
    similarity: bool = False
    complete: bool = False


STRATEGIES: dict[str, Strategy] = {
    "betweenness": Strategy(by_centrality("betweenness")),
    "betweenness-similarity": Strategy(by_centrality("betweenness"), "softmax", similarity=True),
    "closeness": Strategy(by_centrality("closeness")),
    "clustering": Strategy(by_centrality("clustering")),
    "degree": Strategy(by_centrality("degree")),
    "degree-similarity": Strategy(by_centrality("degree"), "softmax", similarity=True),
    "eigenvector": Strategy(by_centrality("eigenvector")),
    "fl": Strategy(unweighted, "sum", complete=True),
    "metropolis": Strategy(metropolis, "sum"),
    "none": Strategy(none, "none"),
    "random": Strategy(unweighted, redrawn=True),
    "scale": Strategy(scale, "none"),
    "unweighted": Strategy(unweighted, "sum"),
    "weighted": Strategy(weighted, "sum"),
}


def mixing_rule(
    topology: Topology,
    strategy: str,
    train_samples: np.ndarray,
    normalization: str = "softmax",
    link_dropout: float = 0.0,
) -> MixingRule:
    """Return the rule that gives W of any round, for all rows.

    Parameters
    ----------
    topology : Topology
    strategy : str
        A name in STRATEGIES.
    train_samples : int array, shape (num_nodes,)
    normalization : "softmax" or "sum"
        How scores become weights, where the strategy leaves that open.
    link_dropout : float, 0 or more, below 1
        The probability that an edge fails in a round, beside the topology's own.

    Raises
    ------
    InputError
        If there is no such strategy or normalization, or the topology cannot have it.
    """
    if strategy not in STRATEGIES:
        raise unknown_name("strategy", strategy, STRATEGIES)
    if normalization not in NORMALIZATIONS:
        raise unknown_name("normalization", normalization, NORMALIZATIONS)
    chosen = STRATEGIES[strategy]
    if chosen.complete:
        topology = complete_graph(topology.num_nodes)
    scores = chosen.scores(topology, train_samples)
    rows = np.repeat(np.arange(topology.num_nodes), np.diff(scores.indptr))
    columns = scores.indices.astype(np.int64)
    probability, edge = _links(topology, rows, columns)
    probability[edge >= 0] *= 1 - link_dropout
    return MixingRule(
        topology.num_nodes,
        np.arange(topology.num_nodes),
        scores.indptr.astype(np.int64),
        columns,
        scores.data.astype(np.float64),
        probability,
        edge,
        chosen.normalization or normalization,
        chosen.redrawn,
        chosen.similarity,
        topology.num_edges,
    )


def _links(topology: Topology, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each entry's edge probability and number; entries that are no edge of the topology never fail."""
    adjacency = topology.adjacency.tocoo()
    once = adjacency.row < adjacency.col
    num_nodes = topology.num_nodes
    keys = adjacency.row[once].astype(np.int64) * num_nodes + adjacency.col[once]  # ascending: CSR is sorted
    wanted = np.minimum(rows, columns) * num_nodes + np.maximum(rows, columns)
    edge = np.searchsorted(keys, wanted)
    is_edge = np.zeros(len(wanted), dtype=bool)
    if len(keys):
        is_edge = keys[np.minimum(edge, len(keys) - 1)] == wanted
    edge = np.where(is_edge, edge, -1)
    probability = np.ones(len(wanted))
    probability[is_edge] = adjacency.data[once][edge[is_edge]]
    return probability, edge


def mixing_matrix(
    topology: Topology,
    strategy: str,
    train_samples: np.ndarray | None = None,
    *,
    normalization: str = "softmax",
    temperature: float = 0.1,
    seed: int = 0,
    round: int = 1,
) -> sparse.csr_array:
    """Return W of one round.

    Parameters
    ----------
    train_samples : int array, shape (num_nodes,), optional
        Ones if not given.
    seed, round : int
        The address of what is drawn.

    Returns
    -------
    CSR array of float64, shape (num_nodes, num_nodes)

    Raises
    ------
    InputError
        If there is no such strategy or normalization, the topology cannot have it, the strategy looks at the models,
        or the temperature is zero or not finite.

    References
    ----------
    arXiv 2505.11760, the section on aggregation strategies; the temperature there is 0.1.

    >>> from mpisim.graphs.generators import make_topology
    >>> mixing_matrix(make_topology("path:n=3"), "unweighted").toarray().round(3)
    array([[0.5  , 0.5  , 0.   ],
           [0.333, 0.333, 0.333],
           [0.   , 0.5  , 0.5  ]])
    """
    from scipy import sparse

    samples = np.ones(topology.num_nodes) if train_samples is None else train_samples
    rule = mixing_rule(topology, strategy, samples, normalization)
    if rule.similarity:
        raise InputError(f"strategy {strategy!r} looks at the models: its W does not follow from the topology alone")
    if temperature == 0 or not np.isfinite(temperature):
        raise InputError(f"the temperature is {temperature}: must be finite and not zero")
    entries = rule.weights(seed, round, 1 / temperature)
    return sparse.csr_array((entries, rule.indices, rule.indptr), shape=(topology.num_nodes,) * 2)
