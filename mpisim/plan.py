"""The plan: what a run is about to do, in a few lines that a person reads before it starts."""

from __future__ import annotations

import numpy as np
import torch

import mpisim
from mpisim.exchange.rows import WIRES
from mpisim.exchange.transport import HOST, Transport
from mpisim.exchange.transpose import TransposePlan
from mpisim.experiment import Experiment, free_output
from mpisim.graphs.placement import contiguous, rows_between_ranks
from mpisim.graphs.strategies import STRATEGIES
from mpisim.learning.engine import choose_engine
from mpisim.local_training import replay_obstacle
from mpisim.notes import notes
from mpisim.sharing import named_devices, named_memory
from mpisim.units import plain_bytes


def plan_rows(
    experiment: Experiment,
    places: list[dict[str, str | int]],
    num_ranks: int,
    device: torch.device,
    transport: Transport = HOST,
) -> list[tuple[str, str]]:
    """Return the plan as rows of a name and a text.

    Parameters
    ----------
    places : the host, device and threads of each rank
    num_ranks : of the job, idle ones included
    device, transport : of rank 0
    """
    config = experiment.config
    rows = [
        (
            f"mpisim {mpisim.__version__}",
            f"{_count(config.rounds, 'round')} of {_count(config.epochs, 'epoch')}, seed {config.seed}",
        ),
        ("topology", _topology(experiment)),
        ("mixing", _mixing(experiment)),
        ("data", _data(experiment)),
        ("OOD", _ood(experiment)),
        ("model", _model(experiment)),
        ("engine", _engine(experiment, device)),
        ("ranks", _ranks(experiment, places)),
        ("messages", _messages(experiment, transport.described(device))),
        ("memory", named_memory(experiment, places, device, transport)),
        ("log", str(free_output(config)) + (" (not written: --dry-run)" if config.dry_run else "")),
    ]
    rows += [("note", text) for text in [transport.notice, *notes(experiment)] if text]
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
    rounded = "" if config.precision == "float32" else f"; factors of products as {config.precision}"
    num_parameters = sum(parameter.numel() for parameter in experiment.module.parameters())
    statistics = experiment.num_columns - num_parameters
    beside = f" and {statistics:,} running statistics" if statistics else ""
    return f"{config.model}, {num_parameters:,} parameters{beside}, {start}; {training}{pull}{rounded}"


def _engine(experiment: Experiment, device: torch.device) -> str:
    config = experiment.config
    engine = choose_engine(config.engine, config.stack, experiment.module, experiment.num_columns, device)
    if device.type != "cuda" or not engine.batched:
        return str(engine)
    obstacle = replay_obstacle(config, experiment.module)
    how = "replayed as graphs" if obstacle is None else f"launched kernel by kernel: {obstacle}"
    return f"{engine}, steps {how}"


def _ranks(experiment: Experiment, places: list[dict[str, str | int]]) -> str:
    active = places[: experiment.num_ranks]
    nodes = np.bincount(experiment.rank_of_node)
    hosts = {place["host"] for place in active}
    threads = np.array([place["threads"] for place in active])
    return (
        f"{_count(experiment.num_ranks, 'rank')} on {_count(len(hosts), 'host')}, with {_spanned(nodes, 'node')}"
        f" and {_spanned(threads, 'thread')} each, on {named_devices(active)}"
    )


def _messages(experiment: Experiment, travel: str) -> str:
    messages = sum(plan.num_messages for plan in experiment.plans)
    config = experiment.config
    sent = sum(plan.bytes_sent(experiment.num_columns, WIRES[config.wire]) for plan in experiment.plans)
    times = config.exchanges
    rounded = "" if config.wire == "float32" else f" as {config.wire}"
    how = ""
    if isinstance(experiment.plans[0], TransposePlan):
        how = ": every rank mixes some columns of all models"
    elif config.placement == "mincut":
        simple = contiguous(len(experiment.rank_of_node), experiment.num_ranks)
        listeners = experiment.rule.indptr, experiment.rule.indices
        rows = [rows_between_ranks(*listeners, placement) for placement in (experiment.rank_of_node, simple)]
        how = f": {rows[0]:,} models, contiguous placement sends {rows[1]:,}"
    return (
        f"{_count(messages * times, 'message')} and {plain_bytes(sent * times)} of models{rounded} between ranks"
        f" each round{travel}{how}"
    )
