"""Local training gives what torch's own optimizer objects give in a plain loop, and changes one row of X alone."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mpisim.data.shards import Samples
from mpisim.learning.optimizers import OPTIMIZERS, Optimizer, OptimizerSettings
from mpisim.learning.parameters import BoundModel, allocate_rows
from mpisim.learning.training import Proximal, train_node

NUM_SAMPLES, BATCH_SIZE = 23, 5  # the last batch has 3 samples
SHARD = Samples(
    torch.randn(NUM_SAMPLES, 1, 2, 3, generator=torch.Generator().manual_seed(1)), torch.arange(NUM_SAMPLES) % 4
)
SHUFFLED = [torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
CASES = [
    OptimizerSettings(name="sgd", lr=0.3),
    OptimizerSettings(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01),
    OptimizerSettings(name="adam", lr=0.01),
    OptimizerSettings(name="adam", lr=0.01, betas=(0.5, 0.9), weight_decay=0.1),
    OptimizerSettings(name="adamw", lr=0.01, betas=(0.8, 0.99), weight_decay=0.1),
]


def make_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))


def optimizer_object(settings, parameters):
    common = {"lr": settings.lr, "weight_decay": settings.weight_decay, "foreach": True}
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, momentum=settings.momentum, **common)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.name]
    return kind(parameters, betas=settings.betas, **common)


def plain_loop(row, optimizer, orders):
    """Train a row the way torch's documentation does; return the mean loss over samples."""
    bound = BoundModel(make_model())  # a row like the other: the same alignment makes the same bits
    bound.bind(row)
    optimizer = optimizer(list(bound.module.parameters()))
    total = 0.0
    for order in orders:
        for start in range(0, NUM_SAMPLES, BATCH_SIZE):
            # A view where the order is the shard's: a batch's alignment, too, shows in the bits.
            batch = slice(start, start + BATCH_SIZE) if order is None else order[start : start + BATCH_SIZE]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(bound.module(SHARD.inputs[batch]), SHARD.labels[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(SHARD.labels[batch])
    return total / (NUM_SAMPLES * len(orders))


def new_step(model, settings):
    return Optimizer(settings, model.parameter_layout, 1, torch.device("cpu")).bind(model.parameters, 0)


@pytest.fixture
def rows():
    """Return X with four nodes, every one with its own model."""
    torch.manual_seed(0)
    model = BoundModel(make_model())
    rows = allocate_rows(4, model.layout.num_columns, torch.device("cpu"))
    for row in rows:
        model.read(make_model(), row)
    return rows


def train(row, settings, orders):
    model = BoundModel(make_model())
    return train_node(model, row, SHARD, new_step(model, settings), BATCH_SIZE, orders)


def test_every_optimizer_has_a_case():
    assert {settings.name for settings in CASES} == set(OPTIMIZERS)


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("orders", [[None], [None] * 3, SHUFFLED], ids=["one epoch", "three epochs", "shuffled"])
def test_training_equals_the_plain_loop_with_an_optimizer_object(rows, settings, orders):
    rows[1] = rows[2]
    loss = train(rows[1], settings, orders)
    expected = plain_loop(rows[2], lambda parameters: optimizer_object(settings, parameters), orders)
    np.testing.assert_array_equal(rows[1].numpy(), rows[2].numpy())
    assert loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("settings", CASES[1:], ids=str)
def test_the_optimizers_state_is_new_in_each_round(rows, settings):
    rows[1:] = rows[0]
    for _ in range(2):
        train(rows[0], settings, [None])
        plain_loop(rows[1], lambda parameters: optimizer_object(settings, parameters), [None])
    np.testing.assert_array_equal(rows[0].numpy(), rows[1].numpy())
    train(rows[2], settings, [None, None])  # state kept from the first epoch to the second
    assert not np.allclose(rows[0].numpy(), rows[2].numpy(), rtol=1e-3)


def test_training_changes_its_row_and_neither_other_rows_nor_the_shard(rows):
    before, inputs, labels = rows.clone(), SHARD.inputs.clone(), SHARD.labels.clone()
    train(rows[1], CASES[1], SHUFFLED)
    assert [torch.equal(row, old) for row, old in zip(rows, before, strict=True)] == [True, False, True, True]
    assert torch.equal(SHARD.inputs, inputs)
    assert torch.equal(SHARD.labels, labels)


def test_a_model_last_used_for_tests_trains_in_training_mode(rows):
    model = BoundModel(nn.Sequential(make_model(), nn.Dropout(1.0)))  # in training, every logit is dropped: loss log 4
    model.module.eval()
    step = new_step(model, CASES[0])
    assert train_node(model, rows[0], SHARD, step, BATCH_SIZE, [None]) == pytest.approx(np.log(4), rel=1e-6)


def test_training_imports_no_compiler():
    script = """
import sys, torch
from mpisim.data.shards import Samples
from mpisim.learning.parameters import BoundModel, allocate_rows
from mpisim.learning.optimizers import OPTIMIZERS, Optimizer, OptimizerSettings
from mpisim.learning.training import train_node
model = BoundModel(torch.nn.Linear(2, 2))
rows = allocate_rows(1, 6, torch.device("cpu"))
for name in OPTIMIZERS:
    shard = Samples(torch.ones(3, 2), torch.tensor([0, 1, 0]))
    optimizer = Optimizer(OptimizerSettings(name=name, lr=0.1), model.parameter_layout, 1, torch.device("cpu"))
    train_node(model, rows[0], shard, optimizer.bind(model.parameters, 0), 2, [None])
print(bool(rows.any()), "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("strength", [0.3, 2.0])
def test_the_proximal_term_is_the_gradient_of_the_squared_distances(rows, strength):
    """Against autograd on the term as it is written down, added to the loss."""
    neighbors = rows[2:].clone()
    rows[1] = rows[0]
    bound = BoundModel(make_model())
    views = [bound.layout.views(row) for row in neighbors]
    total = [torch.stack(same).sum(dim=0) for same in zip(*views, strict=True)]
    step = new_step(bound, CASES[1])
    loss = train_node(bound, rows[0], SHARD, step, BATCH_SIZE, [None], proximal=Proximal(strength, 2, total))

    plain = BoundModel(make_model())
    plain.bind(rows[1])
    optimizer = optimizer_object(CASES[1], list(plain.module.parameters()))
    losses = 0.0
    for start in range(0, NUM_SAMPLES, BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        optimizer.zero_grad()
        cross_entropy = nn.functional.cross_entropy(plain.module(SHARD.inputs[batch]), SHARD.labels[batch])
        x = torch.cat([parameter.flatten() for parameter in plain.module.parameters()])
        (cross_entropy + strength / 2 * sum((x - neighbor).square().sum() for neighbor in neighbors)).backward()
        optimizer.step()
        losses += cross_entropy.item() * len(SHARD.labels[batch])
    np.testing.assert_allclose(rows[0].numpy(), rows[1].numpy(), rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(losses / NUM_SAMPLES, rel=1e-4)


@pytest.mark.parametrize("settings", CASES[1:], ids=str)
def test_a_step_that_is_kept_goes_on_where_it_was(rows, settings):
    rows[1] = rows[0]
    model = BoundModel(make_model())
    step = new_step(model, settings)
    for _ in range(2):
        train_node(model, rows[0], SHARD, step, BATCH_SIZE, [None])
        train_node(model, rows[3], SHARD, new_step(model, settings), BATCH_SIZE, [None])  # another node in between
    plain_loop(rows[1], lambda parameters: optimizer_object(settings, parameters), [None, None])
    np.testing.assert_array_equal(rows[0].numpy(), rows[1].numpy())


def test_a_transform_gives_the_inputs_to_train_on(rows):
    rows[1] = rows[0]
    seen = []

    def double(inputs, batch):
        seen.append(batch)
        return inputs * 2

    model = BoundModel(make_model())
    train_node(model, rows[0], SHARD, new_step(model, CASES[0]), BATCH_SIZE, [None], transform=double)
    doubled = Samples(SHARD.inputs * 2, SHARD.labels)
    train_node(model, rows[1], doubled, new_step(model, CASES[0]), BATCH_SIZE, [None])
    np.testing.assert_allclose(rows[0].numpy(), rows[1].numpy(), rtol=1e-4, atol=1e-6)
    assert [(batch.start, batch.stop) for batch in seen] == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
