"""Measures: from what a log holds to what a study reports."""

from __future__ import annotations

import numpy as np


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
