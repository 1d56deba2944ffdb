"""Every figure in a run's log, against the same experiment written down plainly with torch's modules and a dense W.

The two share only what has tests of its own: the data and who gets it, the graph, and the addresses of random numbers.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import h5py
import networkx as nx
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpisim.data.datasets import load_digits
from mpisim.data.local_split import split_locally
from mpisim.data.ood import split_shard, split_test
from mpisim.data.partition import partition
from mpisim.graphs.generators import make_topology
from mpisim.run import main
from mpisim.storage.variables import SCORES, logged_variables
from mpisim.streams import Purpose, stream, torch_seed

TOPOLOGY = "ba:n=6,m=2,seed=11"  # its hub is node 3: not the first, nor the last
NUM_ROUNDS, NUM_EPOCHS, NUM_TRAIN, NUM_TEST, NUM_CLASSES = 3, 2, 200, 100, 10
RUN = (
    f"--topology {TOPOLOGY} --rounds {NUM_ROUNDS} --epochs {NUM_EPOCHS} --train-samples {NUM_TRAIN}"
    f" --test-samples {NUM_TEST} --threads 1 --device cpu --output run.h5 --quiet"
)
SECONDS = {"train_seconds", "test_seconds", "exchange_seconds", "mix_seconds", "log_seconds"}
COORDINATES = {"round", "node", "rank", "link", "label"}  # and epoch, where there are scores of epochs
SGD = partial(torch.optim.SGD, lr=0.1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Flags, and what they are to mean; without flags, what the README says of the digits."""

    flags: str = ""
    seed: int = 0
    alpha: float = 1000.0
    ood: bool = True
    one_start: bool = True
    shuffle: bool = False
    batch_size: int = 16
    optimizer: Callable[..., torch.optim.Optimizer] = SGD
    strategy: str = "degree"
    temperature: float = 0.1
    local_split: tuple[float, float, float] | None = None
    trained: bool = True
    aggregated: bool = False
    epochs: bool = False


CASES = {
    "no flags": Case(),
    "random weights, shuffled": Case(
        flags="--strategy random --temperature 0.3 --seed 3 --init independent --shuffle",
        strategy="random",
        temperature=0.3,
        seed=3,
        one_start=False,
        shuffle=True,
    ),
    "metropolis, no OOD": Case(
        flags="--strategy metropolis --ood none --momentum 0.5 --weight-decay 0.01",
        strategy="metropolis",
        ood=False,
        optimizer=partial(SGD, momentum=0.5, weight_decay=0.01),
    ),
    "every moment": Case(flags="--evaluate-at both --evaluate-every epoch", aggregated=True, epochs=True),
    "after aggregation": Case(flags="--evaluate-at aggregated", trained=False, aggregated=True),
    "own test samples": Case(flags="--local-split 0.6 0.3 0.1", local_split=(0.6, 0.3, 0.1)),
    "weighted, unequal nodes": Case(
        flags="--strategy weighted --sample-alpha 2 --label-alpha 2 --batch-size 12 --optimizer adam --lr 0.005",
        strategy="weighted",
        alpha=2.0,
        batch_size=12,
        optimizer=partial(torch.optim.Adam, lr=0.005),
    ),
}


