"""Models for images: from a batch of shape (samples, channels, height, width) to logits of shape (samples, classes)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import nn


def mlp(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return the study's perceptron, d-4d-d-d/4-classes: 784-3136-784-196-10 for MNIST, 5,076,998 parameters."""
    num_inputs = image_shape[0] * image_shape[1] * image_shape[2]
    return _perceptron([num_inputs, 4 * num_inputs, num_inputs, num_inputs // 4, num_classes])


def mlp_small(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return a small perceptron, d-2d-d-classes: 64-128-64-10 for the digits, 17,226 parameters."""
    num_inputs = image_shape[0] * image_shape[1] * image_shape[2]
    return _perceptron([num_inputs, 2 * num_inputs, num_inputs, num_classes])


def _perceptron(widths: list[int]) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


MODELS: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {"mlp": mlp, "mlp-small": mlp_small}
