"""Predicted influence: from W alone, whose models end up in whose, and how well that tells where knowledge went.

After r aggregations without training, node i's model is the sum over j of (W^r)[i, j] times node j's first model. So
the column of an OOD node in W^r says how much of its model each node has, and the left Perron vector of W says how much
of it every node has in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mpisim.analysis.logs import is_aggregated, score, score_curve
from mpisim.analysis.measures import accuracy_auc
from mpisim.analysis.topology import distances, graph_of, links

if TYPE_CHECKING:
    import h5py
    from scipy import sparse

THRESHOLD = 0.5  # from which accuracy on a node is said to have the OOD knowledge


@dataclass(frozen=True)
class Prediction:
    """What W predicts of a run, beside what was measured.

    Attributes
    ----------
    ood_nodes : int64, shape (num_ood_nodes,)
    influence : float64, shape (num_rounds + 1, num_nodes)
        The OOD nodes' weight in each node after 0, 1, … aggregations, all with the W of the first round.
    predicted : float64, shape (num_nodes,)
        The AUC of that over the rounds whose models were tested; NaN where W follows from the models.
    measured : float64, shape (num_nodes,)
        The OOD accuracy AUC.
    stationary : float
        The OOD nodes' weight in every node in the end.
    rank_correlation : float
        Spearman's, over nodes, of predicted and measured; NaN where all nodes are equal in one of them, where there is
        no round or no OOD node, or where W follows from the models.
    distance : float64, shape (num_nodes,)
        Edges to the nearest OOD node.
    arrival : float64, shape (num_nodes,)
        The round from which on the node's OOD accuracy stays at THRESHOLD or above; NaN where it does not.
    arrival_correlation : float
        Spearman's, of arrival and distance, over the nodes that have both.
    """

    ood_nodes: np.ndarray
    influence: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray
    stationary: float
    rank_correlation: float
    distance: np.ndarray
    arrival: np.ndarray
    arrival_correlation: float


def compare_prediction(file: h5py.File) -> Prediction:
    """Return what W predicts of a run, beside what was measured, as far as the run has come.

    The W of the first round stands for that of all: under a schedule, failing links, participation below 1 and the
    strategy ``random``, the prediction is only as good as that.

    Raises
    ------
    InputError
        If a link of the log is one of no node.
    """
    ood_nodes = np.flatnonzero(file["is_ood"][:])
    matrix = mixing_matrix(file)
    accuracy, num_rounds = score(file, "ood_accuracy"), len(file["round"])
    influence = predicted_influence(matrix, ood_nodes, num_rounds)
    # A trained model of round r has been through r - 1 aggregations, an aggregated one through r.
    tested = influence[1:] if is_aggregated(file) else influence[:-1]
    predicted, measured = accuracy_auc(tested), accuracy_auc(score_curve(file, "ood_accuracy"))
    if not np.isfinite(matrix.data).all():  # before the first aggregation W plays no part, but then it predicts nothing
        predicted = np.full(len(predicted), np.nan)
    away, arrived = distances(graph_of(file), ood_nodes), arrival(accuracy)
    return Prediction(
        ood_nodes,
        influence,
        predicted,
        measured,
        float(stationary_mass(matrix)[ood_nodes].sum()) if len(ood_nodes) else float("nan"),
        rank_correlation(predicted, measured),
        away,
        arrived,
        rank_correlation(away, arrived),
    )


def mixing_matrix(file: h5py.File) -> sparse.csr_array:
    """Return W of a run's first round: W[i, j] is the weight that node i gives node j's model.

    Returns
    -------
    CSR array of float64, shape (num_nodes, num_nodes): NaN where the strategy looks at the models.

    Raises
    ------
    InputError
        If a link of the log is one of no node.
    """
    from scipy import sparse

    targets, sources = links(file)
    num_nodes = len(file["degree"])
    matrix = sparse.csr_array((file["link_weight"][:].astype(np.float64), (targets, sources)), (num_nodes, num_nodes))
    matrix.sort_indices()
    return matrix


def predicted_influence(matrix: sparse.csr_array, sources: Sequence[int] | np.ndarray, num_rounds: int) -> np.ndarray:
    """Return the weight of the sources' models in every node's model after each aggregation: columns of powers of W.

    Parameters
    ----------
    matrix : CSR array, shape (num_nodes, num_nodes)
        W, the same in every round.
    sources : node numbers

    Returns
    -------
    float64, shape (num_rounds + 1, num_nodes): row r is the sum over sources of (W^r)[:, source].
    """
    influence = np.zeros((num_rounds + 1, matrix.shape[0]))
    influence[0, np.asarray(sources, dtype=np.int64)] = 1
    for round in range(num_rounds):
        influence[round + 1] = matrix @ influence[round]
    return influence


def stationary_mass(matrix: sparse.csr_array) -> np.ndarray:
    """Return how much of each node's model is in a node in the end: the left Perron vector of W, mean over nodes.

    Where every node reaches every other, all nodes end with the same mixture, and this is it. Where they do not (the
    topology falls apart, or weights are 0), it is the mean over nodes of what each ends with.

    Returns
    -------
    float64, shape (num_nodes,), sums to 1; all NaN where a row of W does not sum to 1, as under ``scale``.

    References
    ----------
    Kemeny, Snell, "Finite Markov chains", 1960: absorption, and the limit of each closed class.
    """
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    num_nodes = matrix.shape[0]
    if not np.allclose(matrix.sum(axis=1), 1):
        return np.full(num_nodes, np.nan)
    positive = sparse.csr_array(matrix)
    positive.eliminate_zeros()
    num_classes, class_of = connected_components(positive, directed=True, connection="strong")
    entries = positive.tocoo()
    is_closed = np.ones(num_classes, dtype=bool)
    is_closed[class_of[entries.row[class_of[entries.row] != class_of[entries.col]]]] = False
    transient = np.flatnonzero(~is_closed[class_of])
    arriving = np.full(num_nodes, 1 / num_nodes)
    if len(transient):  # what begins there ends in the closed classes
        visits = _solve(positive[transient][:, transient], arriving[transient])
        arriving += visits @ positive[transient]
    mass = np.zeros(num_nodes)
    for number in np.flatnonzero(is_closed):
        members = np.flatnonzero(class_of == number)
        mass[members] = arriving[members].sum() * _perron(positive[members][:, members])
    return mass


def _perron(matrix: sparse.csr_array) -> np.ndarray:
    """Return the left Perron vector of an irreducible W, which sums to 1."""
    # The entry of one node is set to 1, and the others follow from it: its row and column need no equation.
    heard = np.asarray(matrix.sum(axis=0)).argmax()
    others = np.delete(np.arange(matrix.shape[0]), heard)
    vector = np.ones(matrix.shape[0])
    if len(others):
        vector[others] = _solve(matrix[others][:, others], matrix[[heard]][:, others].toarray()[0])
    return np.asarray(vector / vector.sum())


def _solve(matrix: sparse.csr_array, right: np.ndarray) -> np.ndarray:
    """Return x of x = x·W + right, for rows of W of which some sum to less than 1."""
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    system = sparse.eye_array(matrix.shape[0], format="csc") - matrix.T.tocsc()
    return np.asarray(spsolve(system, right)).reshape(-1)


def arrival(accuracy: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Return the round, from 1, from which on each node's accuracy stays at a threshold or above.

    Unlike ``rounds_until``, it is not misled by models that answer with the trigger's label before they know anything.

    Parameters
    ----------
    accuracy : float array, shape (num_rounds, num_nodes)

    Returns
    -------
    float64, shape (num_nodes,): NaN for a node that is below it in the last round.

    >>> arrival(np.array([[0.9, 0.1], [0.2, 0.1], [0.8, 0.2]]))
    array([ 3., nan])
    """
    has = np.asarray(accuracy) >= threshold
    if len(has) == 0:
        return np.full(has.shape[1:], np.nan)
    since = np.where(has.all(axis=0), 0, len(has) - has[::-1].argmin(axis=0))
    return np.where(has[-1], since + 1.0, np.nan)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's rank correlation of two figures over the nodes that have both; NaN where one is constant."""
    from scipy.stats import spearmanr

    known = np.isfinite(first) & np.isfinite(second)
    first, second = _without_rounding(first[known]), _without_rounding(second[known])
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)


def _without_rounding(values: np.ndarray) -> np.ndarray:
    """Return values in shares of the largest one, to 12 digits: those equal but for their rounding become equal."""
    largest = np.abs(values).max(initial=0.0)
    return np.asarray((values / largest).round(12) if largest else values)
