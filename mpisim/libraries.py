"""Libraries that need a hand to be imported."""

from __future__ import annotations

import os
from typing import Any


def keep_torch_from_compiling() -> None:
    """Let torch's operations be those it comes with; to be called before torch is imported, by whatever starts ranks.

    From 2.13 on, torch for CUDA makes products of a column and a row, as of a batch of one sample, by a kernel that it
    first has a C compiler build, and fails where there is none; and every batch of products goes through Python.
    """
    os.environ.setdefault("TORCH_DISABLE_NATIVE_JIT", "1")


def import_torchvision() -> Any:
    """Return torchvision, also where its build does not fit torch's.

    A torchvision made for CUDA beside a CPU-only torch fails at import, because it registers shapes for two operators
    that its missing library would have declared. Declared first, it imports; data sets and models need neither.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        # The declarations last as long as the object: torchvision keeps it.
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision._declared_operators = library
    return torchvision
