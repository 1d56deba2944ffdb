"""The engine: whether a rank's nodes train one after the other, or as stacks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from mpisim.learning.parameters import row_stride
from mpisim.learning.perceptron import is_perceptron

FLOAT_BYTES = 4
# What the rows of a stack may take on a CPU: they and what is computed from them should stay near a core. With a second
# level of cache of 1 MiB, stacks of about 2 MiB were the fastest or nearly so, for perceptrons of 17,000 to 200,000
# parameters.
CACHES = 2
USUAL_CACHE_BYTES = 2**20  # where the system does not tell
# On a GPU, small models leave most of it idle; rows, gradients and activations of a stack must fit beside X.
GPU_BYTES = 2**30
LARGEST_STACK = 64


@cache
def core_cache_bytes(description: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Return the size of a core's cache of the second level, as Linux describes it."""
    for place in description.glob("index*"):
        try:
            level, size = ((place / name).read_text(encoding="ascii").strip() for name in ("level", "size"))
        except (OSError, ValueError):
            continue
        if level == "2" and re.fullmatch(r"[1-9][0-9]{0,7}K", size):
            return int(size[:-1]) * 1024
    return USUAL_CACHE_BYTES


@dataclass(frozen=True)
class Engine:
    """How nodes train.

    Attributes
    ----------
    batched : bool
        Whether as stacks; if not, one after the other by autograd.
    stack : int
        The nodes in a stack, at the most.
    """

    batched: bool
    stack: int

    def __str__(self) -> str:
        """Return the engine as the plan names it."""
        if not self.batched:
            return "sequential: node after node"
        return f"batched: {self.stack} nodes at a time" if self.stack > 1 else "batched: one node at a time"


def choose_engine(wanted: str, stack: int | None, module: nn.Module, num_columns: int, device: torch.device) -> Engine:
    """Return the engine for a model on a device.

    Parameters
    ----------
    wanted : "auto", "sequential" or "batched"
    stack : int, optional
        The nodes in a stack, where the user chose; by default what the model's size and the device make fast.
    """
    on_cpu = device.type == "cpu"
    if wanted == "auto":
        # On a CPU autograd's calls are dear to perceptrons alone: other models' layers keep a core busy.
        wanted = "batched" if not on_cpu or is_perceptron(module) else "sequential"
    if wanted == "sequential":
        return Engine(False, 1)
    row_bytes = row_stride(num_columns) * FLOAT_BYTES
    fitting = (CACHES * core_cache_bytes() if on_cpu else GPU_BYTES) // row_bytes
    return Engine(True, stack or min(LARGEST_STACK, max(1, fitting)))
