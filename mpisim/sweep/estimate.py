"""The estimate of a sweep: what the runs that are left take, those that are alike told from one of them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpisim.config import Config
from mpisim.errors import InputError
from mpisim.estimate.forecast import NO_MATTER, Forecasts, assumptions, link_of, machine_of, threads_of
from mpisim.estimate.model import Estimate, Machine, part_of, summed
from mpisim.estimate.table import plain_hours, table
from mpisim.experiment import decide
from mpisim.learning.device import choose_device
from mpisim.memory import predicted_memory
from mpisim.sweep.display import counted
from mpisim.sweep.expansion import Run
from mpisim.sweep.state import DONE, SHORT, State
from mpisim.units import plain_seconds

MATTERS = ("checkpoint_every", "placement", "rounds", "link_dropout")  # to a whole run, if not to a step
# Strategies whose rules of who listens to whom differ; all others listen to their neighborhoods.
OWN_MESSAGES = ("fl", "none", "scale", "degree-similarity", "betweenness-similarity")


def estimate_sweep(
    runs: Sequence[Run],
    states: Sequence[State],
    folder: Path,
    num_ranks: int,
    jobs: int,
    keep_checkpoints: bool,
    given: dict[str, Any],
) -> str:
    """Return what the runs of a sweep take that are left, as text. Nothing is written, nor downloaded.

    Parameters
    ----------
    folder : where the logs are
    num_ranks : of each run
    jobs : runs at a time; on this machine they share its cores
    given : options that tell of the machine: ranks_per_host, latency, bandwidth

    Raises
    ------
    InputError
        If a run's options, or the files they name, are wrong, or its data are not on disk; the message names the run.
    """
    left = [(run, state) for run, state in zip(runs, states, strict=True) if state.kind not in (DONE, SHORT)]
    if not left:
        return f"nothing is left of {counted(len(runs))}"
    given = given | {"resume": True, "no_download": True}
    configs = [dataclasses.replace(run.config, output=str(run.log(folder)), **given) for run, _ in left]
    machine = machine_of(configs[0])
    if machine.cores is not None:
        machine = Machine(machine.ranks_per_host, max(1, machine.cores // jobs))
    link, origin = link_of(configs[0], needed=num_ranks > 1)
    forecasts = Forecasts(machine, link)
    of_kind: dict[str, Estimate] = {}
    estimates = []
    for config, (run, state) in zip(configs, left, strict=True):
        kind = _kind(config)
        if kind not in of_kind:
            try:
                of_kind[kind] = _whole(forecasts, config, num_ranks)
            except InputError as error:
                raise InputError(f"run {run.name}: {error}") from error
        estimates.append(part_of(of_kind[kind], 1 - state.num_rounds / config.rounds))
    total = summed(estimates)
    if not keep_checkpoints:  # those of a run that is done are removed
        total = dataclasses.replace(
            total, checkpoint_bytes=min(jobs, len(left)) * max(each.checkpoint_bytes for each in estimates)
        )
    at_a_time = "one at a time" if jobs == 1 else f"{jobs} at a time"
    lines = assumptions(configs[0], machine, link, origin, [threads_of(configs[0], machine, num_ranks)])
    lines += [
        f"runs          {len(left):,} of {counted(len(runs))} left, of {len(of_kind):,} kinds, {at_a_time}:"
        f" {plain_seconds(total.total / jobs)}, {plain_hours(total.host_hours)} host-hours"
    ]
    return "\n".join([*lines, "", table([total])])


def _whole(forecasts: Forecasts, config: Config, num_ranks: int) -> Estimate:
    experiment = decide(config, num_ranks)
    memory = predicted_memory(experiment, choose_device(config.device, 0))
    return forecasts.estimate(experiment, num_ranks, memory)


def _kind(config: Config) -> str:
    """Return what of a run's options decides how much it takes: of topologies that differ in their seed, one tells."""
    found = {name: value for name, value in config.as_dict().items() if name not in NO_MATTER or name in MATTERS}
    topology = re.sub(r"seed=?\d+", "", config.topology)
    rule = config.strategy if config.strategy in OWN_MESSAGES else "neighborhood"
    return json.dumps([found, topology, rule])
