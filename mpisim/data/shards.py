"""Shards and test sets: packed on rank 0 into arrays to send, made into normalised tensors where they are used.

Images travel as uint8, a quarter of their size as floats. The out-of-distribution samples of a shard come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mpisim.data.datasets import Dataset
from mpisim.data.labeled import Labeled
from mpisim.data.ood import OOD_KINDS, OodChange, OodSplit, stamp_text


@dataclass(frozen=True)
class Samples:
    """Samples ready for a model.

    Attributes
    ----------
    inputs : float32 tensor, shape (num_samples, channels, height, width), normalised, on the device; tokens of text:
        int64, shape (num_samples, context)
    labels : int64 tensor, shape (num_samples,), on the device
    """

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def take(self, which: slice | torch.Tensor) -> Samples:
        """Return some of the samples: a view where a slice selects them."""
        return Samples(self.inputs[which], self.labels[which])


def pack(data: Labeled, splits: list[OodSplit]) -> dict[str, np.ndarray]:
    """Return the samples of some splits as arrays to send, split after split, the clean ones first in each."""
    samples = np.concatenate([part for split in splits for part in (split.clean, split.ood)])
    return {
        "inputs": data.inputs[samples],
        "labels": data.labels[samples],
        "num_clean": np.array([len(split.clean) for split in splits], dtype=np.int64),
        "num_ood": np.array([len(split.ood) for split in splits], dtype=np.int64),
    }


@dataclass(frozen=True)
class Splits:
    """The samples of some splits in one matrix, split after split, in each the clean ones first.

    Attributes
    ----------
    samples : all of them
    starts, middles, ends : int64, shape (num_splits,)
        Where each split begins, where its out-of-distribution samples begin, and where it ends.
    """

    samples: Samples
    starts: np.ndarray
    middles: np.ndarray
    ends: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """The number of samples of each split."""
        return np.asarray(self.ends - self.starts)

    def of(self, split: int) -> Samples:
        """Return the samples of a split: a view."""
        return self.samples.take(slice(self.starts[split], self.ends[split]))

    def clean(self, split: int) -> Samples:
        """Return the clean samples of a split: a view."""
        return self.samples.take(slice(self.starts[split], self.middles[split]))

    def ood(self, split: int) -> Samples:
        """Return the out-of-distribution samples of a split: a view."""
        return self.samples.take(slice(self.middles[split], self.ends[split]))


def unpack(
    arrays: dict[str, np.ndarray],
    dataset: Dataset,
    change: OodChange,
    device: torch.device,
    rngs: Sequence[np.random.Generator],
) -> Splits:
    """Return the samples of splits, normalised, what is OOD made so.

    Parameters
    ----------
    arrays : what ``pack`` returned
    change : what happens to the OOD samples
    rngs : a generator for each split, for what the change draws
    """
    is_text = dataset.kind == "text"
    inputs = torch.from_numpy(arrays["inputs"]).to(device).to(torch.int64 if is_text else torch.float32, copy=True)
    if not is_text:
        inputs.div_(dataset.scale).sub_(dataset.offset)
    ends = np.cumsum(arrays["num_clean"] + arrays["num_ood"])
    middles = ends - arrays["num_ood"]
    labels = arrays["labels"].copy()
    for middle, end, rng in zip(middles, ends, rngs, strict=True):
        if middle == end:
            continue
        if is_text:
            stamp_text(inputs[middle:end])
        else:
            labels[middle:end] = change.relabel(labels[middle:end])
            OOD_KINDS[change.kind](inputs[middle:end], change, rng)
    return Splits(Samples(inputs, torch.from_numpy(labels).to(device)), middles - arrays["num_clean"], middles, ends)