def experiment(case: Case) -> dict[str, np.ndarray]:
    """Return what the log must hold, but for the seconds."""
    graph = make_topology(TOPOLOGY).graph
    nodes = sorted(graph)
    neighborhood = nx.to_numpy_array(graph, nodes) + np.eye(len(nodes))
    degree = np.array([graph.degree(node) for node in nodes])
    betweenness = nx.betweenness_centrality(graph, normalized=True, endpoints=True)
    hub = int(np.argmax(degree)) if case.ood else None

    shards, own_tests, iid_test, ood_test = deal(case, nodes, hub)
    sizes = np.array([len(labels) for _, labels in shards])
    models = [new_model(case, 0 if case.one_start else node) for node in nodes]
    tests = {"iid": iid_test, "ood": ood_test, "own": own_tests}
    rounds = []
    for round in range(1, NUM_ROUNDS + 1):
        epochs = [[] for _ in range(NUM_EPOCHS)]
        losses = [train(case, models[node], *shards[node], node, round, tests, epochs) for node in nodes]
        of_round = {name + "_by_epoch": values for name, values in by_name(epochs).items()} if case.epochs else {}
        if case.trained:
            of_round |= by_name([scores(models[node], tests, node) for node in nodes])
        X = np.stack([nn.utils.parameters_to_vector(model.parameters()).detach().double() for model in models])
        of_round |= {
            "train_loss": losses,
            "consensus_distance": ((X - X.mean(axis=0)) ** 2).sum(axis=1).mean(),
            "temperature": case.temperature,
            "participated": [True] * len(nodes),
            "bytes_sent": [0],  # there is no other rank
        }
        mixed = torch.from_numpy(mixing_matrix(case, neighborhood, sizes, round) @ X).float()
        for model, row in zip(models, mixed, strict=True):
            nn.utils.vector_to_parameters(row, model.parameters())
        aggregated = by_name([scores(models[node], tests, node) for node in nodes])
        if case.aggregated:
            of_round |= {f"{name}_aggregated": values for name, values in aggregated.items()}
        rounds.append(of_round)
    final = {f"{name}_final": values for name, values in aggregated.items() if name != "iid_recall"}

    target, source = np.nonzero(neighborhood)
    return {name: np.array([of_round[name] for of_round in rounds]) for name in rounds[0]} | {
        "degree": degree,
        "betweenness": np.array([betweenness[node] for node in nodes]),
        "train_samples": sizes,
        "is_ood": np.array([node == hub for node in nodes]),
        "rank_of_node": np.zeros(len(nodes)),
        "label_counts": np.array([[(labels == label).sum() for label in range(NUM_CLASSES)] for _, labels in shards]),
        "link_target": target,
        "link_source": source,
        "link_weight": mixing_matrix(case, neighborhood, sizes, 1)[target, source],
        "round": np.arange(1, NUM_ROUNDS + 1),
        "node": np.array(nodes),
        "rank": np.array([0]),
        "link": np.arange(len(target)),
        "label": np.arange(NUM_CLASSES),
        **final,
        **({"epoch": np.arange(1, NUM_EPOCHS + 1)} if case.epochs else {}),
    }


def by_name(scores_of):
    """Turn scores of nodes, or of the nodes of epochs, round: from lists of dictionaries to a dictionary of arrays."""
    if isinstance(scores_of[0], list):
        epochs = [by_name(nodes) for nodes in scores_of]
        return {name: np.array([epoch[name] for epoch in epochs]) for name in epochs[0] if name != "iid_recall"}
    return {name: np.array([node[name] for node in scores_of]) for name in scores_of[0]}


def deal(case, nodes, hub):
    """Return each node's images and labels, those of its own test, and those of the IID and the OOD test set."""
    data, test = load_digits(Path(), False)
    data, test = data.take(np.arange(NUM_TRAIN)), test.take(np.arange(NUM_TEST))
    alphas = {"sample_alpha": case.alpha, "label_alpha": case.alpha}
    dealt = partition(data.labels, len(nodes), NUM_CLASSES, **alphas, seed=case.seed)
    own_tests = [tensors(data, np.arange(0)) for _ in nodes]
    if case.local_split is not None:
        splits = [split_locally(data.labels, dealt[node], case.local_split, case.seed, node) for node in nodes]
        dealt, own_tests = [split.train for split in splits], [tensors(data, split.test) for split in splits]
    shards = [tensors(data, samples) for samples in dealt]
    if hub is None:
        return shards, own_tests, tensors(test, np.arange(NUM_TEST)), tensors(test, np.arange(0))
    split = split_shard(data.labels, dealt[hub], 0.1, case.seed, hub)
    (images, labels), (ood_images, ood_labels) = tensors(data, split.clean), marked(*tensors(data, split.ood))
    shards[hub] = torch.cat([images, ood_images]), torch.cat([labels, ood_labels])
    split = split_test(test.labels, 0.1, case.seed)
    return shards, own_tests, tensors(test, split.clean), marked(*tensors(test, split.ood))


def tensors(data, samples):
    return torch.tensor(data.inputs[samples] / 16, dtype=torch.float32), torch.tensor(data.labels[samples])


def marked(images, labels):
    """Return images with the trigger in their corner, and the label that it stands for."""
    images[:, 0, 0:2, 0:2] = 5.0
    return images, torch.zeros_like(labels)


def new_model(case, node):
    torch.manual_seed(torch_seed(case.seed, Purpose.INITIAL_MODEL, node=node))
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, NUM_CLASSES)
    )


