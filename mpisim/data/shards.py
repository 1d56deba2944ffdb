"""Shards and test sets: packed on rank 0 into arrays to send, made into normalised tensors where they are used.

Images travel as uint8, a quarter of their size as floats. The out-of-distribution samples of a shard come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mpisim.data.datasets import Dataset, Labeled
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


def unpack(
    arrays: dict[str, np.ndarray],
    dataset: Dataset,
    change: OodChange,
    device: torch.device,
    rngs: Sequence[np.random.Generator],
) -> list[tuple[Samples, Samples]]:
    """Return the (clean, OOD) samples of each split, normalised, what is OOD made so; the two are neighboring views.

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
    parts = []
    end = 0
    for num_clean, num_ood, rng in zip(arrays["num_clean"], arrays["num_ood"], rngs, strict=True):
        start, middle, end = end, end + num_clean, end + num_clean + num_ood
        ood_labels = arrays["labels"][middle:end] if is_text else change.relabel(arrays["labels"][middle:end])
        clean = Samples(inputs[start:middle], torch.from_numpy(arrays["labels"][start:middle]).to(device))
        ood = Samples(inputs[middle:end], torch.from_numpy(ood_labels).to(device))
        if num_ood and is_text:
            stamp_text(ood.inputs)
        elif num_ood:
            OOD_KINDS[change.kind](ood.inputs, change, rng)
        parts.append((clean, ood))
    return parts


def joined(clean: Samples, ood: Samples) -> Samples:
    """Return a shard: the clean samples, then the OOD ones."""
    return Samples(torch.cat([clean.inputs, ood.inputs]), torch.cat([clean.labels, ood.labels]))
