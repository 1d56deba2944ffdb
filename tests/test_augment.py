"""Augmentation moves and flips images as a loop over images would."""

import numpy as np
import pytest
import torch

from mpisim.data.augment import PADDING, crop_and_flip


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_a_window_of_its_padded_self(channels):
    images = torch.arange(20 * channels * 6 * 5, dtype=torch.float32).reshape(20, channels, 6, 5) + 1
    moved = crop_and_flip(images, -7.0, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    down, right = rng.integers(0, 2 * PADDING + 1, size=(2, 20))
    flipped = rng.random(20) < 0.5
    assert flipped.any() and not flipped.all()
    for image, result, y, x, flip in zip(images.numpy(), moved.numpy(), down, right, flipped, strict=True):
        canvas = np.full((channels, 6 + 2 * PADDING, 5 + 2 * PADDING), -7.0, dtype=np.float32)
        canvas[:, PADDING:-PADDING, PADDING:-PADDING] = image
        window = canvas[:, y : y + 6, x : x + 5]
        np.testing.assert_array_equal(result, window[:, :, ::-1] if flip else window)


def test_every_move_and_both_flips_happen():
    images = torch.zeros(5000, 1, 9, 9)
    images[:, 0, 4, 4] = 1.0  # one bright pixel in the middle, which no move takes out of the image
    places = crop_and_flip(images, 0.0, np.random.default_rng(0)).nonzero()[:, 2:].numpy()
    assert len(places) == 5000
    counts = np.histogram2d(*places.T, bins=(range(10), range(10)))[0]
    assert abs(counts - 5000 / 81).max() < 5 * (5000 / 81) ** 0.5
