"""Weak scaling on paper: the estimate for more and more ranks, each with as many nodes, and each node with as much.

Topologies, messages and mixing are those that so many ranks would have; how fast a node trains is measured here, on the
shards of the run that the options describe, and taken to stay the same.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from mpisim.analysis.columns import as_text
from mpisim.config import Config
from mpisim.errors import InputError
from mpisim.estimate.disk import count_disk, write_speed
from mpisim.estimate.forecast import Forecasts, assumptions, link_of, threads_of
from mpisim.estimate.model import PARTS, Estimate, Machine, predict
from mpisim.estimate.work import count_work
from mpisim.experiment import decide, free_output, place
from mpisim.graphs.generators import make_topology
from mpisim.graphs.strategies import mixing_rule
from mpisim.ranks.startup import usable_cores
from mpisim.units import plain_bytes, plain_seconds

OF_ROUNDS = PARTS[1:]


def grown(topology: str, num_nodes: int) -> str:
    """Return a topology's specification for another number of nodes.

    Raises
    ------
    InputError
        If it has no number of nodes to change.

    >>> grown("ba:n=24,m=2,seed=0", 1000)
    'ba:n=1000,m=2,seed=0'
    """
    found, count = re.subn(r"(?<=[:,])n=\d+", f"n={num_nodes}", topology)
    if not count:
        raise InputError(f"--topology {topology}: has no n= that could grow with the ranks: take a generator")
    return found


def weak_scaling(config: Config, ranks: Sequence[int], nodes_per_rank: int) -> tuple[list[Estimate], list[str]]:
    """Return the estimate for each number of ranks, and in lines what is assumed.

    Raises
    ------
    InputError
        If the options are wrong, or a topology cannot be of so many nodes.
    """
    topologies = [make_topology(grown(config.topology, nodes_per_rank * num_ranks)) for num_ranks in ranks]
    num_nodes = make_topology(config.topology).num_nodes
    if nodes_per_rank > num_nodes:
        raise InputError(f"--nodes-per-rank {nodes_per_rank}: --topology {config.topology} has {num_nodes} nodes")
    base = decide(dataclasses.replace(config, no_download=True), num_nodes // nodes_per_rank)
    machine = Machine(config.ranks_per_host or len(usable_cores()), None)
    link, origin = link_of(config, needed=True)
    speeds, _ = Forecasts(machine, link).speeds(base, 1)
    per_node = int(np.ceil(base.train_samples.mean()))
    tests = len(base.test_split.clean) + len(base.test_split.ood)
    node_bytes = -(-base.train.inputs.nbytes // len(base.train)) * per_node
    folder_speed = write_speed(free_output(config).parent)
    estimates = []
    for topology, num_ranks in zip(topologies, ranks, strict=True):
        count = topology.num_nodes
        samples = np.full(count, per_node)
        rule = mixing_rule(topology, config.strategy, samples, config.normalize, config.link_dropout)
        rank_of_node, plans = place(config, rule, samples, base.num_columns, num_ranks)
        data_bytes = node_bytes * count, base.test.inputs.nbytes + base.test.labels.nbytes
        work = count_work(
            config, rule, rank_of_node, plans, base.num_columns, samples, np.full(count, tests), data_bytes
        )
        sizes = base.log_sizes() | {"node": count, "rank": len(plans), "link": len(rule.indices)}
        disk = count_disk(config, sizes, {}, 4 * base.num_columns + 8, 2, folder_speed, machine.hosts(len(plans)))
        estimates.append(predict(work, speeds, disk, link, machine))
    config = dataclasses.replace(config, ranks_per_host=machine.ranks_per_host)
    return estimates, assumptions(config, machine, link, origin, [threads_of(config, machine, 1)])


def scaling_table(estimates: Sequence[Estimate], nodes_per_rank: int, rounds: int) -> str:
    """Return a line for each number of ranks: the parts of a round, the round, and against that of the fewest ranks."""
    first = round_seconds(estimates[0], rounds)
    cells = [
        [
            f"{each.ranks:,}",
            f"{each.ranks * nodes_per_rank:,}",
            *(plain_time(each.seconds[part] / rounds) for part in OF_ROUNDS),
            plain_time(round_seconds(each, rounds)),
            f"{first / round_seconds(each, rounds):.2f}",
            plain_seconds(each.seconds["start"]),
            plain_bytes(each.round_bytes),
        ]
        for each in estimates
    ]
    return as_text(["ranks", "nodes", *OF_ROUNDS, "round", "efficiency", "start", "sent a round"], cells)


def round_seconds(estimate: Estimate, rounds: int) -> float:
    """Return the seconds of a round, checkpoints shared out among all rounds."""
    return sum(estimate.seconds[part] for part in OF_ROUNDS) / rounds


def plain_time(seconds: float) -> str:
    """Return a short time.

    >>> plain_time(0.01234), plain_time(0.00001), plain_time(75)
    ('12.3 ms', '0.0 ms', '1 min 15 s')
    """
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else plain_seconds(seconds)
