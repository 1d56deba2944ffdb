"""A stack of nodes trains to what each of its nodes trains to alone; perceptrons to the same bits in any stack."""

import numpy as np
import pytest
import torch
from torch import nn

from mpisim import Config
from mpisim.data.shards import Samples, Splits
from mpisim.learning import engine
from mpisim.learning.batches import BatchTable, padded_batch_size
from mpisim.learning.engine import Engine, choose_engine
from mpisim.learning.evaluation import evaluate, evaluate_stack
from mpisim.learning.parameters import BoundModel, allocate_rows
from mpisim.learning.perceptron import is_perceptron, logits
from mpisim.learning.stack import StackPlan
from mpisim.local_training import LocalTraining
from mpisim.models.dropout import Dropout, use_dropout
from mpisim.models.language import Gpt2

CPU = torch.device("cpu")
SIZES = np.array([7, 12, 3, 12, 25, 1, 10])  # with batches of 5: other numbers of steps, and short last batches
NUM_ROUNDS, NUM_EPOCHS, BATCH_SIZE, NUM_CLASSES = 5, 2, 5, 4


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, NUM_CLASSES))


def norm_and_dropout():
    return use_dropout(
        nn.Sequential(
            nn.Conv2d(1, 3, 2, bias=False),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(18, NUM_CLASSES),
        )
    )


def text():
    return Gpt2(6, 14, num_layers=1)


MODELS = {"perceptron": perceptron, "BatchNorm and dropout": norm_and_dropout, "text": text}
OPTIONS = {
    "sgd": {},
    "weight decay": {"weight_decay": 0.1},
    "momentum, kept": {"momentum": 0.9, "keep_optimizer_state": True},
    "adam": {"optimizer": "adam", "lr": 0.01},
    "adamw, kept": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1, "keep_optimizer_state": True},
    "shuffled": {"shuffle": True},
    "augmented": {"augment": True},
    "proximal": {"proximal": 0.1},
}


def make_splits(is_text):
    torch.manual_seed(3)
    total = int(SIZES.sum())
    inputs = torch.randint(14, (total, 6)) if is_text else torch.randn(total, 1, 4, 3)
    ends = np.cumsum(SIZES)
    labels = torch.randint(NUM_CLASSES, (total,))
    return Splits(Samples(inputs, labels), ends - SIZES, ends - (SIZES > 9), ends)


def train(make, options, engine, *, takes_part=None, after_epoch=None, recorder=None):
    """Train all nodes for some rounds; return the training, and the losses of each round."""
    torch.manual_seed(0)
    is_text = make is text
    model = BoundModel(make(), "text" if is_text else "image")
    parameters = allocate_rows(len(SIZES), model.layout.num_columns, CPU)
    for row in parameters:
        model.read(make(), row)
    config = Config(epochs=NUM_EPOCHS, batch_size=BATCH_SIZE, **({"lr": 0.05} | options))
    counters = [model.new_counters() for _ in SIZES]
    own = np.arange(len(SIZES)) * 2 + 1
    splits = make_splits(is_text)
    largest = int(SIZES.max())
    training = LocalTraining(config, engine, own, splits, largest, model, parameters, counters, 0.0, recorder)
    sums = torch.randn(parameters.shape), np.arange(len(SIZES)) % 3
    losses = []
    for round in range(1, NUM_ROUNDS + 1):
        part = np.ones(len(SIZES), dtype=bool) if takes_part is None else takes_part[round - 1]
        losses.append(training.train(round, part, sums if config.proximal else None, after_epoch))
    return training, np.array(losses)


def assert_close(found, expected):
    (trained, losses), (wanted, wanted_losses) = found, expected
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
    for row, wanted_row in zip(trained.parameters, wanted.parameters, strict=True):
        assert (row - wanted_row).norm() <= 1e-5 * wanted_row.norm()
    for own, wanted_own in zip(trained.counters, wanted.counters, strict=True):
        assert [counter.tolist() for counter in own] == [counter.tolist() for counter in wanted_own]


