"""Devices that ranks share, and whether what the ranks will need fits into the memory of each."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from mpisim.errors import InputError
from mpisim.exchange.transport import HOST, Transport
from mpisim.experiment import Experiment
from mpisim.learning.device import device_identity, device_name, free_memory
from mpisim.learning.engine import choose_engine
from mpisim.memory import models_memory, predicted_memory, staging_memory
from mpisim.ranks.waiting import named_ranks
from mpisim.units import plain_bytes

Places = Sequence[dict[str, str | int]]  # the host, threads and device of each rank, and what ``described`` adds


def described(device: torch.device) -> dict[str, str | int]:
    """Return what others must know of a rank's device: its name, which one it is, and the bytes that are free on it."""
    free = 0 if device.type == "cpu" else free_memory(device)
    return {"device": device_name(device), "identity": device_identity(device), "free": free}


def sharing_ranks(places: Places) -> list[list[int]]:
    """Return the ranks on each device, ascending; those on CPUs are left out."""
    of_device: dict[tuple[str | int, ...], list[int]] = {}
    for rank, place in enumerate(places):
        if place["device"] != "cpu":
            of_device.setdefault((place["host"], place["identity"]), []).append(rank)
    return list(of_device.values())


def named_devices(places: Places) -> str:
    """Return the devices as the plan names them, and which of them several ranks share."""
    indices: dict[tuple[str, str], set[int]] = {}
    names = set()
    for place in places:
        found = re.fullmatch(r"(\w+):(\d+)( .*)?", str(place["device"]))
        if found:
            indices.setdefault((found[1], found[3] or ""), set()).add(int(found[2]))
        else:
            names.add(str(place["device"]))
    for (kind, name), numbers in indices.items():
        low, high = min(numbers), max(numbers)
        whole = len(numbers) > 1 and len(numbers) == high - low + 1
        listed = f"{low}–{high}" if whole else ", ".join(map(str, sorted(numbers)))
        names.add(f"{kind}:{listed}{name}")
    crowded = [ranks for ranks in sharing_ranks(places) if len(ranks) > 1]
    if not crowded:
        return ", ".join(sorted(names))
    counts = sorted({len(ranks) for ranks in crowded})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    which = _short(places, crowded[0]) if len(crowded) == 1 else f"each of {len(crowded)} devices"
    return f"{', '.join(sorted(names))}; {many} ranks share {which}"


def named_memory(experiment: Experiment, places: Places, device: torch.device, transport: Transport = HOST) -> str:
    """Return what the plan says of memory."""
    needed = predicted_memory(experiment, device)
    if device.type == "cpu":
        return f"up to {plain_bytes(needed)} a rank"
    groups = sharing_ranks(places[: experiment.num_ranks])
    tightest = min(groups, key=lambda ranks: _free(places, ranks) / len(ranks))
    free = _free(places, tightest)
    doubt = ", which may not suffice" if needed * len(tightest) > free else ""
    shared = f" for {len(tightest)} ranks" if len(tightest) > 1 else ""
    staging = staging_memory(experiment, transport)
    pinned = f"; up to {plain_bytes(staging)} of pinned host memory for each rank" if staging else ""
    return (
        f"up to {plain_bytes(needed)} of the device for each rank; {plain_bytes(free)} are free{shared}{doubt}{pinned}"
    )


def check_memory(experiment: Experiment, places: Places, device: torch.device) -> None:
    """Find out whether each device has room for the models of its ranks; activations are not counted.

    Parameters
    ----------
    device : of rank 0, and of the others' kind

    Raises
    ------
    InputError
        If one has not.
    """
    groups = sharing_ranks(places[: experiment.num_ranks])
    if not groups:
        return
    needs = [always + beside for always, beside in models_memory(experiment, device)]
    for ranks in groups:
        needed, free = sum(needs[rank] for rank in ranks), _free(places, ranks)
        if needed > free:
            raise InputError(
                f"the node models of {named_ranks(ranks)} need {plain_bytes(needed)}, {_short(places, ranks)} on"
                f" {places[ranks[0]]['host']} has {plain_bytes(free)}: use {_remedy(experiment, ranks, device)}"
            )


def _remedy(experiment: Experiment, ranks: list[int], device: torch.device) -> str:
    config = experiment.config
    engine = choose_engine(config.engine, config.stack, experiment.module, experiment.num_columns, device)
    shrinks = engine.batched and max(len(experiment.plans[rank].own) for rank in ranks) > 1 < engine.stack
    more = "more ranks" if len(ranks) == 1 else "more devices"
    return f"{more} or a smaller --stack" if shrinks else more


def _free(places: Places, ranks: list[int]) -> int:
    """Return what is free on a device: the last of its ranks that looked saw what the others' start had taken."""
    return min(int(places[rank]["free"]) for rank in ranks)


def _short(places: Places, ranks: list[int]) -> str:
    return str(places[ranks[0]]["device"]).split(" ")[0]
