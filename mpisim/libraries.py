"""Libraries that need a hand to be imported."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Any


def prepare_libraries(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what MPI and torch are to start with; to be called before either is imported, by whatever starts ranks."""
    import mpi4py

    mpi4py.rc.thread_level = thread_level(environment)
    keep_torch_from_compiling(environment)


def thread_level(environment: Mapping[str, str]) -> str:
    """Return which threads may call MPI: the first alone, but where oneCCL is told to go by MPI, its own do, too.

    >>> thread_level({}), thread_level({"CCL_ATL_TRANSPORT": "mpi"})
    ('funneled', 'multiple')
    """
    return "multiple" if environment.get("CCL_ATL_TRANSPORT") == "mpi" else "funneled"


def keep_torch_from_compiling(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let torch's operations be those it comes with.

    From 2.13 on, torch for CUDA makes products of a column and a row, as of a batch of one sample, by a kernel that it
    first has a C compiler build, and fails where there is none; and every batch of products goes through Python.
    """
    environment.setdefault("TORCH_DISABLE_NATIVE_JIT", "1")


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
