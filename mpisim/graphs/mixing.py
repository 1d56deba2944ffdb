"""Mixing matrices: who listens to whom, and how much.

W[i, j] is the weight node i gives node j's model. Rows sum to 1 (but under ``scale``, which shrinks a model and listens
to nobody); W is zero outside the neighborhood.

A strategy says once, on rank 0, which entries W has and how each is *scored* (``scores``). Each round the scores become
weights, row by row (``MixingRule.weights``): that needs numpy alone, and a rank does it for its own nodes only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mpisim.errors import InputError, unknown_name
from mpisim.graphs.centrality import CENTRALITIES
from mpisim.graphs.topology import MAX_ENTRIES, Topology
from mpisim.streams import Purpose, stream

if TYPE_CHECKING:
    from scipy import sparse

NORMALIZATIONS = ("softmax", "sum")
ROUNDING = 1e-9  # relative; of a centrality


@dataclass(frozen=True)
class MixingRule:
    """Some rows of W before they are weights, in CSR form.

    Attributes
    ----------
    num_nodes : int
        Of the whole topology, whichever rows are held here.
    indptr, indices : int64, shapes (num_rows + 1,) and (num_entries,)
        Row r owns the entries indptr[r]…indptr[r + 1]; an entry's node is in indices, ascending within a row.
    scores : float64, shape (num_entries,)
        What the strategy thinks of the entry's node.
    probability : float64, shape (num_entries,)
        The probability that the entry's edge works in a round; 1 for the node itself.
    edge : int64, shape (num_entries,)
        The number of the entry's undirected edge, the same in both directions; -1 for the node itself.
    normalization : "softmax", "sum" or "none"
        How scores become weights.
    redrawn : bool
        Whether every node's score is drawn anew each round, from U(0, 1).
    similarity : bool
        Whether the sign of a row's inverse temperature follows from the neighbor whose model is least alike.
    num_edges : int
    """

    num_nodes: int
    indptr: np.ndarray
    indices: np.ndarray
    scores: np.ndarray
    probability: np.ndarray
    edge: np.ndarray
    normalization: str
    redrawn: bool
    similarity: bool
    num_edges: int

    def of_rows(self, rows: np.ndarray) -> MixingRule:
        """Return the rule of some of the rows, in the order given."""
        counts = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        entries = np.repeat(self.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        return MixingRule(
            self.num_nodes,
            indptr,
            self.indices[entries],
            self.scores[entries],
            self.probability[entries],
            self.edge[entries],
            self.normalization,
            self.redrawn,
            self.similarity,
            self.num_edges,
        )

    def weights(
        self, seed: int, round: int, inverse_temperature: float, least_alike: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the weight of every entry in a round, float64, shape (num_entries,).

        Entries whose edge fails this round weigh 0, and the others of the row share what is left.

        Parameters
        ----------
        seed, round : int
            The address of what is drawn: random scores, and which edges fail.
        inverse_temperature : float
            What the softmax multiplies scores by: 0 makes them equal, a negative one prefers the lowest. Not used by
            other normalizations.
        least_alike : int array, shape (num_rows,), only where ``similarity`` asks for it
            The entry of each row's neighbor whose model is least alike, as ``exchange.similarity`` finds it; -1 in a
            row without neighbors.

        Raises
        ------
        InputError
            If the inverse temperature is not finite.
        ValueError
            If ``similarity`` asks for ``least_alike``, and it is not given.
        """
        if not np.isfinite(inverse_temperature):
            raise InputError(f"the inverse temperature is {inverse_temperature}: must be finite")
        scores = self.scores
        if self.redrawn:
            drawn = stream(seed, Purpose.RANDOM_WEIGHTS, round=round).random(self.num_nodes)
            scores = drawn[self.indices]
        answers = self.answering(seed, round)
        if self.normalization == "none":
            return np.where(answers, scores, 0.0)
        row_of = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        if self.normalization == "softmax":
            inverse = self._inverse_of_rows(inverse_temperature, least_alike)[row_of]
            logits = np.where(answers, scores * inverse, -np.inf)
            # Every row holds the node itself, which always answers: no row is empty and no maximum infinite.
            raw = np.exp(logits - np.maximum.reduceat(logits, self.indptr[:-1])[row_of])
        else:
            raw = np.where(answers, scores, 0.0)
            nothing = np.add.reduceat(raw, self.indptr[:-1]) == 0
            raw = np.where(nothing[row_of] & answers, 1.0, raw)  # scores that are all zero prefer nobody
        return np.asarray(raw / np.add.reduceat(raw, self.indptr[:-1])[row_of])

    def _inverse_of_rows(self, inverse_temperature: float, least_alike: np.ndarray | None) -> np.ndarray:
        """Return each row's inverse temperature: negative where the least alike neighbor scores below the node."""
        num_rows = len(self.indptr) - 1
        if not self.similarity:
            return np.full(num_rows, inverse_temperature)
        if least_alike is None:
            raise ValueError("these weights depend on which models are least alike: least_alike is missing")
        own_score = self.scores[self.edge < 0]  # in a neighborhood every entry but the node's own is an edge
        # Scores that are equal but for their rounding are equal: no sign may hang on the order of a sum.
        below = (least_alike >= 0) & (self.scores[least_alike] < own_score * (1 - ROUNDING))
        return np.where(below, -1.0, 1.0) * abs(inverse_temperature)

    def answering(self, seed: int, round: int) -> np.ndarray:
        """Return whether each entry's node is heard in a round, bool, shape (num_entries,): edges may fail."""
        if not (self.probability < 1).any():
            return np.ones(len(self.indices), dtype=bool)
        drawn = stream(seed, Purpose.LINKS, round=round).random(self.num_edges)
        return np.asarray((self.edge < 0) | (drawn[self.edge] < self.probability))