@pytest.mark.parametrize("stack", [1, 3, 7])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_stack_trains_to_what_its_nodes_train_to_alone(make, options, stack):
    if make is text and options.get("augment"):
        pytest.skip("is for images")
    if make is text:
        options = options | {"lr": 1e-4}  # at larger ones a rounding may decide on which side of ReLU's kink a value is
    alone, stacked = (train(make, options, engine) for engine in (Engine(False, 1), Engine(True, stack)))
    if make is text and "adam" in options.get("optimizer", ""):
        # The bias of keys has no gradient but rounding, which Adam takes for one: the models agree, not every scalar.
        np.testing.assert_allclose(stacked[1], alone[1], rtol=1e-5)
    else:
        assert_close(stacked, alone)
    assert alone[1].max() < 10  # a run that diverges would be close to anything


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_perceptron_has_the_same_bits_in_any_stack(options):
    trained = [train(perceptron, options, Engine(True, stack)) for stack in (1, 2, 3, 7)]
    for training, losses in trained[1:]:
        assert torch.equal(training.parameters, trained[0][0].parameters)
        np.testing.assert_array_equal(losses, trained[0][1])


@pytest.mark.parametrize("make", [perceptron, norm_and_dropout])
def test_nodes_that_sit_out_stay_as_they_are(make):
    takes_part = np.random.default_rng(0).random((NUM_ROUNDS, len(SIZES))) < 0.5
    takes_part[:, 2] = False
    options = {"momentum": 0.9, "keep_optimizer_state": True}
    found = train(make, options, Engine(True, 3), takes_part=takes_part)
    assert_close(found, train(make, options, Engine(False, 1), takes_part=takes_part))
    np.testing.assert_array_equal(np.isnan(found[1]), ~takes_part)


@pytest.mark.parametrize("engine", [Engine(False, 1), Engine(True, 3)], ids=str)
def test_every_node_is_as_it_stands_after_each_of_its_epochs(engine):
    """What ``after_epoch`` sees is the model after so many epochs: that of a run of fewer epochs."""
    seen = {}

    def note(position, epoch):
        seen.setdefault((position, epoch), []).append(True)

    train(perceptron, {}, engine, after_epoch=note)
    assert seen.keys() == {(position, epoch) for position in range(len(SIZES)) for epoch in (1, 2)}
    assert all(len(times) == NUM_ROUNDS for times in seen.values())

    rows = {}
    config_epochs = {}
    for epochs in (1, 2):
        single = make_training(engine, epochs)

        def keep(position, epoch, single=single, epochs=epochs):
            rows[epochs, position, epoch] = single.parameters[position].clone()

        single.train(1, np.ones(len(SIZES), dtype=bool), None, keep)
        config_epochs[epochs] = single.parameters
    for position in range(len(SIZES)):
        assert torch.equal(rows[2, position, 1], config_epochs[1][position])
        assert torch.equal(rows[2, position, 2], config_epochs[2][position])


def make_training(engine, epochs):
    torch.manual_seed(0)
    model = BoundModel(perceptron())
    parameters = allocate_rows(len(SIZES), model.layout.num_columns, CPU)
    for row in parameters:
        model.read(perceptron(), row)
    config = Config(epochs=epochs, batch_size=BATCH_SIZE)
    own, counters = np.arange(len(SIZES)), [[] for _ in SIZES]
    return LocalTraining(config, engine, own, make_splits(False), int(SIZES.max()), model, parameters, counters, 0.0)


@pytest.mark.parametrize("width", [None, 16])
def test_a_plan_takes_every_sample_once_an_epoch_in_its_order(width):
    splits = make_splits(False)
    rng = np.random.default_rng(1)
    nodes = np.array([1, 4, 2, 6])
    orders = [[rng.permutation(int(SIZES[node])) for _ in range(NUM_EPOCHS)] for node in nodes]
    table = BatchTable(splits, BATCH_SIZE, NUM_EPOCHS, width)
    table.set_orders(dict(zip(nodes.tolist(), orders, strict=True)))
    plan = StackPlan(table, nodes, NUM_EPOCHS)
    assert SIZES[plan.nodes].tolist() == sorted(SIZES[nodes], reverse=True)
    seen = {int(node): [] for node in nodes}
    for step, parts in enumerate(plan.parts(np.zeros(4, dtype=np.int64))):
        for part, part_width in parts:
            batch = plan.take(step, part, part_width, None)
            np.testing.assert_allclose(batch.weights.sum(dim=1), 1, rtol=1e-6)
            for row, node in enumerate(plan.nodes[part]):
                real = batch.weights[row] > 0
                seen[int(node)] += batch.samples.labels[row][real].tolist()
                if width is None:
                    assert real.all()
                else:
                    assert len(real) == width
    for node, node_orders in zip(nodes, orders, strict=True):
        labels = splits.of(int(node)).labels
        assert seen[int(node)] == [int(labels[sample]) for order in node_orders for sample in order]


