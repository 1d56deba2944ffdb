"""An experiment written down plainly, with torch's modules and optimizers, one node after the other, and a dense W.

It shares with the simulator only what has tests of its own: the graph, who is dealt which samples, GPT-2, and the
addresses of random numbers. What it finds must be in the log of a run with the same options.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import h5py
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from plain_data import NUM_TEST, NUM_TRAIN, TINYMEM, deal, moved
from plain_weights import CENTRALITIES, hears, linked, mixing_matrix, takes_part
from suite_device import FEW, ROUNDING, on_gpu
from torch import nn

from mpisim.graphs.generators import make_topology
from mpisim.models.language import gpt2_1layer
from mpisim.run import main
from mpisim.storage.variables import SCORES, WITHOUT_RECALL, logged_variables
from mpisim.streams import Purpose, stream, torch_seed

TOPOLOGY = "ba:n=6,m=2,seed=11"  # its hub is node 3: not the first, nor the last
NUM_ROUNDS, NUM_EPOCHS = 3, 2
RUN = (
    f"--topology {TOPOLOGY} --rounds {NUM_ROUNDS} --epochs {NUM_EPOCHS} --train-samples {NUM_TRAIN}"
    f" --test-samples {NUM_TEST} --threads 1 --output run.h5 --quiet"
)
TEXT = (
    f"--dataset tinymem --model gpt2-1layer --tinymem-modulo {TINYMEM.modulo} --tinymem-context {TINYMEM.context}"
    f" --tinymem-examples {TINYMEM.examples} --tinymem-tests {TINYMEM.tests} --train-samples 120 --test-samples 60"
)
SECONDS = {"train_seconds", "test_seconds", "exchange_seconds", "mix_seconds", "log_seconds", "peak_memory"}
COORDINATES = {"round", "node", "rank", "link", "label"}  # and epoch, where there are scores of epochs
MAX_COORDINATES = 65_536  # of a model, that the consensus distance looks at

SGD = partial(torch.optim.SGD, lr=0.1)
ADAM = partial(torch.optim.Adam, lr=0.005)


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def text_model():
    return gpt2_1layer((TINYMEM.context,), 14)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Flags, and what they are to mean; without flags, what the README says of the digits."""

    flags: str = ""
    seed: int = 0
    topology: str = TOPOLOGY

    sample_alpha: float = 1000.0
    label_alpha: float = 1000.0
    placement: tuple[str, int] | None = None
    local_split: tuple[float, float, float] | None = None
    augment: bool = False
    ood: str = "trigger"
    ood_nodes: tuple[int, ...] = (3,)
    ood_fraction: float = 0.1
    trigger_position: str = "corner"
    trigger_label: str = "zero"

    model: Callable[[], nn.Module] = perceptron
    one_start: bool = True
    shuffle: bool = False
    batch_size: int = 16
    optimizer: Callable[..., torch.optim.Optimizer] = SGD
    keep_optimizer_state: bool = False
    proximal: float = 0.0
    no_train: bool = False

    strategy: str = "degree"
    normalize: str = "softmax"
    inverse: tuple[float, ...] = (10.0,) * NUM_ROUNDS  # 1 / temperature, round by round
    participation: float = 1.0
    link_dropout: float = 0.0

    trained: bool = True
    aggregated: bool = False
    epochs: bool = False

    @property
    def text(self) -> bool:
        return self.model is text_model

    @property
    def num_labels(self) -> int:
        return 5 if self.text else 10

    @property
    def moments(self) -> dict[str, bool]:
        return {"trained": self.trained, "aggregated": self.aggregated, "epochs": self.epochs}


