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
