"""The local split: each node keeps some of its own samples apart, to test (and to validate) on what it has itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpisim.errors import InputError
from mpisim.streams import Purpose, stream


@dataclass(frozen=True)
class LocalSplit:
    """One node's samples in three parts, each ascending."""

    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray


def split_locally(labels: np.ndarray, samples: np.ndarray, shares: Sequence[float], seed: int, node: int) -> LocalSplit:
    """Return a node's samples split into training, test and validation parts, with the labels of each in proportion.

    A label of which the node has three samples or more is in every part; one of which it has fewer fills the training
    part first, then the test part.

    Parameters
    ----------
    labels : int array
        Of the whole data set.
    samples : int array
        The node's, as positions in the data set.
    shares : three floats
        Of training, test and validation; above 0, with the sum 1.

    Raises
    ------
    InputError
        If the node has fewer than three samples, or none for some part.
    """
    rng = stream(seed, Purpose.LOCAL_SPLIT, node=node)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in np.unique(labels[samples]):
        of_label = rng.permutation(samples[labels[samples] == label])
        bounds = np.cumsum(_part_sizes(len(of_label), shares))[:-1]
        for part, piece in zip(parts, np.split(of_label, bounds), strict=True):
            part.append(piece)
    train, test, validation = (np.sort(np.concatenate(part)) for part in parts)
    if not (len(train) and len(test) and len(validation)):
        raise InputError(
            f"--local-split: node {node} has {len(samples)} samples, too few for a training, a test and a validation"
            " part: use more samples or fewer nodes"
        )
    return LocalSplit(train, test, validation)


def _part_sizes(count: int, shares: Sequence[float]) -> np.ndarray:
    """Return how many of some samples go to each part: near the shares, at least one where there are enough."""
    if count < 3:
        return np.array([1, 1, 0][:count] + [0] * (3 - count))
    sizes: np.ndarray = np.maximum(1, np.floor(np.array(shares) * count).astype(np.int64))
    owed = np.array(shares) * count - sizes
    while sizes.sum() < count:
        most = int(np.argmax(owed))
        sizes[most] += 1
        owed[most] -= 1
    while sizes.sum() > count:
        sizes[int(np.argmax(sizes))] -= 1
    return sizes
