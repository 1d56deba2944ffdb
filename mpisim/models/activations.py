"""How large a model's activations are: it decides how many samples to test at a time, and how much memory they take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


@torch.no_grad()
def activation_sizes(module: nn.Module, input_shape: Sequence[int], device: torch.device) -> list[int]:
    """Return how many scalars each layer puts out for one sample, in the order of the computation.

    Parameters
    ----------
    input_shape : (channels, height, width) of images, (context,) of texts
    """
    sizes: list[int] = []

    def note(layer: nn.Module, inputs: object, output: object) -> None:  # noqa: ARG001
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel())

    layers = [layer for layer in module.modules() if not any(True for _ in layer.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    training = module.training
    try:
        kind = torch.int64 if len(input_shape) == 1 else torch.float32
        module.eval()(torch.zeros((1, *input_shape), dtype=kind, device=device))
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return sizes
