"""Tests are exact: correct answers are counted over all samples, whatever the batch size."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mpisim.data.shards import Samples
from mpisim.learning import evaluation
from mpisim.learning.evaluation import fitting_batch
from mpisim.learning.parameters import BoundModel, allocate_rows

NUM_CLASSES, BATCH = 5, 8
evaluate = partial(evaluation.evaluate, batch_size=BATCH)
PRESENT = np.array([0, 1, 3])  # labels 2 and 4 have no sample


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def bind(module):
    """Return a model and a row with the module's state."""
    model = BoundModel(module)
    rows = allocate_rows(1, model.layout.num_columns, torch.device("cpu"))
    model.read(module, rows[0])
    return model, rows[0]


def test_set(num_samples):
    labels = PRESENT[np.random.default_rng(0).integers(0, len(PRESENT), num_samples)]
    return Samples(torch.randn(num_samples, 3, 2, 2), torch.from_numpy(labels))


test_set.__test__ = False


def scores_by_counting(module, test):
    """Return accuracy, loss and recall from the logits of all samples, in float64."""
    weight, bias = (parameter.detach().double().numpy() for parameter in module.parameters())
    logits = test.inputs.double().numpy().reshape(len(test), -1) @ weight.T + bias
    labels = test.labels.numpy()
    correct = [0] * NUM_CLASSES
    samples = [0] * NUM_CLASSES
    loss = 0.0
    for row, label in zip(logits, labels, strict=True):
        samples[label] += 1
        correct[label] += int(np.argmax(row) == label)
        loss += np.log(np.exp(row).sum()) - row[label]
    recall = [right / all if all else np.nan for right, all in zip(correct, samples, strict=True)]
    return sum(correct) / len(test), loss / len(test), recall


@pytest.mark.parametrize("num_samples", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH, 5 * BATCH + 3])
def test_scores_equal_those_counted_sample_by_sample(num_samples):
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, NUM_CLASSES))
    test = test_set(num_samples)
    accuracy, loss, recall = scores_by_counting(module, test)
    model, row = bind(module)
    calls = []
    scores = evaluate(model, row, test, NUM_CLASSES, lambda: calls.append(None))
    assert scores.accuracy == accuracy
    assert scores.loss == pytest.approx(loss, rel=1e-6)
    np.testing.assert_array_equal(scores.recall, recall)
    assert len(calls) == -(-num_samples // BATCH)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_that_has_left_the_numbers_answers_nothing(bad):
    model = BoundModel(nn.Linear(2, 3))
    row = allocate_rows(1, model.layout.num_columns, torch.device("cpu"))[0].fill_(bad)
    scores = evaluate(model, row, Samples(torch.ones(4, 2), torch.tensor([0, 0, 1, 2])), 3, lambda: None)
    assert scores.accuracy == 0
    assert scores.recall.tolist() == [0, 0, 0]


def test_a_label_without_samples_has_no_recall_and_the_others_do():
    model, row = bind(nn.Sequential(nn.Flatten(), nn.Linear(12, NUM_CLASSES)))
    scores = evaluate(model, row, test_set(50), NUM_CLASSES, lambda: None)
    assert np.isnan(scores.recall).tolist() == [False, False, True, False, True]


def test_an_empty_test_set_gives_nan_and_no_warning():
    model, row = bind(nn.Sequential(nn.Flatten(), nn.Linear(12, NUM_CLASSES)))
    calls = []
    scores = evaluate(model, row, test_set(0), NUM_CLASSES, lambda: calls.append(None))
    assert np.isnan([scores.accuracy, scores.loss, *scores.recall]).all()
    assert not calls


def test_a_test_leaves_the_row_as_it_is_and_uses_what_training_has_learnt_of_the_batches():
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, NUM_CLASSES))
    module.train()
    module[1](3 + 2 * torch.randn(100, 12))  # its running mean and variance are no longer 0 and 1
    test = test_set(2 * BATCH + 1)
    module.eval()
    with torch.no_grad():
        answers = module(test.inputs).argmax(dim=1)
    model, row = bind(module)
    before = row.clone()
    model.module.train()
    scores = evaluate(model, row, test, NUM_CLASSES, lambda: None)
    assert torch.equal(row, before)
    assert scores.accuracy == (answers == test.labels).sum().item() / len(test)


class Constant(nn.Module):
    """Answers every sample with the label that its integer buffer holds."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("label", torch.tensor(1))

    def forward(self, inputs):
        return nn.functional.one_hot(self.label, NUM_CLASSES) + self.weight + torch.zeros(len(inputs), NUM_CLASSES)


def test_a_node_is_tested_with_its_own_integer_buffers():
    model, row = bind(Constant())
    test = test_set(3 * BATCH + 1)
    own = model.new_counters()
    own[0] += 2
    shares = [float((test.labels == label).double().mean()) for label in (1, 3)]
    found = [evaluate(model, row, test, NUM_CLASSES, lambda: None, counters).accuracy for counters in (None, own)]
    assert shares[0] != shares[1]
    assert found == pytest.approx(shares)


@pytest.mark.parametrize(
    "sizes, device, batch",
    [([784, 3136, 10], "cpu", 1024), ([128], "cpu", 1024), ([65_536, 3], "cpu", 64), ([65_537], "cpu", 32),
     ([65_536], "cuda", 1024), ([10**9], "cpu", 1)],
)  # fmt: skip
def test_a_test_batch_is_as_large_as_its_largest_activation_allows(sizes, device, batch):
    assert fitting_batch(sizes, torch.device(device)) == batch