@pytest.mark.parametrize(
    "batch_size, largest, width", [(16, 60, 16), (5, 25, 16), (64, 40, 48), (64, 64, 64), (1, 1, 16)]
)
def test_batches_are_padded_to_whole_64_bytes(batch_size, largest, width):
    assert padded_batch_size(batch_size, largest) == width


NOT_PERCEPTRONS = {
    "no flattening": lambda: nn.Sequential(nn.Linear(2, 2)),
    "no bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)),
    "another activation": lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)),
    "an end that is no layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU()),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2), Dropout(0.5), nn.Linear(2, 2)),
    "convolutions": norm_and_dropout,
    "text": text,
}


@pytest.mark.parametrize("make", NOT_PERCEPTRONS.values(), ids=NOT_PERCEPTRONS)
def test_what_is_no_perceptron_is_not_taken_for_one(make):
    assert not is_perceptron(make())
    assert is_perceptron(perceptron())
    assert is_perceptron(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))


CHOICES = [
    ("auto", None, perceptron, 17_226, "cpu", Engine(True, 30)),
    ("auto", None, perceptron, 5_076_998, "cpu", Engine(True, 1)),
    ("auto", 4, perceptron, 5_076_998, "cpu", Engine(True, 4)),
    ("auto", None, text, 219_520, "cpu", Engine(False, 1)),
    ("batched", None, text, 219_520, "cpu", Engine(True, 2)),
    ("sequential", None, perceptron, 17_226, "cpu", Engine(False, 1)),
    ("auto", None, text, 814_336, "cuda", Engine(True, 64)),
    ("auto", None, norm_and_dropout, 14_736_714, "xpu", Engine(True, 18)),
]


CACHES = {
    "as Linux tells it": ({"index0": ("1", "32K"), "index2": ("2", "2048K"), "index3": ("3", "32768K")}, 2**21),
    "of another unit": ({"index2": ("2", "2M")}, 2**20),
    "without a second level": ({"index0": ("1", "32K")}, 2**20),
    "not told": ({}, 2**20),
}


@pytest.mark.parametrize("caches, size", CACHES.values(), ids=CACHES)
def test_the_cache_of_a_core_is_its_second_level(tmp_path, caches, size):
    for name, (level, held) in caches.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "level").write_text(f"{level}\n")
        (tmp_path / name / "size").write_text(f"{held}\n")
    assert engine.core_cache_bytes(tmp_path) == size


@pytest.mark.parametrize("wanted, stack, make, num_columns, device, expected", CHOICES)
def test_auto_stacks_what_a_cache_or_a_gpu_holds(monkeypatch, wanted, stack, make, num_columns, device, expected):
    monkeypatch.setattr(engine, "core_cache_bytes", lambda: 2**20)
    assert choose_engine(wanted, stack, make(), num_columns, torch.device(device)) == expected


def test_a_stack_is_tested_as_its_nodes_are():
    torch.manual_seed(1)
    model = BoundModel(perceptron())
    rows = allocate_rows(3, model.layout.num_columns, CPU)
    for row in rows:
        model.read(perceptron(), row)
    rows[1, 5] = float("nan")
    test = Samples(torch.randn(300, 1, 4, 3), torch.randint(NUM_CLASSES - 1, (300,)))
    calls = []
    state = model.layout.views(rows)
    found = evaluate_stack(lambda x: logits(state, x.flatten(2)), 3, test, NUM_CLASSES, lambda: calls.append(1))
    assert len(calls) == 3
    for row, scores in zip(rows, found, strict=True):
        expected = evaluate(model, row, test, NUM_CLASSES, lambda: None)
        assert scores.accuracy == expected.accuracy
        np.testing.assert_array_equal(scores.recall, expected.recall)
        np.testing.assert_allclose(scores.loss, expected.loss, rtol=1e-6)
    empty = evaluate_stack(lambda x: logits(state, x.flatten(2)), 3, test.take(slice(0, 0)), NUM_CLASSES, lambda: None)
    assert np.isnan([empty[0].accuracy, empty[0].loss, *empty[0].recall]).all()


def test_dropout_draws_what_torchs_draws_with_the_same_seed():
    ours, theirs, values = Dropout(0.3), nn.Dropout(0.3), torch.randn(7, 33)
    ours.generators = [torch.Generator().manual_seed(5)]
    torch.manual_seed(5)
    for _ in range(2):
        assert torch.equal(ours(values), theirs(values))
    assert torch.equal(ours.eval()(values), values)


def test_dropout_replaces_torchs_wherever_it_is():
    module = use_dropout(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.25), nn.ReLU())))
    assert type(module[1][0]) is Dropout
    assert module[1][0].p == 0.25
