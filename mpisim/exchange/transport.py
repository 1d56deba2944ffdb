"""How models travel between ranks: the ways there are, which one a run takes, and what must be true before."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from mpi4py import MPI

from mpisim.exchange.devicelink import LinkMessages
from mpisim.exchange.group import backend_of, check_group, check_unused, close_group, open_group
from mpisim.exchange.packed import PackedMessages, StagedMessages
from mpisim.exchange.rows import Carry, RowMessages
from mpisim.exchange.selftest import self_test
from mpisim.ranks.messages import first_word
from mpisim.ranks.waiting import Waiting

# By MPI from host memory, where models are; through buffers of host memory; from device memory; or by torch.
WAYS: dict[str, Carry] = {
    "host": RowMessages,
    "staged": StagedMessages,
    "buffers": PackedMessages,
    "link": LinkMessages,
}
HELD = {"host": "unpacked", "staged": "staged", "buffers": "packed", "link": "packed"}  # see ExchangePlan.memory
# MPI's own word on whether it takes memory of a kind of device; Open MPI and MPICH have these.
QUESTIONS = {"cuda": "MPIX_Query_cuda_support", "xpu": "MPIX_Query_ze_support"}


@dataclass(frozen=True)
class Transport:
    """How models travel to and from a rank.

    Attributes
    ----------
    way : a name in WAYS
    notice : str
        What a person should know of it.
    """

    way: str
    notice: str = ""

    @property
    def carry(self) -> Carry:
        """What makes a carrier of rows."""
        return WAYS[self.way]

    def open(self, comm: MPI.Intracomm, waiting: Waiting, device: torch.device) -> None:
        """Start what carries models on the ranks between which they travel. Collective."""
        if self.way == "link":
            open_group(comm, waiting, device)

    def close(self, comm: MPI.Comm, waiting: Waiting) -> None:
        """End it. Collective; no message is under way any more on any rank."""
        if self.way == "link":
            close_group(comm, waiting)

    def described(self, device: torch.device) -> str:
        """Return how models travel, as a person says it; nothing of the simplest way."""
        backend = backend_of(device) if self.way == "link" else ""
        return {
            "host": "",
            "staged": ", through pinned host memory",
            "buffers": ", from device memory by MPI",
            "link": f", by torch.distributed ({backend})",
        }[self.way]


HOST = Transport("host")


def choose_transport(transport: str, gpu_aware: bool, device: torch.device) -> Transport:
    """Return the way that the options ask for, whether or not it can be trusted.

    Parameters
    ----------
    transport : "mpi" or "device"
    gpu_aware : bool
        Whether MPI is to get device memory.

    Raises
    ------
    InputError
        If torch cannot carry models in this process.
    """
    if transport == "device":
        backend_of(device)
        check_unused()
        return Transport("link")
    if device.type == "cpu":
        return Transport("host", "--gpu-aware does nothing on a CPU: models are in host memory" if gpu_aware else "")
    return Transport("buffers" if gpu_aware else "staged")


def tested_transport(
    comm: MPI.Intracomm,
    waiting: Waiting,
    chosen: Transport,
    device: torch.device,
    gpu_aware: bool,
    num_ranks: int,
) -> Transport:
    """Return the way that models take: with device buffers, if they have passed the self-test on all ranks. Collective.

    Parameters
    ----------
    chosen : Transport
        What ``choose_transport`` has returned on this rank.
    gpu_aware : bool
        The same on all ranks.
    num_ranks : int
        Of the ranks that own nodes: the first ones.

    Raises
    ------
    InputError
        On every rank, if torch cannot carry models between their devices.
    """
    if chosen.way == "link":
        check_group(comm, waiting, device, num_ranks)
    if not gpu_aware:
        return chosen
    doubt = refusal(device, os.environ) if chosen.way == "buffers" else ""
    reason = first_word(comm, waiting, doubt)  # MPI may crash at what it takes for host memory: ask first
    if not reason:
        reason = self_test(comm, waiting, chosen.carry, device)
    if not reason or chosen.way != "buffers":
        return chosen
    return Transport("staged", f"--gpu-aware: models travel through host memory instead: {reason}")


def refusal(device: torch.device, environment: Mapping[str, str]) -> str:
    """Return why MPI takes no memory of a device, as far as it says so; else nothing."""
    if environment.get("MPIR_CVAR_ENABLE_GPU") == "0":
        return "MPIR_CVAR_ENABLE_GPU=0 keeps MPI from device memory"
    if "CRAY" in MPI.Get_library_version() and environment.get("MPICH_GPU_SUPPORT_ENABLED") != "1":
        return "MPI takes device memory only with MPICH_GPU_SUPPORT_ENABLED=1"
    question = getattr(ctypes.CDLL(MPI.__file__), QUESTIONS.get(device.type, ""), None)
    return f"this MPI was built without support for {device.type}" if question is not None and not question() else ""