def experiment(case: Case) -> dict[str, np.ndarray]:
    """Return what the log must hold, but for the seconds."""
    graph = make_topology(case.topology).graph
    nodes = sorted(graph)
    ood_nodes = () if case.ood == "none" else case.ood_nodes
    shards, tests = deal(case, graph, ood_nodes)
    sizes = np.array([len(labels) for _, labels, _ in shards])
    models = [new_model(case, 0 if case.one_start else node) for node in nodes]
    optimizers = [case.optimizer(model.parameters()) for model in models]
    rounds, matrices = [], []
    for round in range(1, NUM_ROUNDS + 1):
        heard, part = hears(case, graph, round), takes_part(case, len(nodes), round)
        begun = [layers(model) for model in models]
        losses, by_epoch = [], []
        for node, model in enumerate(models):
            if not case.keep_optimizer_state:
                optimizers[node] = case.optimizer(model.parameters())
            neighbors = [begun[other] for other in sorted(heard[node] - {node})]
            trains = part[node] and not case.no_train
            epochs = train(case, model, optimizers[node], shards[node], neighbors, node, round) if trains else []
            found = [(loss, scores(case, model, tests, node)) for loss in epochs]
            found = found or [(np.nan, scores(case, model, tests, node))] * NUM_EPOCHS
            losses.append(np.mean([loss for loss, _ in found]))
            by_epoch.append([score for _, score in found])
        X = torch.stack([torch.cat([tensor.flatten() for tensor in state(model)]) for model in models]).double()
        matrices.append(mixing_matrix(case, graph, sizes, round, [layers(model) for model in models]))
        for model, row in zip(models, torch.from_numpy(matrices[-1]) @ X, strict=True):
            replace_state(model, row)

        aggregated = by_name([scores(case, model, tests, node) for node, model in enumerate(models)])
        of_round = by_name([of_node[-1] for of_node in by_epoch]) if case.trained else {}
        if case.aggregated:
            of_round |= {f"{name}_aggregated": values for name, values in aggregated.items()}
        if case.epochs:
            of_round |= {
                f"{name}_by_epoch": np.array(
                    [[of_node[epoch][name] for of_node in by_epoch] for epoch in range(NUM_EPOCHS)]
                )
                for name in WITHOUT_RECALL
            }
        rounds.append(
            of_round
            | {
                "train_loss": losses,
                "consensus_distance": distance(X),
                "temperature": 1 / case.inverse[round - 1],
                "participated": part,
                "bytes_sent": [0],  # there is no other rank
            }
        )

    betweenness = CENTRALITIES["betweenness"](graph)
    links = [(node, other) for node in nodes for other in sorted([node, *linked(case, graph)[node]])]
    follows_from_models = case.strategy.endswith("similarity")
    return {name: np.array([of_round[name] for of_round in rounds]) for name in rounds[0]} | {
        **{f"{name}_final": aggregated[name] for name in WITHOUT_RECALL},
        "degree": np.array([graph.degree(node) for node in nodes]),
        "betweenness": np.array([betweenness[node] for node in nodes]),
        "train_samples": sizes,
        "is_ood": np.isin(nodes, ood_nodes),
        "rank_of_node": np.zeros(len(nodes)),
        "label_counts": np.array([np.bincount(labels, minlength=case.num_labels) for _, labels, _ in shards]),
        "link_target": np.array([node for node, _ in links]),
        "link_source": np.array([other for _, other in links]),
        "link_weight": np.array([np.nan if follows_from_models else matrices[0][link] for link in links]),
        "round": np.arange(1, NUM_ROUNDS + 1),
        "node": np.array(nodes),
        "rank": np.array([0]),
        "link": np.arange(len(links)),
        "label": np.arange(case.num_labels),
        **({"epoch": np.arange(1, NUM_EPOCHS + 1)} if case.epochs else {}),
    }


def new_model(case, node):
    torch.manual_seed(torch_seed(case.seed, Purpose.INITIAL_MODEL, node=node))
    return case.model()


