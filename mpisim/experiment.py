"""What rank 0 decides before the first round: the graph, the data and who gets it, the messages, where the log goes.

Everything that can be wrong with the user's input is found here, while nothing on disk has been touched.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mpisim.config import Config
from mpisim.data.datasets import DATASETS, Dataset, Images, load_dataset
from mpisim.data.ood import TRIGGER_LABEL, OodSplit, split_shard, split_test
from mpisim.data.partition import partition
from mpisim.errors import InputError
from mpisim.exchange.neighborhood import ExchangePlan, plan_exchange
from mpisim.graphs.centrality import betweenness_centrality
from mpisim.graphs.generators import make_topology
from mpisim.graphs.mixing import MixingRule, mixing_rule
from mpisim.graphs.placement import contiguous
from mpisim.graphs.topology import Topology
from mpisim.learning.parameters import StateLayout
from mpisim.models.vision import MODELS

# Betweenness takes (nodes × edges) steps: a few seconds here. A log of more nodes has it only if the strategy needs it.
MAX_NODES_FOR_BETWEENNESS = 1_000


@dataclass(frozen=True)
class Experiment:
    """One experiment, decided.

    Attributes
    ----------
    shards : the training samples of each node, the OOD ones apart
    test_split : the IID and the OOD test set
    ood_nodes : ascending
    rank_of_node : int64, shape (num_nodes,)
    plans : of each rank that owns nodes
    num_columns : of X
    """

    config: Config
    topology: Topology
    rule: MixingRule
    train: Images
    test: Images
    shards: list[OodSplit]
    test_split: OodSplit
    ood_nodes: list[int]
    rank_of_node: np.ndarray
    plans: list[ExchangePlan]
    num_columns: int

    @property
    def num_ranks(self) -> int:
        """The number of ranks that own nodes."""
        return len(self.plans)

    @property
    def train_samples(self) -> np.ndarray:
        """The number of training samples of each node, int64, shape (num_nodes,)."""
        return _num_samples(self.shards)

    def log_sizes(self) -> dict[str, int]:
        """Return the sizes of the log's dimensions."""
        return {
            "node": self.topology.num_nodes,
            "rank": self.num_ranks,
            "link": len(self.rule.indices),
            "label": DATASETS[self.config.dataset].num_classes,
        }

    def log_variables(self) -> dict[str, np.ndarray]:
        """Return the variables of the log that no round changes."""
        num_nodes, config = self.topology.num_nodes, self.config
        num_classes = DATASETS[config.dataset].num_classes
        if num_nodes <= MAX_NODES_FOR_BETWEENNESS or config.strategy == "betweenness":
            betweenness = betweenness_centrality(self.topology)
        else:
            betweenness = np.full(num_nodes, np.nan)
        label_counts = np.array(
            [np.bincount(self.train.labels[shard.clean], minlength=num_classes) for shard in self.shards]
        )
        label_counts[:, TRIGGER_LABEL] += [len(shard.ood) for shard in self.shards]
        return {
            "degree": self.topology.degrees,
            "betweenness": betweenness,
            "train_samples": self.train_samples,
            "is_ood": np.isin(np.arange(num_nodes), self.ood_nodes),
            "rank_of_node": self.rank_of_node,
            "label_counts": label_counts,
            "link_target": np.repeat(np.arange(num_nodes), np.diff(self.rule.indptr)),
            "link_source": self.rule.indices,
            "link_weight": self.rule.weights(config.seed, 1, config.temperature),
        }


