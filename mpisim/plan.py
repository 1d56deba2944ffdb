"""The plan: what a run is about to do, in a few lines that a person reads before it starts."""

from __future__ import annotations

import numpy as np

import mpisim
from mpisim.display import plain_bytes
from mpisim.experiment import Experiment, free_output
from mpisim.graphs.strategies import STRATEGIES


def plan_rows(experiment: Experiment, places: list[dict[str, str | int]], num_ranks: int) -> list[tuple[str, str]]:
    """Return the plan as rows of a name and a text.

    Parameters
    ----------
    places : the host, device and threads of each rank
    num_ranks : of the job, idle ones included
    """
    config = experiment.config
    rows = [
        (
            f"mpisim {mpisim.__version__}",
            f"{config.rounds} rounds of {_count(config.epochs, 'epoch')}, seed {config.seed}",
        ),
        ("topology", _topology(experiment)),
        ("mixing", _mixing(experiment)),
        ("data", _data(experiment)),
        ("OOD", _ood(experiment)),
        ("model", _model(experiment)),
        ("ranks", _ranks(experiment, places)),
        ("messages", _messages(experiment)),
        ("log", str(free_output(config)) + (" (not written: --dry-run)" if config.dry_run else "")),
    ]
    rows += [("note", text) for text in _notes(experiment)]
    if num_ranks > experiment.num_ranks:
        idle = num_ranks - experiment.num_ranks
        rows.append(
            (
                "note",
                f"{idle} of {num_ranks} ranks own no node and stay idle: mpiexec -n {experiment.num_ranks} is enough",
            )
        )
    return rows


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _span(values: np.ndarray) -> str:
    low, high = int(np.min(values)), int(np.max(values))
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _spanned(values: np.ndarray, noun: str) -> str:
    return f"{_span(values)} {noun}{'' if np.max(values) == 1 else 's'}"


def _topology(experiment: Experiment) -> str:
    topology = experiment.topology
    parts = "connected" if topology.num_components == 1 else f"in {topology.num_components} separate parts"
    failing = int((topology.adjacency.data < 1).sum()) // 2
    links = f", {_count(failing, 'edge')} that can fail" if failing else ""
    return (
        f"{topology.source}: {_count(topology.num_nodes, 'node')}, {_count(topology.num_edges, 'edge')},"
        f" degrees {_span(topology.degrees)}, {parts}{links}"
    )


def _mixing(experiment: Experiment) -> str:
    config = experiment.config
    if STRATEGIES[config.strategy].normalization is not None:
        return config.strategy
    if config.normalize == "softmax":
        course = "" if config.schedule == "constant" else f" at first, schedule {config.schedule}"
        return f"{config.strategy}, softmax at temperature {config.temperature:g}{course}"
    return f"{config.strategy}, divided by the sum"


def _notes(experiment: Experiment) -> list[str]:
    """Return what a person may not expect of the options."""
    config, notes = experiment.config, []
    empty = [node for node in experiment.ood_nodes if not len(experiment.shards[node].ood)]
    if empty or (experiment.ood_nodes and not len(experiment.test_split.ood)):
        holders = [f"node {node}" for node in empty] + ["the test set"] * (not len(experiment.test_split.ood))
        notes.append(f"{' and '.join(holders)} got no OOD sample: too few samples can be made so; use more")
    if config.participation < 1:
        notes.append(f"in each round {config.participation:.0%} of the nodes take part, drawn anew")
    if config.link_dropout:
        notes.append(f"in each round every edge fails with probability {config.link_dropout:g}")
    if config.moments["epochs"] or config.moments["aggregated"]:
        trained = "after every epoch" if config.moments["epochs"] else "after training"
        moments = [trained] * config.moments["trained"] + ["after aggregation"] * config.moments["aggregated"]
        notes.append(f"models are tested {' and '.join(moments)}")
    falls_below_zero = config.schedule == "cosine" and (config.schedule_floor or 0) < 0
    if config.temperature < 0 or falls_below_zero or config.schedule == "oscillate":
        notes.append("where the temperature is negative, the least central neighbor weighs most")
    return notes


def _data(experiment: Experiment) -> str:
    split = experiment.test_split
    return (
        f"{experiment.config.dataset}: {len(experiment.train):,} training samples,"
        f" {_span(experiment.train_samples)} a node;"
        f" test sets of {len(split.clean):,} IID and {len(split.ood):,} OOD samples"
    )


def _ood(experiment: Experiment) -> str:
    if not experiment.ood_nodes:
        return "none"
    nodes = [
        f"node {node} (degree {experiment.topology.degrees[node]}, {len(experiment.shards[node].ood)} of its"
        f" {experiment.train_samples[node]:,} samples)"
        for node in experiment.ood_nodes
    ]
    return f"{experiment.config.ood} at {', '.join(nodes)}"


def _model(experiment: Experiment) -> str:
    config = experiment.config
    start = "one common start" if config.init == "common" else "independent starts"
    training = (
        f"{config.optimizer}, lr {config.lr:g}, batch {config.batch_size}" if not config.no_train else "no training"
    )
    pull = f", proximal {config.proximal:g}" if config.proximal else ""
    return f"{config.model}, {experiment.num_columns:,} parameters, {start}; {training}{pull}"


def _ranks(experiment: Experiment, places: list[dict[str, str | int]]) -> str:
    active = places[: experiment.num_ranks]
    nodes = np.bincount(experiment.rank_of_node)
    hosts = {place["host"] for place in active}
    threads = np.array([place["threads"] for place in active])
    devices = ", ".join(sorted({str(place["device"]) for place in active}))
    return (
        f"{_count(experiment.num_ranks, 'rank')} on {_count(len(hosts), 'host')}, with {_spanned(nodes, 'node')}"
        f" and {_spanned(threads, 'thread')} each, on {devices}"
    )


def _messages(experiment: Experiment) -> str:
    messages = sum(plan.num_messages for plan in experiment.plans)
    sent = sum(plan.bytes_sent(experiment.num_columns) for plan in experiment.plans)
    times = experiment.config.exchanges
    return f"{_count(messages * times, 'message')} and {plain_bytes(sent * times)} of models between ranks each round"
