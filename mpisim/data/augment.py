"""Augmentation, a batch at a time on the device: a random crop of the padded image, and a flip from left to right."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

PADDING = 4  # pixels on every side


def crop_and_flip(images: torch.Tensor, black: float, rng: np.random.Generator) -> torch.Tensor:
    """Return each image moved by up to PADDING pixels up, down, left or right, and flipped with probability 1/2.

    Parameters
    ----------
    images : float tensor, shape (num_samples, channels, height, width), normalised
    black : float
        What a pixel of 0 is after normalisation; it fills the border.
    rng : Generator
        Gives two offsets and a flip for each image.
    """
    num_samples, channels, height, width = images.shape
    down, right = rng.integers(0, 2 * PADDING + 1, size=(2, num_samples))
    flipped = rng.random(num_samples) < 0.5
    rows = down[:, np.newaxis] + np.arange(height)
    columns = right[:, np.newaxis] + np.arange(width)
    columns[flipped] = columns[flipped, ::-1]
    padded = F.pad(images, (PADDING,) * 4, value=black)
    # At once: a device is waited for while what is drawn gets there.
    at = torch.from_numpy(np.concatenate([rows, columns], axis=1)).to(images.device)
    return padded[
        torch.arange(num_samples, device=images.device)[:, None, None, None],
        torch.arange(channels, device=images.device)[None, :, None, None],
        at[:, None, :height, None],
        at[:, None, None, height:],
    ]
