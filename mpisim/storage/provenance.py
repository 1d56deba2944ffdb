"""Provenance: which code, on which libraries and machine, made a log."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import mpisim

LIBRARIES = ("h5py", "mpi4py", "networkx", "numpy", "scipy", "torch", "torchvision")


def provenance(
    config: dict[str, Any], hosts: list[str], devices: list[str], threads: list[int], mpi_version: str
) -> dict[str, str]:
    """Return the root attributes of a log, all of them text; lists and dictionaries as JSON.

    Parameters
    ----------
    hosts, devices, threads : of each rank that owns nodes
    """
    command = shlex.join(_command(sys.argv))
    return {
        "title": f"{config['strategy']} on {config['topology']}, {config['dataset']}, seed {config['seed']}",
        "history": f"made by {command}",
        "config": json.dumps(config),
        "command": command,
        "mpisim_version": mpisim.__version__,
        "git_commit": git_commit(Path(mpisim.__file__).resolve().parent.parent) or "",
        "python_version": sys.version.split()[0],
        "library_versions": json.dumps({name: _version(name) for name in LIBRARIES}),
        "mpi_version": mpi_version,
        "hosts": json.dumps(hosts),
        "devices": json.dumps(devices),
        "threads": json.dumps(threads),
        "PBS_JOBID": os.environ.get("PBS_JOBID", ""),
    }


def _command(arguments: list[str]) -> list[str]:
    """Return a command line as a person would type it."""
    program = Path(arguments[0])
    if program.parent.name == "mpisim":  # python -m puts the file's full path there
        return ["python", "-m", f"mpisim.{program.stem}", *arguments[1:]]
    return [program.name, *arguments[1:]]


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def git_commit(checkout: Path) -> str | None:
    """Return the commit that a checkout is at, or None where there is none.

    Reads git's files: a process that has started MPI should not fork one to run git.
    """
    git = checkout / ".git"
    try:
        if git.is_file():  # a worktree: the file names its folder
            git = checkout / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head
        name = head.removeprefix("ref:").strip()
        common = git / "commondir"
        root = git / common.read_text(encoding="utf-8").strip() if common.is_file() else git
        if (root / name).is_file():
            return (root / name).read_text(encoding="utf-8").strip()
        packed = (root / "packed-refs").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
