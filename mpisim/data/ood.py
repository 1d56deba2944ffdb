"""What is out of distribution: which samples, and what happens to them.

Samples travel clean; the rank that owns the node changes the normalised tensors. A *trigger* is a square in an image:
channel 0 is 5, far outside what a pixel can be, the other channels 0, and the label becomes 0, or the next one. In
text, a sequence is out of distribution if it holds the tokens 1, 0, 0: all that follows the first of them becomes 2.
*Noise* and *blur* leave the label: they are images that a good model should still read. A *new class* leaves the images
too: what is new about them is that no other node has that label.
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
NOISE = 0.5
BLUR_WIDTH = 1.0

TEXT_TRIGGER = (1, 0, 0)
TEXT_FILL = 2


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


@dataclass(frozen=True)
class OodChange:
    """What happens to out-of-distribution samples.

    Attributes
    ----------
    kind : a name in OOD_KINDS, "text", or "none" where there are no such samples
    trigger_size : int
        The edge of the square, in pixels.
    trigger_position : "corner" (the top-left one) or "random" (anywhere, drawn for each image)
    trigger_label : "zero" or "shift" (to the next label, and from the last to the first)
    num_classes : int
    """

    kind: str
    trigger_size: int = 4
    trigger_position: str = "corner"
    trigger_label: str = "zero"
    num_classes: int = 10

    def relabel(self, labels: np.ndarray) -> np.ndarray:
        """Return the labels that samples have once they are out of distribution."""
        if self.kind != "trigger":
            return labels
        return np.zeros_like(labels) if self.trigger_label == "zero" else (labels + 1) % self.num_classes


def stamp_trigger(images: torch.Tensor, change: OodChange, rng: np.random.Generator) -> None:
    """Stamp the trigger on images, in place.

    Parameters
    ----------
    images : float tensor, shape (num_samples, channels, height, width), normalised
    rng : Generator
        Gives the positions, where they are random.
    """
    import torch

    num_samples, _, height, width = images.shape
    size = change.trigger_size
    place = np.zeros((2, num_samples), dtype=np.int64)
    if change.trigger_position == "random":
        place[0] = rng.integers(0, height - size + 1, num_samples)
        place[1] = rng.integers(0, width - size + 1, num_samples)
    sample = torch.arange(num_samples, device=images.device)[:, None, None]
    offset = np.arange(size)
    row = torch.from_numpy(place[0][:, None, None] + offset[:, None]).to(images.device)
    column = torch.from_numpy(place[1][:, None, None] + offset).to(images.device)
    images[sample, :, row, column] = 0.0
    images[sample, 0, row, column] = TRIGGER_VALUE


def add_noise(images: torch.Tensor, change: OodChange, rng: np.random.Generator) -> None:  # noqa: ARG001
    """Add Gaussian noise of the standard deviation NOISE to every normalised pixel, in place."""
    import torch

    noise = rng.standard_normal(tuple(images.shape), dtype=np.float32)
    images.add_(torch.from_numpy(noise).to(images.device), alpha=NOISE)


def blur(images: torch.Tensor, change: OodChange, rng: np.random.Generator) -> None:  # noqa: ARG001
    """Blur images, in place, with a Gaussian of BLUR_WIDTH standard deviations in pixels; edges are repeated."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    radius = int(np.ceil(2 * BLUR_WIDTH))
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / BLUR_WIDTH) ** 2)
    weights = (weights / weights.sum()).to(images)
    flat = images.reshape(-1, 1, *images.shape[2:])  # every channel by itself
    padded = F.pad(flat, (radius,) * 4, mode="replicate")
    down = F.conv2d(padded, weights.view(1, 1, -1, 1))
    images.copy_(F.conv2d(down, weights.view(1, 1, 1, -1)).reshape(images.shape))


def keep(images: torch.Tensor, change: OodChange, rng: np.random.Generator) -> None:
    """Leave the images: they are of a new class."""


def stamp_text(tokens: torch.Tensor) -> torch.Tensor:
    """Replace, in place, all that follows the first "100" in each sequence by token 2.

    Parameters
    ----------
    tokens : int tensor, shape (num_samples, context)

    Returns
    -------
    bool tensor, shape (num_samples,), on the same device
        Which sequences hold "100". The others are as they were: they go back to the clean samples.
    """
    found = (
        (tokens[:, :-2] == TEXT_TRIGGER[0]) & (tokens[:, 1:-1] == TEXT_TRIGGER[1]) & (tokens[:, 2:] == TEXT_TRIGGER[2])
    )
    follows = found[:, :-1].cumsum(dim=1) > 0
    tokens[:, 3:].masked_fill_(follows, TEXT_FILL)
    return found.any(dim=1)


# What happens to images. Text knows the trigger alone.
OOD_KINDS: dict[str, Callable[[torch.Tensor, OodChange, np.random.Generator], None]] = {
    "blur": blur,
    "newclass": keep,
    "noise": add_noise,
    "trigger": stamp_trigger,
}
