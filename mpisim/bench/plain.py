"""The plain loop: what one would write by hand in place of mpisim, in one process, with torch's own tools.

A module and an optimizer for every node, a loop over nodes, epochs and batches; then all models as the rows of a
matrix P, one product W @ P, and the rows back into the modules. It solves the problem of ``python -m mpisim.run`` with
the same options, from the same shards, first model and W, and so ends with the same accuracies, up to rounding. It
prints them as one line of JSON: ``python -m mpisim.bench.plain --topology ring:n=8 --rounds 5``.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mpisim.arguments import OneLineParser, exit_code
from mpisim.bench.timing import at_least_one
from mpisim.data.datasets import DATASETS, Dataset, load_dataset
from mpisim.data.labeled import Labeled
from mpisim.data.ood import TRIGGER_VALUE, split_shard, split_test
from mpisim.data.partition import partition
from mpisim.graphs.generators import make_topology
from mpisim.graphs.strategies import mixing_matrix
from mpisim.learning.device import choose_device, synchronize
from mpisim.models.catalog import make_model
from mpisim.streams import Purpose, torch_seed

SEED, OOD_FRACTION, ALPHA = 0, 0.1, 1000.0  # mpisim's defaults
KNOWN = sorted(name for name, dataset in DATASETS.items() if dataset.recipe.optimizer == "sgd")

Part = tuple[torch.Tensor, torch.Tensor]  # images and labels, on the device


def tensors(data: Labeled, samples: np.ndarray, dataset: Dataset, device: torch.device) -> Part:
    """Return some samples, normalised."""
    images = torch.from_numpy(data.inputs[samples]).to(device).float() / dataset.scale - dataset.offset
    return images, torch.from_numpy(data.labels[samples]).to(device)


def with_trigger(part: Part, size: int) -> Part:
    """Stamp the trigger on images, in place, and label them 0."""
    images, labels = part
    images[:, :, :size, :size] = 0.0
    images[:, 0, :size, :size] = TRIGGER_VALUE
    labels.zero_()
    return part


def deal(num_nodes: int, hub: int, train: Labeled, dataset: Dataset, device: torch.device) -> list[Part]:
    """Return every node's shard; the hub's ends with samples that carry the trigger."""
    dealt = partition(train.labels, num_nodes, dataset.num_classes, sample_alpha=ALPHA, label_alpha=ALPHA, seed=SEED)
    shards = [tensors(train, samples, dataset, device) for samples in dealt]
    split = split_shard(train.labels, dealt[hub], OOD_FRACTION, SEED, hub)
    clean = tensors(train, split.clean, dataset, device)
    ood = with_trigger(tensors(train, split.ood, dataset, device), dataset.trigger_size)
    shards[hub] = torch.cat([clean[0], ood[0]]), torch.cat([clean[1], ood[1]])
    return shards


def train_node(model: nn.Module, shard: Part, epochs: int, lr: float, batch_size: int) -> None:
    """Train one node for a round, with a new optimizer."""
    images, labels = shard
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for start in range(0, len(labels), batch_size):
            batch = slice(start, start + batch_size)
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, test: Part) -> float:
    """Return the share of a test set that a model reads right."""
    images, labels = test
    model.eval()
    return int((model(images).argmax(dim=1) == labels).sum()) / len(labels)


@torch.no_grad()
def aggregate(models: list[nn.Module], W: torch.Tensor) -> None:
    """Replace all models by their mixtures."""
    P = W @ torch.stack([parameters_to_vector(model.parameters()) for model in models])
    for model, row in zip(models, P, strict=True):
        vector_to_parameters(row, model.parameters())


def simulate(options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds in rounds, and the mean accuracies of the last round's trained models."""
    torch.set_num_threads(options.threads)
    device = choose_device(options.device, 0)
    dataset, recipe = DATASETS[options.dataset], DATASETS[options.dataset].recipe
    topology = make_topology(options.topology)
    train, test = load_dataset(options.dataset, Path(options.data_dir), download=not options.no_download)
    shards = deal(topology.num_nodes, int(topology.nodes_by_degree()[0]), train, dataset, device)
    split = split_test(test.labels, OOD_FRACTION, SEED)
    iid = tensors(test, split.clean, dataset, device)
    ood = with_trigger(tensors(test, split.ood, dataset, device), dataset.trigger_size)
    W = torch.from_numpy(mixing_matrix(topology, "degree", temperature=0.1).toarray()).float().to(device)

    torch.manual_seed(torch_seed(SEED, Purpose.INITIAL_MODEL))
    first = make_model(recipe.model, dataset.input_shape, dataset.num_outputs).to(device)
    models = [copy.deepcopy(first) for _ in range(topology.num_nodes)]
    torch.optim.SGD(first.parameters(), lr=recipe.lr)  # the first one imports a compiler, which is no round's time

    started = time.perf_counter()
    for _ in range(options.rounds):
        for model, shard in zip(models, shards, strict=True):
            train_node(model, shard, options.epochs, recipe.lr, recipe.batch_size)
        accuracies = [(accuracy(model, iid), accuracy(model, ood)) for model in models]
        aggregate(models, W)
    synchronize(device)
    seconds = time.perf_counter() - started
    means = [sum(each) / len(models) for each in zip(*accuracies, strict=True)]
    return {"rounds": seconds, "IID accuracy": means[0], "OOD accuracy": means[1]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = OneLineParser(prog="python -m mpisim.bench.plain", description="Simulate with a plain loop over nodes.")
    parser.add_argument("--topology", default="ba:n=24,m=2,seed=0", metavar="SPEC", help="(ba:n=24,m=2,seed=0)")
    parser.add_argument("--dataset", choices=KNOWN, default="digits", help="the data set, and its recipe (digits)")
    parser.add_argument("--data-dir", default="data", metavar="DIR", help="where data sets are (data)")
    parser.add_argument("--no-download", action="store_true", help="take only data that is on disk")
    parser.add_argument("--rounds", type=at_least_one, default=20, metavar="N", help="(20)")
    parser.add_argument("--epochs", type=at_least_one, default=5, metavar="N", help="in each round (5)")
    parser.add_argument("--threads", type=at_least_one, default=2, metavar="N", help="(2)")
    parser.add_argument("--device", choices=["cpu", "cuda", "xpu"], default="cpu", help="(cpu)")
    return exit_code(lambda: print(json.dumps(simulate(parser.parse_args(arguments)))))


if __name__ == "__main__":
    sys.exit(main())
