"""Twins: two rounds that are played twice, by other means; their results must not differ."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpisim.analysis.logs import open_file
from mpisim.bench.ways import NAMES
from mpisim.config import Config

if TYPE_CHECKING:
    from mpi4py import MPI

TWIN = Config(topology="ring:n=24", rounds=2, epochs=1, checkpoint_every=0, quiet=True)
NOT_RESULTS = ("_seconds", "bytes_sent", "peak_memory")


def of_runs(what: str, differences: dict[str, float]) -> str:
    """Return how far the logs of two runs differ."""
    worst = max(differences, key=lambda name: differences[name])
    how = f"differ by {differences[worst]:.1e} of the largest value at the most ({worst})"
    return f"two rounds {what}: the results in the logs {how if differences[worst] else 'are equal'}"


def pairs(kind: str, faults: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return which runs are compared, by what is said of them: those that do the same by other means.

    Parameters
    ----------
    kind : of the devices
    faults : of each way, why it cannot be trusted, or nothing; of one rank, no way

    >>> pairs("cpu", {"host": "", "link": ""})
    {'on cpu, models by torch.distributed and by MPI': ('link', 'mpi')}
    >>> pairs("cuda", {"staged": "", "link": "there is none"})
    {'on cuda and on CPUs': ('mpi', 'cpus')}
    """
    first = next(iter(faults), "host")
    if faults.get(first):
        return {}
    found = {} if kind == "cpu" else {f"on {kind} and on CPUs": ("mpi", "cpus")}
    if faults.get("link") == "":
        found[f"on {kind}, models by {NAMES['link']} and by {NAMES[first]}"] = ("link", "mpi")
    return found


def compare_runs(
    comm: MPI.Intracomm, kind: str, faults: dict[str, str], options: argparse.Namespace, tell: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Return on rank 0 how far the logs of two rounds differ, pair by pair. Collective.

    Parameters
    ----------
    kind, faults : see ``pairs``
    tell : function
        Gets a line as soon as something is known.
    """
    from mpisim import Simulation

    runs = {
        "mpi": {"device": options.device},
        "cpus": {"device": "cpu"},
        "link": {"device": options.device, "transport": "device"},
    }
    logs: dict[str, Path] = {}
    found = {}
    for what, pair in pairs(kind, faults).items():
        tell(f"two rounds {what}: are played")
        for name in pair:
            if name in logs:
                continue
            logs[name] = Path(options.folder) / f"{name}.h5"
            config = dataclasses.replace(
                TWIN, **runs[name], output=str(logs[name]), overwrite=True, timeout=float(options.timeout)
            )
            simulation = Simulation(config, comm)
            simulation.run()
            if not simulation.complete:  # a signal came, to all
                raise SystemExit(3)
        if comm.rank == 0:
            found[what] = differences(*(logs[name] for name in pair))
            tell(of_runs(what, found[what]))
    return found


def differences(first: Path, second: Path) -> dict[str, float]:
    """Return, of each result that two logs have of every round, the largest difference relative to its largest value.

    Infinite where one of them has no number, and the other has one.
    """
    found = {}
    with open_file(first) as one, open_file(second) as other:
        for name in one:
            if name == "round" or one[name].shape[:1] != one["round"].shape or name.endswith(NOT_RESULTS):
                continue
            values = [np.asarray(file[name][:], dtype=float) for file in (one, other)]
            if (np.isfinite(values[0]) != np.isfinite(values[1])).any():
                found[name] = float("inf")
                continue
            values = [np.nan_to_num(each) for each in values]
            largest = max(float(np.abs(each).max()) for each in values)
            found[name] = float(np.abs(values[0] - values[1]).max()) / (largest or 1.0)
    return found
