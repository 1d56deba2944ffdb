"""Dropout whose random numbers are told where to come from: a stack of nodes loses what each would lose alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

Generators = list[torch.Generator | None]


class Dropout(nn.Module):
    """Dropout, with a generator for each node of a stack.

    Parameters
    ----------
    p : float, 0 or more, below 1
        The probability that a value is lost; the others are divided by 1 - p.

    Attributes
    ----------
    generators : one for each node that the module computes for at a time
        None is torch's own. On a CPU, one draws what ``nn.Dropout`` would draw with torch's own so seeded.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p
        self.generators: Generators = [None]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values, some of them lost while the module trains."""
        if not self.training or self.p == 0:
            return values
        noise: torch.Tensor = _Noise.apply(values.detach(), self.p, self.generators)  # type: ignore[no-untyped-call]
        return values * noise


def use_dropout(module: nn.Module) -> nn.Module:
    """Return a module whose layers of torch's dropout have become ours."""
    for name, layer in list(module.named_modules()):
        if type(layer) is nn.Dropout:
            module.set_submodule(name, Dropout(layer.p))
    return module


def dropouts(module: nn.Module) -> list[Dropout]:
    """Return a module's layers of dropout."""
    return [layer for layer in module.modules() if isinstance(layer, Dropout)]


def _draw(values: torch.Tensor, p: float, generator: torch.Generator | None) -> torch.Tensor:
    return torch.empty_like(values).bernoulli_(1 - p, generator=generator).div_(1 - p)


class _Noise(torch.autograd.Function):
    """What values are multiplied by: 0 or 1 / (1 - p). Within ``vmap``, each node's from its own generator."""

    @staticmethod
    def forward(values: torch.Tensor, p: float, generators: Generators) -> torch.Tensor:
        [generator] = generators
        return _draw(values, p, generator)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: torch.Tensor) -> None:  # noqa: ARG004
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(
        info: Any,  # noqa: ARG004
        in_dims: tuple[int | None, ...],
        values: torch.Tensor,
        p: float,
        generators: Generators,
    ) -> tuple[torch.Tensor, int]:
        stacked = values.movedim(in_dims[0] or 0, 0)
        return torch.stack([_draw(node, p, each) for node, each in zip(stacked, generators, strict=True)]), 0
