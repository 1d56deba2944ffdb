"""Which options decide the results of a run, and which do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
# Options that change roundings at most: a run goes on with the same ones, but others do not part it from other runs.
ROUNDINGS = {"deterministic", "device", "engine", "stack"}
# A run goes on for any number of rounds; one that had more of them is another run all the same.
WITHOUT_EFFECT = (FREE | ROUNDINGS) - {"rounds"}
# Options that play a part only with some values of another one.
PART_OF: dict[str, tuple[str, set[str]]] = {
    **dict.fromkeys(
        [f"tinymem_{name}" for name in ("tasks", "operation", "modulo", "length", "context", "examples", "tests")],
        ("dataset", {"tinymem"}),
    ),
    **dict.fromkeys(["trigger_position", "trigger_label"], ("ood", {"trigger"})),
    "data_placement_offset": ("data_placement", {"degree", "betweenness"}),
    "momentum": ("optimizer", {"sgd"}),
    "betas": ("optimizer", {"adam", "adamw"}),
    "schedule_period": ("schedule", {"cosine", "oscillate"}),
    "schedule_multiplier": ("schedule", {"cosine"}),
    "schedule_floor": ("schedule", {"cosine", "exponential"}),
    "schedule_decay": ("schedule", {"exponential"}),
}
# As a log has them: JSON knows no tuples.
DEFAULTS = {
    each.name: list(each.default) if isinstance(each.default, tuple) else each.default
    for each in dataclasses.fields(Config)
}


def decisive(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a run's results depend on; of one that a log is too old to know, the default."""
    return {name: value for name, value in {**DEFAULTS, **options}.items() if name not in FREE}


def telling(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that may tell a run from others, likewise: those that play a part, by more than roundings.

    >>> {"momentum", "tinymem_tests", "threads"} & set(telling({"optimizer": "sgd", "threads": 3}))
    {'momentum'}
    """
    known = {**DEFAULTS, **options}

    def plays_a_part(name: str) -> bool:
        other, values = PART_OF.get(name, (name, ()))
        return name not in PART_OF or known[other] is None or known[other] in values

    return {name: value for name, value in known.items() if name not in WITHOUT_EFFECT and plays_a_part(name)}
