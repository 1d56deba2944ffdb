"""Forecasts: from the options of runs to what they take, where what runs have in common is measured once."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mpisim.config import Config
from mpisim.decisive import FREE
from mpisim.estimate.disk import count_disk, write_speed
from mpisim.estimate.link import USUAL, measured_link
from mpisim.estimate.model import Disk, Estimate, Link, Machine, Speeds, predict
from mpisim.estimate.speeds import Local, local_speeds, mix_speed, on_threads, stack_of, start_seconds
from mpisim.estimate.work import work_of
from mpisim.experiment import Experiment, free_output, place
from mpisim.learning.device import choose_device, device_name
from mpisim.opening import attributes
from mpisim.ranks.startup import usable_cores

# What changes neither how long a step or a test takes, nor how much data there is.
NO_MATTER = FREE | {
    "betas",
    "link_dropout",
    "lr",
    "normalize",
    "ood_fraction",
    "ood_node",
    "ood_rank",
    "schedule",
    "schedule_decay",
    "schedule_floor",
    "schedule_multiplier",
    "schedule_period",
    "seed",
    "strategy",
    "temperature",
    "topology",
    "trigger_label",
    "trigger_position",
}

UNMEASURED = "assumed: --latency and --bandwidth tell more, or mpiexec on PATH"
Found = TypeVar("Found")


def machine_of(config: Config) -> Machine:
    """Return the machine that the options are about: this one, unless they say how many ranks a host has."""
    cores = len(usable_cores()) if config.ranks_per_host is None else None
    return Machine(config.ranks_per_host, cores)


def link_of(config: Config, needed: bool) -> tuple[Link, str]:
    """Return the link that the options give, measured where they do not; and in words where it comes from.

    Parameters
    ----------
    needed : bool
        Whether any rank sends anything; else there is nothing to say.
    """
    if not needed:
        return USUAL, ""
    given = config.latency is not None and config.bandwidth is not None
    measured = None if given else measured_link()
    found = measured or USUAL
    latency = found.latency if config.latency is None else config.latency * 1e-6
    bandwidth = found.bandwidth if config.bandwidth is None else config.bandwidth * 1e9
    origin = "as given" if given else "measured between two ranks here" if measured else UNMEASURED
    return Link(latency, bandwidth), origin


class Forecasts:
    """Forecasts of runs on one machine.

    Parameters
    ----------
    machine, link : what the runs would have
    """

    def __init__(self, machine: Machine, link: Link):
        self.machine, self.link = machine, link
        self._found: dict[tuple[Any, ...], Any] = {}

    def estimate(self, experiment: Experiment, num_ranks: int, memory: int | None = None) -> Estimate:
        """Return what an experiment takes on the ranks that it is decided for, of so many in the job."""
        idle = num_ranks - experiment.num_ranks
        speeds, disk = self.speeds(experiment, num_ranks)
        return predict(work_of(experiment), speeds, disk, self.link, self.machine, idle, memory)

    def speeds(self, experiment: Experiment, num_ranks: int) -> tuple[Speeds, Disk]:
        """Return how fast the machine in hand does the work of an experiment, and what it writes."""
        config = experiment.config
        device = choose_device(config.device, 0)
        threads = threads_of(config, self.machine, num_ranks)
        kind = _kind(config)
        with on_threads(threads):
            stack = stack_of(experiment, device)
            local: Local = self._once(("local", kind, stack, threads), lambda: local_speeds(experiment, device))
            mixing = mix_speed(experiment, device)
        imports, prepare = self._once(("start", kind), lambda: start_seconds(experiment))
        folder = Path(free_output(config)).parent
        speed = self._once(("disk", folder), lambda: write_speed(folder))
        whose: dict[str, str | int] = {"host": socket.gethostname(), "device": device_name(device), "threads": threads}
        text = attributes(experiment, [dict(whose) for _ in range(num_ranks)])
        hosts = self.machine.hosts(num_ranks)
        disk = count_disk(config, experiment.log_sizes(), text, local.node_bytes, local.num_arrays, speed, hosts)
        return Speeds(
            imports=imports,
            prepare=prepare,
            make=local.make,
            train=local.train,
            test=local.test,
            consensus=local.consensus,
            mix=mixing,
            sum_bytes=local.sum_bytes,
        ), disk

    def _once(self, key: tuple[Any, ...], find: Callable[[], Found]) -> Found:
        if key not in self._found:
            self._found[key] = find()
        found: Found = self._found[key]
        return found


def threads_of(config: Config, machine: Machine, num_ranks: int) -> int:
    """Return the threads of a rank: its share of the cores of this machine, one on another unless the options say."""
    if config.threads is not None:
        return config.threads
    return 1 if machine.cores is None else max(1, machine.cores // num_ranks)


def _kind(config: Config) -> str:
    """Return what of the options decides how long a step or a test takes."""
    return json.dumps({name: value for name, value in config.as_dict().items() if name not in NO_MATTER})


def on_ranks(experiment: Experiment, num_ranks: int) -> Experiment:
    """Return the same experiment decided for another number of ranks."""
    config, samples = experiment.config, experiment.train_samples
    rank_of_node, plans = place(config, experiment.rule, samples, experiment.num_columns, num_ranks)
    return dataclasses.replace(experiment, rank_of_node=rank_of_node, plans=plans)


def assumptions(config: Config, machine: Machine, link: Link, origin: str, threads: list[int]) -> list[str]:
    """Return in lines what an estimate takes for granted."""
    device = choose_device(config.device, 0)
    each = "–".join(str(count) for count in sorted({min(threads), max(threads)}))
    rank = f"{each} thread{'s' * (each != '1')}" if device.type == "cpu" else device_name(device)
    if machine.cores is None:
        where = (
            f"hosts with {machine.ranks_per_host} ranks, each as fast as one here with {rank};"
            " each host writes checkpoints as fast as this one"
        )
    else:
        where = f"this host, whose {machine.cores} cores all ranks share; {rank} each"
    lines = [f"assumed       {where}"]
    if origin:
        lines.append(
            f"link          {link.latency * 1e6:.1f} µs a message, {link.bandwidth / 1e9:.1f} GB/s each way, {origin}"
        )
    return lines
