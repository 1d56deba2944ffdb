"""The estimate of a run: ``python -m mpisim.run … --estimate 1 2 4``."""

from __future__ import annotations

import dataclasses

from mpisim.config import Config
from mpisim.estimate.forecast import Forecasts, assumptions, link_of, machine_of, on_ranks, threads_of
from mpisim.estimate.model import Estimate
from mpisim.estimate.table import table
from mpisim.experiment import decide
from mpisim.learning.device import choose_device
from mpisim.memory import predicted_memory


def estimate_run(config: Config) -> tuple[list[Estimate], str]:
    """Return what a run takes, for each number of ranks that its options ask for, and all of it as text.

    Nothing is written, nor downloaded.

    Raises
    ------
    InputError
        If the options, or the files they name, are wrong, or data are not on disk.
    """
    config = dataclasses.replace(config, no_download=True)
    wanted = list(dict.fromkeys(config.estimate or (1,)))
    experiments = [decide(config, wanted[0])]
    experiments += [on_ranks(experiments[0], num_ranks) for num_ranks in wanted[1:]]
    device = choose_device(config.device, 0)
    # First: all that this process has now, each rank will have; and not what is measured in it hereafter.
    memories = [predicted_memory(experiment, device) for experiment in experiments]
    machine = machine_of(config)
    link, origin = link_of(config, needed=any(each.num_ranks > 1 for each in experiments))
    forecasts = Forecasts(machine, link)
    estimates = [
        forecasts.estimate(experiment, num_ranks, memory)
        for experiment, num_ranks, memory in zip(experiments, wanted, memories, strict=True)
    ]
    threads = [threads_of(config, machine, num_ranks) for num_ranks in wanted]
    lines = assumptions(config, machine, link, origin, threads)
    nodes = experiments[0].topology.num_nodes
    lines += [
        f"note          {nodes} nodes: of {ranks} ranks {ranks - nodes} stay idle" for ranks in wanted if ranks > nodes
    ]
    return estimates, "\n".join([*lines, "", table(estimates)])