def layers(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def state(model):
    """Return the tensors that are averaged: all but the integer buffers."""
    return [parameter.detach() for parameter in model.parameters()] + [
        buffer for buffer in model.buffers() if buffer.is_floating_point()
    ]


def replace_state(model, row):
    for tensor, values in zip(state(model), row.split([tensor.numel() for tensor in state(model)]), strict=True):
        tensor.copy_(values.view_as(tensor))


def distance(X):
    count = min(X.shape[1], MAX_COORDINATES)
    looked_at = X[:, [number * X.shape[1] // count for number in range(count)]]
    return ((looked_at - looked_at.mean(dim=0)) ** 2).sum(dim=1).mean().item()


def train(case, model, optimizer, shard, neighbors, node, round):
    """Train for a round; yield the mean loss of each epoch after it."""
    inputs, labels, is_ood = shard
    torch.manual_seed(torch_seed(case.seed, Purpose.DROPOUT, node=node, round=round))
    order_rng, augmentation_rng = (
        stream(case.seed, purpose, node=node, round=round) for purpose in (Purpose.DATA_ORDER, Purpose.AUGMENTATION)
    )
    for _ in range(NUM_EPOCHS):
        order = order_rng.permutation(len(labels)) if case.shuffle else np.arange(len(labels))
        model.train()
        losses = []
        for start in range(0, len(order), case.batch_size):
            batch = order[start : start + case.batch_size]
            taken = inputs[batch]
            if case.augment:
                taken = moved(taken, [is_ood[sample] for sample in batch], augmentation_rng)
            logits, targets = predictions(case, model, taken, labels[batch])
            loss = F.cross_entropy(logits, targets)
            pull = sum(
                ((mine - theirs) ** 2).sum()
                for neighbor in neighbors
                for mine, theirs in zip(model.parameters(), neighbor, strict=True)
            )
            optimizer.zero_grad()
            (loss + case.proximal / 2 * pull if case.proximal else loss).backward()
            optimizer.step()
            losses += [loss.item()] * len(batch)
        model.eval()
        yield np.mean(losses)


def predictions(case, model, inputs, labels):
    """Return logits, and what they should have said: the labels or, of a text, each next token."""
    if not case.text:
        return model(inputs), labels
    logits = model(inputs)[:, :-1]
    return logits.reshape(-1, logits.shape[2]), inputs[:, 1:].reshape(-1)


@torch.no_grad()
def scores(case, model, tests, node):
    """Return all that a node's tests find, by the log's names; NaN where there are no samples."""
    found = {}
    model.eval()
    for name, (inputs, labels) in {**tests, "own": tests["own"][node]}.items():
        logits, targets = predictions(case, model, inputs, labels)
        right = (logits.argmax(dim=1) == targets).double()
        found[f"{name}_accuracy"] = right.mean().item()
        found[f"{name}_loss"] = F.cross_entropy(logits, targets).item()
        of_sample = right.view(len(labels), -1) if len(labels) else right
        found[f"{name}_recall"] = [of_sample[labels == label].mean().item() for label in range(case.num_labels)]
    return {name: found[name] for name in SCORES}


def by_name(found):
    """Turn scores of nodes from a list of dictionaries to a dictionary of arrays."""
    return {name: np.array([of_node[name] for of_node in found]) for name in found[0]}


def logged(flags: str = "") -> dict[str, np.ndarray]:
    """Return the log of a run with these flags, in this folder."""
    assert main([*RUN.split(), *flags.split()]) == 0
    with h5py.File("run.h5") as log:
        return {name: log[name][:] for name in log}


def assert_is_logged(expected: dict[str, np.ndarray], log: dict[str, np.ndarray], case: Case) -> None:
    """Compare a run's log with what the experiment found, variable by variable."""
    assert log.keys() == expected.keys() | SECONDS
    assert log.keys() == logged_variables(**case.moments).keys() | COORDINATES | ({"epoch"} & expected.keys())
    few, rounding = (FEW, ROUNDING) if on_gpu() else (1, 1e-5)
    for name, values in expected.items():
        assert log[name].shape == values.shape, name
        if "accuracy" in name or "recall" in name:
            # Where two labels are all but tied, the order of sums may decide: one prediction may differ, of some 1,800.
            differs = ~np.isclose(log[name], values, rtol=0, atol=1e-12, equal_nan=True)
            assert differs.sum() <= few, f"{name}: {log[name]}, not {values}"
        else:
            trained = "loss" in name or "distance" in name  # in float32; so far apart at the most after three rounds
            np.testing.assert_allclose(log[name], values, rtol=rounding if trained else 1e-12, err_msg=name)
