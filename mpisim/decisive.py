"""Which options decide the results of a run, and which do not."""

from __future__ import annotations

import dataclasses
from typing import Any

from mpisim.config import Config

# Options that no result depends on: a run may go on with others. (On CPUs of one kind; threads may change roundings.)
FREE = {
    "bandwidth",
    "checkpoint_every",
    "data_dir",
    "dry_run",
    "estimate",
    "gpu_aware",
    "latency",
    "name",
    "no_download",
    "output",
    "overwrite",
    "placement",
    "quiet",
    "ranks_per_host",
    "resume",
    "rounds",
    "stop_on_nan",
    "threads",
    "timeout",
    "transport",
    "walltime",
}


def decisive(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that a run's results depend on; of one that a log is too old to know, the default."""
    defaults = {each.name: each.default for each in dataclasses.fields(Config)}
    return {name: value for name, value in (defaults | options).items() if name not in FREE}
