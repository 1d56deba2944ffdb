"""Measures: from what a log holds to what a study reports."""

from __future__ import annotations

import numpy as np

from mpisim.errors import InputError

AWARE = ("degree", "betweenness")  # strategies of the paper that look at the topology
UNAWARE = ("unweighted", "weighted", "random")
NUM_RESAMPLES = 10_000


def accuracy_auc(accuracy: np.ndarray) -> np.ndarray:
    """Return the accuracy AUC: the mean over rounds, by the trapezoid rule, so that 1 is perfect from the start.

    Parameters
    ----------
    accuracy : float array, shape (num_rounds, ...)

    Returns
    -------
    float64, shape (...): of one round, that round's accuracy; NaN where there is no round.

    References
    ----------
    arXiv 2505.11760, where the area is not divided by its length.

    >>> float(accuracy_auc(np.array([0.0, 0.5, 1.0])))
    0.5
    """
    values = np.asarray(accuracy, dtype=np.float64)
    if len(values) == 0:
        return np.full(values.shape[1:], np.nan)
    if len(values) == 1:
        return np.asarray(values[0])
    return np.asarray((values[:-1] + values[1:]).sum(axis=0) / (2 * (len(values) - 1)))


def perplexity(loss: np.ndarray) -> np.ndarray:
    """Return the perplexity of a model of text: of how many tokens, all as likely, it chooses the next one.

    Parameters
    ----------
    loss : float array
        Mean cross-entropy of the next token, in nats.

    References
    ----------
    Jelinek et al., "Perplexity - a measure of the difficulty of speech recognition tasks", 1977: exp of the loss.

    >>> float(perplexity(np.log(8.0)).round(12))
    8.0
    """
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(np.asarray(loss, dtype=np.float64)))


def relative_difference(iid_auc: np.ndarray | float, ood_auc: np.ndarray | float) -> np.ndarray:
    """Return how far OOD knowledge is behind IID knowledge, in percent of their mean: 0 where both are equal.

    Parameters
    ----------
    iid_auc, ood_auc : float arrays of shapes that fit together

    Returns
    -------
    float64, from -200 (no OOD knowledge) to 200; NaN where both are 0 or one is NaN.

    References
    ----------
    arXiv 2505.11760, the figure of relative differences: 200 · (OOD − IID) / (OOD + IID), inferred from its range.

    >>> float(relative_difference(0.75, 0.25))
    -100.0
    """
    iid, ood = np.asarray(iid_auc, dtype=np.float64), np.asarray(ood_auc, dtype=np.float64)
    total = iid + ood
    return np.asarray((ood - iid) / np.where(total == 0, np.nan, total) * 200)


def improvement(aware: np.ndarray, unaware: np.ndarray) -> float:
    """Return by what share topology-aware strategies are better than unaware ones: 1.23 is the paper's +123 %.

    Parameters
    ----------
    aware, unaware : float arrays, shape (num_cells,)
        In each cell (one data set on one topology with one OOD node), the mean OOD accuracy AUC of the strategies in
        AWARE, and of those in UNAWARE.

    Returns
    -------
    float
        The mean over cells of aware / unaware - 1. Cells without both (NaN), or with nothing to divide by, are left
        out; NaN if none is left.

    References
    ----------
    arXiv 2505.11760, whose headline this formula gives to 2 percent points.

    >>> improvement(np.array([0.75, 0.5]), np.array([0.25, 0.5]))
    1.0
    """
    ratios = improvements(aware, unaware)
    return float(ratios.mean()) if len(ratios) else float("nan")


def improvements(aware: np.ndarray, unaware: np.ndarray) -> np.ndarray:
    """Return what ``improvement`` is the mean of: the figure of each cell that has both, shape (num_ratios,)."""
    above, below = np.asarray(aware, dtype=np.float64), np.asarray(unaware, dtype=np.float64)
    whole = np.isfinite(above) & (below > 0)
    return np.asarray(above[whole] / below[whole] - 1)


def rounds_until(accuracy: np.ndarray, threshold: float) -> np.ndarray:
    """Return the first round, from 1, in which each node's accuracy reaches a threshold.

    Parameters
    ----------
    accuracy : float array, shape (num_rounds, num_nodes)

    Returns
    -------
    float64, shape (num_nodes,): NaN for a node that never does.

    >>> rounds_until(np.array([[0.2, 0.1], [0.9, 0.3]]), 0.5)
    array([ 2., nan])
    """
    reached = np.asarray(accuracy) >= threshold
    if len(reached) == 0:
        return np.full(reached.shape[1:], np.nan)
    return np.where(reached.any(axis=0), reached.argmax(axis=0) + 1.0, np.nan)


def bootstrap_interval(values: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return the interval that holds the mean of resampled values with a probability: how sure their mean is.

    Parameters
    ----------
    values : float array, shape (num_values,)
        NaN are left out.
    level : float, above 0, below 1
    seed : int
        Of the NUM_RESAMPLES resamples that are drawn.

    Returns
    -------
    low, high : float
        NaN for fewer than two values, which tell nothing of their spread.

    Raises
    ------
    InputError
        If the level is out of range.

    References
    ----------
    Efron, "Bootstrap methods: another look at the jackknife", 1979: the percentile interval.
    """
    if not 0 < level < 1:
        raise InputError(f"the level of an interval is {level}: must be above 0 and below 1")
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    # In batches: all resamples of thousands of values would not fit in memory.
    means = [rng.choice(known, (100, len(known))).mean(axis=1) for _ in range(NUM_RESAMPLES // 100)]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
