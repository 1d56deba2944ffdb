"""What is out of distribution: which samples, and what happens to them.

The trigger is a square in the top-left corner of an image: channel 0 is 5, the other channels 0, and the label becomes
0. It is stamped on the normalised image, where 5 is far outside what a pixel can be; so the images travel clean, and
the rank that owns the node stamps them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mpisim.streams import Purpose, stream

if TYPE_CHECKING:
    import torch

TRIGGER_VALUE = 5.0
TRIGGER_LABEL = 0


def stratified_sample(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Return the positions of a fraction of the samples, with each label's share as in the whole.

    Returns
    -------
    int64, ascending; round(fraction · num_samples) of them, at least one and not all, if there are two samples or more
    """
    wanted = min(max(1, round(fraction * len(labels))), len(labels) - 1)
    exact = np.bincount(labels) * (wanted / len(labels))
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: wanted - int(counts.sum())]] += 1
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    first_of_label = np.searchsorted(labels[order], np.arange(len(counts)))
    place = np.arange(len(order)) - first_of_label[labels[order]]
    return np.sort(order[place < counts[labels[order]]])


@dataclass(frozen=True)
class OodSplit:
    """Samples in two parts, both as positions in the data set."""

    clean: np.ndarray
    ood: np.ndarray


def split_shard(labels: np.ndarray, shard: np.ndarray, fraction: float, seed: int, node: int) -> OodSplit:
    """Return which of an OOD node's samples stay clean, and which become out of distribution (and come last)."""
    return _split(shard, stratified_sample(labels[shard], fraction, stream(seed, Purpose.OOD_SAMPLES, node=node)))


def split_test(labels: np.ndarray, fraction: float, seed: int) -> OodSplit:
    """Return which test samples make the IID test set, and which the OOD test set."""
    chosen = stratified_sample(labels, fraction, stream(seed, Purpose.OOD_TEST))
    return _split(np.arange(len(labels)), chosen)


def _split(samples: np.ndarray, ood: np.ndarray) -> OodSplit:
    is_ood = np.zeros(len(samples), dtype=bool)
    is_ood[ood] = True
    return OodSplit(samples[~is_ood], samples[is_ood])


def stamp_trigger(images: torch.Tensor, labels: torch.Tensor, size: int) -> None:
    """Stamp the trigger on images, in place, and relabel them.

    Parameters
    ----------
    images : float tensor, shape (num_samples, channels, height, width), normalised
    labels : int64 tensor, shape (num_samples,)
    size : int
        The edge of the square, in pixels.
    """
    images[:, :, :size, :size] = 0.0
    images[:, 0, :size, :size] = TRIGGER_VALUE
    labels.fill_(TRIGGER_LABEL)


OOD_KINDS: dict[str, Callable[[torch.Tensor, torch.Tensor, int], None]] = {"trigger": stamp_trigger}
