"""Dealing: which node gets which samples, and which samples are out of distribution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mpisim.config import Config
from mpisim.data.datasets import DATASETS, Dataset, load_dataset
from mpisim.data.labeled import Labeled
from mpisim.data.local_split import split_locally
from mpisim.data.ood import OodChange, OodSplit, split_shard, split_test, stamp_text
from mpisim.data.partition import partition, place_by_centrality
from mpisim.data.tinymem import TinyMem, make_tinymem
from mpisim.errors import InputError
from mpisim.graphs.centrality import CENTRALITIES
from mpisim.graphs.topology import Topology

PARTS_OF_LOCAL_SPLIT = 3  # each part of each node's split then has each label
NOTHING = np.array([], dtype=np.int64)


def dataset_of(config: Config) -> Dataset:
    """Return the data set that the options ask for."""
    dataset = DATASETS[config.dataset]
    if config.dataset != "tinymem":
        return dataset
    options = TinyMem(
        config.tinymem_tasks,
        config.tinymem_operation,
        config.tinymem_modulo,
        config.tinymem_length,
        config.tinymem_context,
        config.tinymem_examples,
        config.tinymem_tests,
    )
    return replace(dataset, load=lambda *_: make_tinymem(options), input_shape=(options.context,))


def ood_change(config: Config) -> OodChange:
    """Return what happens to out-of-distribution samples."""
    dataset = dataset_of(config)
    kind = "text" if dataset.kind == "text" else config.ood
    return OodChange(kind, dataset.trigger_size, config.trigger_position, config.trigger_label, dataset.num_classes)


def load(config: Config) -> tuple[Labeled, Labeled]:
    """Return the training and the test set, as many samples of each as the options ask for.

    Raises
    ------
    InputError
        If the data cannot be had, or there are fewer samples.
    """
    dataset = dataset_of(config)
    if dataset.kind == "text" and config.ood not in ("none", "trigger"):
        raise InputError(f"--ood {config.ood}: is for images; {config.dataset} knows the trigger alone")
    train, test = load_dataset(config.dataset, Path(config.data_dir), not config.no_download, dataset)
    taken = []
    for flag, wanted, held in (
        ("--train-samples", config.train_samples, train),
        ("--test-samples", config.test_samples, test),
    ):
        if wanted is not None and wanted > len(held):
            raise InputError(f"{flag} {wanted}: {config.dataset} has {len(held)}")
        taken.append(held.take(np.arange(wanted or len(held))))
    return taken[0], taken[1]


def choose_ood_nodes(config: Config, topology: Topology) -> list[int]:
    """Return the nodes whose shards hold OOD samples, ascending.

    Raises
    ------
    InputError
        If the topology has no such node.
    """
    config.check_ood_nodes(topology.num_nodes)
    if config.ood == "none":
        return []
    if config.ood_node is None:
        return [int(topology.nodes_by_degree()[(config.ood_rank or 1) - 1])]
    return sorted(set(config.ood_node))


@dataclass(frozen=True)
class Dealt:
    """Who has which samples.

    Attributes
    ----------
    shards : each node's training samples, as positions in the training set
    test_split : the IID and the OOD test set, as positions in the test set
    own_tests : each node's own test samples, as positions in the training set; none without a local split
    """

    shards: list[OodSplit]
    test_split: OodSplit
    own_tests: list[np.ndarray]


def deal(config: Config, topology: Topology, ood_nodes: list[int], train: Labeled, test: Labeled) -> Dealt:
    """Deal the samples.

    Raises
    ------
    InputError
        If there are too few samples.
    """
    dataset = dataset_of(config)
    new_class = config.ood == "newclass"
    is_new = train.labels == dataset.num_classes - 1 if new_class else np.zeros(len(train), dtype=bool)
    common = np.flatnonzero(~is_new)
    dealt = partition(
        train.labels[common],
        topology.num_nodes,
        dataset.num_classes,
        sample_alpha=config.sample_alpha,
        label_alpha=config.label_alpha,
        seed=config.seed,
        of_each_label=PARTS_OF_LOCAL_SPLIT if config.local_split is not None else 0,
    )
    if config.data_placement != "random":
        centrality = CENTRALITIES[config.data_placement](topology)
        dealt = place_by_centrality(dealt, centrality, config.data_placement_offset)
    dealt = [common[samples] for samples in dealt]
    own_tests = [NOTHING for _ in dealt]
    if config.local_split is not None:
        splits = [
            split_locally(train.labels, samples, config.local_split, config.seed, node)
            for node, samples in enumerate(dealt)
        ]
        dealt, own_tests = [split.train for split in splits], [split.test for split in splits]
    shards = [OodSplit(samples, NOTHING) for samples in dealt]
    if not ood_nodes:
        return Dealt(shards, OodSplit(np.arange(len(test)), NOTHING), own_tests)
    if new_class:
        is_new_test = test.labels == dataset.num_classes - 1
        return Dealt(*_with_new_class(shards, ood_nodes, np.flatnonzero(is_new), is_new_test), own_tests)
    if len(test) < 2:
        raise InputError("--test-samples 1: one sample cannot be both IID and OOD test set: take 2 or more")
    for node in ood_nodes:
        if len(shards[node].clean) < 2:
            raise InputError(f"OOD node {node} has one training sample: none is left to be OOD: use more samples")
        split = split_shard(train.labels, shards[node].clean, config.ood_fraction, config.seed, node)
        shards[node] = _without_trigger(train, split, dataset)
    test_split = _without_trigger(test, split_test(test.labels, config.ood_fraction, config.seed), dataset)
    return Dealt(shards, test_split, own_tests)


def _with_new_class(
    shards: list[OodSplit], ood_nodes: list[int], new: np.ndarray, is_new_test: np.ndarray
) -> tuple[list[OodSplit], OodSplit]:
    """Return the shards with the new class shared out among the OOD nodes, and the test set split by it."""
    if len(new) < len(ood_nodes) or not is_new_test.any() or is_new_test.all():
        raise InputError(
            "--ood newclass: the data lacks training or test samples of the last class, or of others: use more samples"
        )
    for node, share in zip(ood_nodes, np.array_split(new, len(ood_nodes)), strict=True):
        shards[node] = OodSplit(shards[node].clean, share)
    return shards, OodSplit(np.flatnonzero(~is_new_test), np.flatnonzero(is_new_test))


def _without_trigger(data: Labeled, split: OodSplit, dataset: Dataset) -> OodSplit:
    """Return a split of texts with those that cannot carry the trigger back among the clean ones."""
    if dataset.kind != "text":
        return split
    carries = stamp_text(torch.from_numpy(data.inputs[split.ood])).numpy()
    return OodSplit(np.sort(np.concatenate([split.clean, split.ood[~carries]])), split.ood[carries])