# Strategies: each returns W's entries with their scores.


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


def fl(topology: Topology, train_samples: np.ndarray) -> sparse.csr_array:  # noqa: ARG001
    """Put the complete graph in the topology's place, as federated learning with a server would."""
    from scipy import sparse

    if topology.num_nodes**2 > MAX_ENTRIES:
        raise InputError(f"strategy 'fl': {topology.num_nodes} nodes all listening to each other do not fit in memory")
    return sparse.csr_array(np.ones((topology.num_nodes, topology.num_nodes)))


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
    """

    scores: Callable[[Topology, np.ndarray], sparse.csr_array]
    normalization: str | None = None
    redrawn: bool = False
    similarity: bool = False


STRATEGIES: dict[str, Strategy] = {
    "betweenness": Strategy(by_centrality("betweenness")),
    "betweenness-similarity": Strategy(by_centrality("betweenness"), "softmax", similarity=True),
    "closeness": Strategy(by_centrality("closeness")),
    "clustering": Strategy(by_centrality("clustering")),
    "degree": Strategy(by_centrality("degree")),
    "degree-similarity": Strategy(by_centrality("degree"), "softmax", similarity=True),
    "eigenvector": Strategy(by_centrality("eigenvector")),
    "fl": Strategy(fl, "sum"),
    "metropolis": Strategy(metropolis, "sum"),
    "none": Strategy(none, "none"),
    "random": Strategy(unweighted, redrawn=True),
    "scale": Strategy(scale, "none"),
    "unweighted": Strategy(unweighted, "sum"),
    "weighted": Strategy(weighted, "sum"),
}


def mixing_rule(
    topology: Topology, strategy: str, train_samples: np.ndarray, normalization: str = "softmax"
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
    scores = chosen.scores(topology, train_samples)
    rows = np.repeat(np.arange(topology.num_nodes), np.diff(scores.indptr))
    columns = scores.indices.astype(np.int64)
    probability, edge = _links(topology, rows, columns)
    return MixingRule(
        topology.num_nodes,
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
