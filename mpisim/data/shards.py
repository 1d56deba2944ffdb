"""Shards and test sets: packed on rank 0 into arrays to send, made into normalised tensors where they are used.

Images travel as uint8, a quarter of their size as floats. The out-of-distribution samples of a shard come last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mpisim.data.datasets import Dataset, Images
from mpisim.data.ood import OOD_KINDS, OodSplit


@dataclass(frozen=True)
class Samples:
    """Samples ready for a model.

    Attributes
    ----------
    inputs : float32 tensor, shape (num_samples, channels, height, width), normalised, on the device
    labels : int64 tensor, shape (num_samples,), on the device
    """

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)


def pack(data: Images, splits: list[OodSplit]) -> dict[str, np.ndarray]:
    """Return the samples of some splits as arrays to send, split after split, the clean ones first in each."""
    samples = np.concatenate([part for split in splits for part in (split.clean, split.ood)])
    return {
        "images": data.images[samples],
        "labels": data.labels[samples],
        "num_clean": np.array([len(split.clean) for split in splits], dtype=np.int64),
        "num_ood": np.array([len(split.ood) for split in splits], dtype=np.int64),
    }


def unpack(
    arrays: dict[str, np.ndarray], dataset: Dataset, ood_kind: str, device: torch.device
) -> list[tuple[Samples, Samples]]:
    """Return the (clean, OOD) samples of each split, normalised, what is OOD made so; the two are neighboring views.

    Parameters
    ----------
    arrays : what ``pack`` returned
    ood_kind : a name in OOD_KINDS, or "none" where no split has OOD samples
    """
    inputs = torch.from_numpy(arrays["images"]).to(device).to(torch.float32) / dataset.scale
    labels = torch.from_numpy(arrays["labels"]).to(device, copy=True)
    parts = []
    end = 0
    for num_clean, num_ood in zip(arrays["num_clean"].tolist(), arrays["num_ood"].tolist(), strict=True):
        start, middle, end = end, end + num_clean, end + num_clean + num_ood
        clean = Samples(inputs[start:middle], labels[start:middle])
        ood = Samples(inputs[middle:end], labels[middle:end])
        if num_ood:
            OOD_KINDS[ood_kind](ood.inputs, ood.labels, dataset.trigger_size)
        parts.append((clean, ood))
    return parts


def joined(clean: Samples, ood: Samples) -> Samples:
    """Return a shard: the clean samples, then the OOD ones."""
    return Samples(torch.cat([clean.inputs, ood.inputs]), torch.cat([clean.labels, ood.labels]))
