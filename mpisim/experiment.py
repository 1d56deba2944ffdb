"""What rank 0 decides before the first round: the graph, the data and who gets it, the messages, where the log goes.

Everything that can be wrong with the user's input is found here, while nothing on disk has been touched.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mpisim.config import Config
from mpisim.data.datasets import Dataset
from mpisim.data.labeled import Labeled
from mpisim.data.ood import OodSplit
from mpisim.dealing import choose_ood_nodes, dataset_of, deal, load, ood_change
from mpisim.errors import InputError
from mpisim.exchange.choice import Plan, plan_messages
from mpisim.exchange.rows import WIRES
from mpisim.graphs.centrality import betweenness_centrality
from mpisim.graphs.generators import make_topology
from mpisim.graphs.mixing import MixingRule
from mpisim.graphs.participation import participants
from mpisim.graphs.placement import contiguous, mincut
from mpisim.graphs.strategies import mixing_rule
from mpisim.graphs.topology import Topology
from mpisim.learning.parameters import StateLayout
from mpisim.models import catalog
from mpisim.resuming import check_same_content, check_same_experiment, existing_log, is_taken, named_output
from mpisim.storage.checkpoint import checkpoint_folder
from mpisim.storage.log import is_log

# Betweenness takes (nodes × edges) steps: a few seconds here. A log of more nodes has it only if the strategy needs it.
MAX_NODES_FOR_BETWEENNESS = 1_000
LONGEST_NAME = 200  # file systems take 255 bytes; what a log is written to first has a longer name


@dataclass(frozen=True)
class Experiment:
    """One experiment, decided.

    Attributes
    ----------
    shards : the training samples of each node, the OOD ones apart
    test_split : the IID and the OOD test set
    own_tests : each node's own test samples, of the training set
    ood_nodes : ascending
    rank_of_node : int64, shape (num_nodes,)
    plans : of each rank that owns nodes
    module : a model of the kind that nodes train, shapes without memory
    """

    config: Config
    topology: Topology
    rule: MixingRule
    train: Labeled
    test: Labeled
    shards: list[OodSplit]
    test_split: OodSplit
    own_tests: list[np.ndarray]
    ood_nodes: list[int]
    rank_of_node: np.ndarray
    plans: list[Plan]
    module: nn.Module

    @property
    def num_ranks(self) -> int:
        """The number of ranks that own nodes."""
        return len(self.plans)

    @property
    def num_columns(self) -> int:
        """The number of columns of X."""
        return StateLayout.of(self.module).num_columns

    @property
    def train_samples(self) -> np.ndarray:
        """The number of training samples of each node, int64, shape (num_nodes,)."""
        return _num_samples(self.shards)

    def hashes(self) -> dict[str, str]:
        """Return root attributes of the log: the SHA-256, in hex, of what the options only name."""
        adjacency = self.topology.adjacency
        edges = [adjacency.indptr.astype("<i8"), adjacency.indices.astype("<i8"), adjacency.data.astype("<f8")]
        samples = [self.train.inputs, self.train.labels, self.test.inputs, self.test.labels]
        return {"topology_sha256": _sha256(edges), "data_sha256": _sha256(samples)}

    def log_sizes(self) -> dict[str, int]:
        """Return the sizes of the log's dimensions."""
        return {
            "node": self.topology.num_nodes,
            "rank": self.num_ranks,
            "link": len(self.rule.indices),
            "label": dataset_of(self.config).num_classes,
            "epoch": self.config.epochs,
        }

    def log_variables(self) -> dict[str, np.ndarray]:
        """Return the variables of the log that no round changes."""
        num_nodes, config = self.topology.num_nodes, self.config
        num_classes = dataset_of(config).num_classes
        if num_nodes <= MAX_NODES_FOR_BETWEENNESS or config.strategy.startswith("betweenness"):
            betweenness = betweenness_centrality(self.topology)
        else:
            betweenness = np.full(num_nodes, np.nan)
        labels, change = self.train.labels, ood_change(config)
        label_counts = np.array(
            [
                np.bincount(
                    np.concatenate([labels[shard.clean], change.relabel(labels[shard.ood])]), minlength=num_classes
                )
                for shard in self.shards
            ]
        )
        if self.rule.similarity:  # W follows from the trained models
            link_weight = np.full(len(self.rule.indices), np.nan)
        else:
            takes_part = participants(num_nodes, config.participation, config.seed, 1)
            link_weight = self.rule.weights(config.seed, 1, 1 / config.temperature, takes_part=takes_part)
        return {
            "degree": self.topology.degrees,
            "betweenness": betweenness,
            "train_samples": self.train_samples,
            "is_ood": np.isin(np.arange(num_nodes), self.ood_nodes),
            "rank_of_node": self.rank_of_node,
            "label_counts": label_counts,
            "link_target": np.repeat(np.arange(num_nodes), np.diff(self.rule.indptr)),
            "link_source": self.rule.indices,
            "link_weight": link_weight,
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
    with torch.device("meta"):  # shapes without memory
        module = make_model(config, dataset_of(config))
    train, test = load(config)
    dealt = deal(config, topology, ood_nodes, train, test)
    shards, test_split = dealt.shards, dealt.test_split
    rule = mixing_rule(topology, config.strategy, _num_samples(shards), config.normalize, config.link_dropout)
    rank_of_node, plans = place(config, rule, _num_samples(shards), StateLayout.of(module).num_columns, num_ranks)
    experiment = Experiment(
        config,
        topology,
        rule,
        train,
        test,
        shards,
        test_split,
        dealt.own_tests,
        ood_nodes,
        rank_of_node,
        plans,
        module,
    )
    if config.resume and (path := existing_log(config)) is not None:
        check_same_content(path, experiment.hashes())
    return experiment


def place(
    config: Config, rule: MixingRule, train_samples: np.ndarray, num_columns: int, num_ranks: int
) -> tuple[np.ndarray, list[Plan]]:
    """Return the rank of each node, and the plans of the ranks that own nodes."""
    if config.placement == "mincut":
        rank_of_node = mincut(rule.indptr, rule.indices, train_samples, num_ranks)
    else:
        rank_of_node = contiguous(rule.num_nodes, num_ranks)
    whole_rows = rule.similarity or config.exchanges > 1
    return rank_of_node, plan_messages(rule, rank_of_node, num_columns, WIRES[config.wire], whole_rows)


def make_model(config: Config, dataset: Dataset) -> nn.Module:
    """Return a new model of the kind that the options ask for."""
    return catalog.make_model(str(config.model), dataset.input_shape, dataset.num_outputs)


def _num_samples(shards: list[OodSplit]) -> np.ndarray:
    return np.array([len(shard.clean) + len(shard.ood) for shard in shards], dtype=np.int64)


def _sha256(arrays: list[np.ndarray]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def free_output(config: Config) -> Path:
    """Return where the log goes: where the run that is resumed has it, --output, or the next free name in results."""
    if config.resume and (path := existing_log(config)) is not None:
        return path
    if config.output is not None:
        return named_output(config.output)
    number, path = 1, Path("results") / f"{config.name}.h5"
    while is_taken(path):
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
    try:
        path = free_output(config)
        if path.is_dir() or (config.output or "").endswith(os.sep):
            raise InputError(f"--output {config.output}: is a folder: name a file in it")
        if len(os.fsencode(path.name)) > LONGEST_NAME:
            raise InputError(f"{path}: a name of {len(path.name)} characters: take a shorter one")
        if os.path.lexists(path):
            if config.resume:
                check_same_experiment(config, path)
            else:
                _check_replaceable(path, config.overwrite)
        elif is_taken(path) and not config.overwrite:
            raise InputError(
                f"{path}: is not there, but its checkpoints in {checkpoint_folder(path)} are: put it back to go on with"
                f" --resume, or begin anew with --output {path} --overwrite"
            )
        folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        if not folder.is_dir():
            raise InputError(f"--output {path}: {folder} is not a folder")
        kept = checkpoint_folder(path)
        if os.path.lexists(kept) and not kept.is_dir():
            raise InputError(f"{kept}: the checkpoints go there, but it is not a folder: move it away")
        for place in (folder, *([kept] if kept.is_dir() else [])):
            with tempfile.TemporaryFile(dir=place):  # without a name where the system can; permissions do not tell all
                pass
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the log's folder cannot be written: {error}") from error


def _check_replaceable(path: Path, overwrite: bool) -> None:
    if not overwrite:
        raise InputError(
            f"--output {path}: exists already: take another name, --overwrite to replace it, or --resume to go on"
        )
    if not is_log(path):
        raise InputError(f"--output {path}: is no log of mpisim, and --overwrite replaces nothing else")