def decide(config: Config, num_ranks: int) -> Experiment:
    """Return the experiment that the options describe, on a number of ranks.

    Raises
    ------
    InputError
        If the options, or the files they name, are wrong.
    """
    check_output(config)
    topology = make_topology(config.topology)
    ood_nodes = choose_ood_nodes(config, topology)
    train, test = _load(config)
    dataset = DATASETS[config.dataset]
    dealt = partition(
        train.labels,
        topology.num_nodes,
        dataset.num_classes,
        sample_alpha=config.sample_alpha,
        label_alpha=config.label_alpha,
        seed=config.seed,
    )
    nothing = np.array([], dtype=np.int64)
    shards = [OodSplit(samples, nothing) for samples in dealt]
    test_split = OodSplit(np.arange(len(test)), nothing)
    if ood_nodes:
        if len(test) < 2:
            raise InputError("--test-samples 1: one sample cannot be both IID and OOD test set: take 2 or more")
        test_split = split_test(test.labels, config.ood_fraction, config.seed)
    for node in ood_nodes:
        if len(dealt[node]) < 2:
            raise InputError(f"OOD node {node} has one training sample: none is left to be OOD: use more samples")
        shards[node] = split_shard(train.labels, dealt[node], config.ood_fraction, config.seed, node)
    rule = mixing_rule(topology, config.strategy, _num_samples(shards), config.normalize)
    rank_of_node = contiguous(topology.num_nodes, num_ranks)
    plans = plan_exchange(rule, rank_of_node, int(rank_of_node.max()) + 1)
    with torch.device("meta"):  # shapes without memory
        num_columns = StateLayout.of(make_model(config, dataset)).num_columns
    return Experiment(
        config, topology, rule, train, test, shards, test_split, ood_nodes, rank_of_node, plans, num_columns
    )


def make_model(config: Config, dataset: Dataset) -> nn.Module:
    """Return a new model of the kind that the options ask for."""
    return MODELS[str(config.model)](dataset.image_shape, dataset.num_classes)


def choose_ood_nodes(config: Config, topology: Topology) -> list[int]:
    """Return the nodes whose shards hold OOD samples, ascending.

    Raises
    ------
    InputError
        If the topology has no such node.
    """
    if config.ood == "none":
        return []
    if config.ood_node is None:
        rank = config.ood_rank or 1
        if rank > topology.num_nodes:
            raise InputError(f"--ood-rank {rank}: {config.topology} has {topology.num_nodes} nodes")
        return [int(topology.nodes_by_degree()[rank - 1])]
    for node in config.ood_node:
        if node >= topology.num_nodes:
            raise InputError(f"--ood-node {node}: {config.topology} has the nodes 0…{topology.num_nodes - 1}")
    return sorted(set(config.ood_node))


def _load(config: Config) -> tuple[Images, Images]:
    train, test = load_dataset(config.dataset, Path(config.data_dir), not config.no_download)
    taken = []
    for flag, wanted, held in (
        ("--train-samples", config.train_samples, train),
        ("--test-samples", config.test_samples, test),
    ):
        if wanted is not None and wanted > len(held):
            raise InputError(f"{flag} {wanted}: {config.dataset} has {len(held)}")
        taken.append(held.take(np.arange(wanted or len(held))))
    return taken[0], taken[1]


def _num_samples(shards: list[OodSplit]) -> np.ndarray:
    return np.array([len(shard.clean) + len(shard.ood) for shard in shards], dtype=np.int64)


def free_output(config: Config) -> Path:
    """Return where the log goes: --output, or the next free name in results."""
    if config.output is not None:
        return Path(config.output)
    number, path = 1, Path("results") / f"{config.name}.h5"
    while path.exists():
        number += 1
        path = Path("results") / f"{config.name}-{number}.h5"
    return path


def check_output(config: Config) -> None:
    """Find out whether the log can be written, without a trace on disk.

    Raises
    ------
    InputError
        If it exists and may not be replaced, or its folder cannot be written.
    """
    path = free_output(config)
    if path.is_dir():
        raise InputError(f"--output {path}: is a folder: name a file in it")
    if path.exists() and not config.overwrite:
        raise InputError(f"--output {path}: exists already: take another name, or --overwrite to replace it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise InputError(f"--output {path}: {folder} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):  # without a name where the system can; permissions do not tell all
            pass
    except OSError as error:
        raise InputError(f"--output {path}: the folder {folder} cannot be written: {error.strerror}") from error
