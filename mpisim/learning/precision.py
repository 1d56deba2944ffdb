"""Precision: what the factors of a model's products are rounded to. Parameters, sums and the loss stay float32.

``torch.autocast`` does it for one model. Within ``torch.func.vmap`` it sees what operations are made of rather than the
operations, and convolutions escape it: there, ``Rounded`` makes the same casts where functions are called. Attention
then takes rounded values, but is made of plain products, for which torch goes back to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# What autocast computes in the lower precision and what in float32, of the functions that models call.
_PRODUCTS = {
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.scaled_dot_product_attention,
    F.multi_head_attention_forward,
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.bmm,
    torch.mm,
    torch.addmm,
    torch.baddbmm,
}
_IN_FLOAT32 = {F.layer_norm, F.batch_norm, F.softmax, torch.softmax}


def autocast(precision: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a model computes with a precision. What is cast is forgotten at its end."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


def within_vmap(precision: torch.dtype) -> AbstractContextManager[object]:
    """Return the context in which a model computes with a precision within ``torch.func.vmap``."""
    return nullcontext() if precision == torch.float32 else Rounded(precision)


class Rounded(TorchFunctionMode):
    """Casts what goes into some functions, as autocast would."""

    def __init__(self, precision: torch.dtype):
        super().__init__()
        self.precision = precision

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS and func not in _IN_FLOAT32:
            return func(*args, **kwargs)
        dtype = self.precision if func in _PRODUCTS else torch.float32

        def cast(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

        return func(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})
