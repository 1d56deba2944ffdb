"""The briefing: what rank 0 tells the other ranks before the first round.

Each rank gets its part only: its messages, its rows of W, its nodes' shards; and everyone the test set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from mpisim.data.ood import OodSplit
from mpisim.data.shards import pack
from mpisim.dealing import NOTHING
from mpisim.exchange.choice import Plan
from mpisim.exchange.neighborhood import ExchangePlan
from mpisim.exchange.transpose import TransposePlan
from mpisim.experiment import Experiment
from mpisim.graphs.mixing import MixingRule
from mpisim.ranks.messages import broadcast_arrays, receive_arrays, send_arrays
from mpisim.ranks.waiting import Waiting


@dataclass(frozen=True)
class Briefing:
    """What one rank knows of the experiment.

    Attributes
    ----------
    plan : its messages
    rule : the rows of W that it applies, in the order of plan.mixed
    rank_of_node : int64, shape (num_nodes,)
    largest_shard : training samples of the node of the topology that has the most
    shards, own_tests, test : packed samples, as ``data.shards.pack`` makes them
    """

    plan: Plan
    rule: MixingRule
    rank_of_node: np.ndarray
    largest_shard: int
    shards: dict[str, np.ndarray]
    own_tests: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


def brief(comm: MPI.Comm, waiting: Waiting, experiment: Experiment | None) -> Briefing:
    """Return this rank's briefing. Collective; rank 0 passes the experiment, the others None."""
    if experiment is None:
        packet = receive_arrays(comm, waiting, 0)
        test = broadcast_arrays(comm, waiting, None)
    else:
        packet = _packet(experiment, 0)
        for rank in range(1, comm.size):  # one at a time: a second copy of every shard would not always fit
            waiting.all(send_arrays(comm, _packet(experiment, rank), rank))
        test = broadcast_arrays(comm, waiting, pack(experiment.test, [experiment.test_split]))
    plan = _values(packet, "plan")
    return Briefing(
        TransposePlan(**plan) if "rank" in plan else ExchangePlan(**plan),
        MixingRule(**_values(packet, "rule")),
        packet["rank_of_node"],
        int(packet["largest_shard"]),
        _part(packet, "shards"),
        _part(packet, "own_tests"),
        test,
    )


def _packet(experiment: Experiment, rank: int) -> dict[str, np.ndarray]:
    """Return all arrays of one rank, each under the name of the part it belongs to."""
    plan = experiment.plans[rank]
    parts = {
        "plan": vars(plan),
        "rule": vars(experiment.rule.of_rows(plan.mixed)),
        "shards": pack(experiment.train, [experiment.shards[node] for node in plan.own]),
        "own_tests": pack(experiment.train, [OodSplit(experiment.own_tests[node], NOTHING) for node in plan.own]),
    }
    named = {f"{part}.{name}": np.asarray(value) for part, values in parts.items() for name, value in values.items()}
    largest = experiment.train_samples.max()
    return named | {"rank_of_node": experiment.rank_of_node, "largest_shard": np.asarray(largest)}


def _part(packet: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{part}."): value for name, value in packet.items() if name.startswith(f"{part}.")}


def _values(packet: dict[str, np.ndarray], part: str) -> dict[str, Any]:
    """Return a part whose arrays without dimensions are plain values."""
    return {name: value if value.ndim else value.item() for name, value in _part(packet, part).items()}