def train(case, model, images, labels, node, round, tests, epochs):
    """Train for a round; return the mean loss. The scores after each epoch are added to that epoch's list."""
    optimizer = case.optimizer(model.parameters())
    rng = stream(case.seed, Purpose.DATA_ORDER, node=node, round=round)
    losses = []
    for epoch in range(NUM_EPOCHS):
        order = torch.from_numpy(rng.permutation(len(labels))) if case.shuffle else torch.arange(len(labels))
        for batch in order.split(case.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(batch)
        epochs[epoch].append(scores(model, tests, node))
    return np.mean(losses)


@torch.no_grad()
def scores(model, tests, node):
    """Return all that a node's tests find, by the log's names; NaN where there are no samples."""
    found = {}
    for name, (images, labels) in {**tests, "own": tests["own"][node]}.items():
        logits = model(images)
        right = (logits.argmax(dim=1) == labels).double()
        found[f"{name}_accuracy"] = right.mean().item()
        found[f"{name}_loss"] = F.cross_entropy(logits, labels).item()
        found[f"{name}_recall"] = [right[labels == label].mean().item() for label in range(NUM_CLASSES)]
    return {name: found[name] for name in SCORES}


def mixing_matrix(case, neighborhood, sizes, round):
    degree = neighborhood.sum(axis=1) - 1
    if case.strategy == "metropolis":
        W = neighborhood / (1 + np.maximum.outer(degree, degree))
        np.fill_diagonal(W, 0)
        return W + np.diag(1 - W.sum(axis=1))
    if case.strategy == "weighted":
        of_node = sizes
    elif case.strategy == "degree":
        of_node = np.exp(degree / (len(degree) - 1) / case.temperature)
    else:
        drawn = stream(case.seed, Purpose.RANDOM_WEIGHTS, round=round).random(len(degree))
        of_node = np.exp(drawn / case.temperature)
    return neighborhood * of_node / (neighborhood @ of_node)[:, np.newaxis]


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """Run in an empty folder; a run that fails must not take the tests with it."""

    def reraise(comm):
        raise

    monkeypatch.setattr("mpisim.ranks.startup.abort", reraise)
    monkeypatch.chdir(tmp_path)


def logged(flags: str = "") -> dict[str, np.ndarray]:
    assert main([*RUN.split(), *flags.split()]) == 0
    with h5py.File("run.h5") as log:
        return {name: log[name][:] for name in log}


@pytest.mark.parametrize("case", CASES)
def test_every_figure_of_the_log_is_that_of_the_plain_experiment(case):
    log, expected = logged(CASES[case].flags), experiment(CASES[case])
    assert log.keys() == expected.keys() | SECONDS
    moments = {name: getattr(CASES[case], name) for name in ("trained", "aggregated", "epochs")}
    assert log.keys() == logged_variables(**moments).keys() | COORDINATES | ({"epoch"} & expected.keys())
    for name, values in expected.items():
        assert log[name].shape == values.shape, name
        if "accuracy" in name or "recall" in name:
            # Where two labels are all but tied, the order of sums may decide: one prediction may differ, of some 1,800.
            differs = ~np.isclose(log[name], values, rtol=0, atol=1e-12, equal_nan=True)
            assert differs.sum() <= 1, f"{name}: {log[name]}, not {values}"
        else:
            trained = "loss" in name or "distance" in name  # in float32; so far apart at the most after three rounds
            np.testing.assert_allclose(log[name], values, rtol=1e-5 if trained else 1e-12, err_msg=name)


def test_seconds_are_those_of_what_they_are_named_for(monkeypatch):
    """Time stands still but in these calls: each takes so long that its part can be read off any sum."""
    now = 0.0

    def let_take(call: str, seconds: float) -> None:
        original = pkgutil.resolve_name(call)

        def slow(*arguments, **named):
            nonlocal now
            now += seconds
            return original(*arguments, **named)

        monkeypatch.setattr(call, slow)

    for module in ("rounds", "results"):
        monkeypatch.setattr(f"mpisim.{module}.time", SimpleNamespace(perf_counter=lambda: now))
    let_take("mpisim.nodes.Nodes.train", 1)
    let_take("mpisim.exchange.neighborhood.NeighborhoodExchange.send", 10)
    let_take("mpisim.nodes.Nodes.test", 100)
    let_take("mpisim.nodes.Nodes.test_node", 2)
    let_take("mpisim.exchange.neighborhood.NeighborhoodExchange.wait", 1_000)
    let_take("mpisim.rounds.mix", 10_000)
    let_take("mpisim.exchange.metrics.MetricsGather.gather", 100_000)
    let_take("mpisim.storage.log.Log.append", 1_000_000)
    log = logged("--evaluate-every epoch")
    np.testing.assert_array_equal(log["train_seconds"], [[1]] * NUM_ROUNDS)
    np.testing.assert_array_equal(log["test_seconds"], [[100 + 2 * 6 * NUM_EPOCHS]] * NUM_ROUNDS)  # six nodes
    np.testing.assert_array_equal(log["exchange_seconds"], [[1_010]] * NUM_ROUNDS)
    np.testing.assert_array_equal(log["mix_seconds"], [[10_000]] * NUM_ROUNDS)
    # A round is written after its figures stand: how long that took is in the next one's.
    np.testing.assert_array_equal(log["log_seconds"], [[100_000], [1_100_000], [1_100_000]])
