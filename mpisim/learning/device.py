"""The device a rank computes on."""

from __future__ import annotations

import torch

from mpisim.errors import InputError


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """Return this rank's device: ``auto`` takes an Intel GPU tile, then a CUDA GPU, then the CPU.

    Ranks of a host take its devices in turn, so several ranks may share one.

    Raises
    ------
    InputError
        If there is no device of the kind wanted.
    """
    available = {"xpu": torch.xpu.is_available(), "cuda": torch.cuda.is_available(), "cpu": True}
    kind = next(kind for kind in available if available[kind]) if wanted == "auto" else wanted
    if not available[kind]:
        has = ", ".join(kind for kind in available if available[kind])
        raise InputError(f"--device {wanted}: torch finds none here: choose from auto, {has}")
    if kind == "cpu":
        return torch.device("cpu")
    module = torch.xpu if kind == "xpu" else torch.cuda
    device = torch.device(kind, local_rank % module.device_count())
    module.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """Return what a person calls the device."""
    if device.type == "cpu":
        return "cpu"
    module = torch.xpu if device.type == "xpu" else torch.cuda
    return f"{device} ({module.get_device_name(device)})"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given, so that its memory can be sent and its time measured."""
    if device.type == "xpu":
        torch.xpu.synchronize(device)
    elif device.type == "cuda":
        torch.cuda.synchronize(device)
