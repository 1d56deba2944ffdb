"""The device a rank computes on: which one, whose else it is, what is free of its memory, and how it is waited for.

All comes from torch itself. Where torch is older than 2.8 and sees no Intel GPU by itself, Intel's extension for
PyTorch is imported to make it see one; newer ones need no extension. Its ``optimize`` is not used, since nothing of it
fits here. Of its six parts for GPUs (https://intel.github.io/intel-extension-for-pytorch/xpu/latest, "ipex.optimize
Frontend API"), the two that fold normalisation and the one that leaves dropout out are for inference with weights that
stay as they are. Another layout of convolutions' weights, and weights split into halves, give them memory of their own,
where a model must stay a view of a row of X. And the fused step is for optimizers as objects, one for each model; here
one function of torch's makes the step of whichever row is bound, with state that is in rows, too.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mpisim.errors import InputError

EXTENSION = "intel_extension_for_pytorch"
NATIVE_XPU = (2, 8)  # the first torch of which every build for Intel GPUs does without the extension
# What decides which of a host's devices a rank sees, and in what order.
MASKS = {"xpu": ("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR"), "cuda": ("CUDA_VISIBLE_DEVICES",)}


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """Return this rank's device: ``auto`` takes an Intel GPU tile, then a CUDA GPU, then the CPU.

    Ranks of a host take the devices that they see in turn, so several ranks may share one. Where each rank sees but
    its own, by a mask or a launcher's doing, each takes that.

    Raises
    ------
    InputError
        If there is no device of the kind wanted.
    """
    kinds = ("xpu", "cuda", "cpu")
    if wanted in ("auto", "xpu"):
        _extend(torch.__version__)
    kind = next(filter(_is_available, kinds)) if wanted == "auto" else wanted
    if not _is_available(kind):
        has = ", ".join(filter(_is_available, kinds))
        raise InputError(f"--device {wanted}: torch finds none here: choose from auto, {has}")
    if kind == "cpu":
        return torch.device("cpu")
    device = torch.device(kind, local_rank % _module(kind).device_count())
    select(device)
    if kind == "cuda":
        # float32 is float32: torch would round what goes into convolutions and, where the environment asks for it, into
        # products; and it would add products of bfloat16 up in parts that are bfloat16, too.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return device


def select(device: torch.device) -> None:
    """Make a device the one that this thread computes on; each thread begins with the first."""
    if device.type in ("xpu", "cuda"):
        _module(device.type).set_device(device)


def _module(kind: str) -> Any:
    """Return torch.xpu or torch.cuda; None where torch has no such module."""
    return getattr(torch, kind, None)


def _is_available(kind: str) -> bool:
    """Return whether torch sees a device of a kind. A mask may leave none of those that the driver has."""
    if kind == "cpu":
        return True
    module = _module(kind)
    return module is not None and module.is_available() and module.device_count() > 0


def _extend(torch_version: str) -> None:
    """Import Intel's extension where torch needs it to see Intel GPUs, and it is there and made for this torch.

    Each version of it works with one minor version of torch; with another, it prints an error and raises what it can.
    """
    if _is_available("xpu") or _minor(torch_version) >= NATIVE_XPU:
        return
    try:
        if _minor(importlib.metadata.version(EXTENSION)) == _minor(torch_version):
            importlib.import_module(EXTENSION)
    except (ImportError, OSError):  # not there, or not its libraries: then there are no Intel GPUs to be seen
        return


def _minor(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def device_name(device: torch.device) -> str:
    """Return what a person calls the device."""
    if device.type == "cpu":
        return "cpu"
    return f"{device} ({_module(device.type).get_device_name(device)})"


def device_identity(device: torch.device, environment: Mapping[str, str] = os.environ) -> str:
    """Return what two ranks of a host have in common if, and only if, they compute on the same device.

    The index does not tell: with a mask for each rank, each has device 0. The device's own number does, and the masks'
    entries, which set the tiles of a GPU apart should they have one number.
    """
    if device.type == "cpu":
        return "cpu"
    module, index = _module(device.type), int(device.index)
    seen = []
    for mask in filter(None, (environment.get(variable, "") for variable in MASKS[device.type])):
        entries = [one.strip() for one in mask.rpartition(":")[2].split(",")]
        exact = len(entries) == module.device_count()  # else a part of the host's tree: what it means is torch's
        seen.append(entries[index] if exact else f"{index} of {mask}")
    uuid = getattr(module.get_device_properties(device), "uuid", "")
    return f"{device.type} {uuid} {' and '.join(seen) or index}"


def free_memory(device: torch.device) -> int:
    """Return the bytes of a device's memory that nobody has yet; all of it, where the driver does not tell."""
    module = _module(device.type)
    try:
        return int(module.mem_get_info(device)[0])
    except (AttributeError, RuntimeError):  # torch.xpu before 2.6; a driver that does not count
        return int(module.get_device_properties(device).total_memory)


def compute_deterministically() -> None:
    """Let torch take only operations that give the same bits each time, in this process, from now on.

    An operation that has no such form raises a RuntimeError that names it. To be called before a device is used.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's matrix library starts
    # The same as torch.use_deterministic_algorithms, which imports a compiler to tell it too.
    torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.mkldnn.deterministic = True  # type: ignore[assignment]  # oneDNN, on Intel GPUs
    # cuDNN's attention has no such form; torch's other kinds of attention heed the mode.
    torch.backends.cuda.enable_cudnn_sdp(False)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given, so that its memory can be sent and its time measured."""
    if device.type in ("xpu", "cuda"):
        _module(device.type).synchronize(device)


def finish(device: torch.device, between: Callable[[], object]) -> None:
    """Wait until the device has done all that this thread has given it, and do something else in between.

    What comes from the device next is there at once, where a copy to the host would wait and do nothing.

    Parameters
    ----------
    between : function
        Called again and again: there messages on their way make progress.
    """
    if device.type not in ("xpu", "cuda"):
        return
    event = _module(device.type).Event()
    event.record(_module(device.type).current_stream(device))
    while not event.query():
        between()
        time.sleep(0)  # lets whoever shares this core, or waits for Python's lock, have it
