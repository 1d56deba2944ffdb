"""Exact tests: the share of correct predictions over all samples, whatever the batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from mpisim.data.shards import Samples
from mpisim.learning.device import finish
from mpisim.learning.parameters import FLOAT_BYTES, BoundModel

LARGEST_TEST_BATCH = 1024  # samples: near the peak of any machine
# What the largest layer may put out for a batch: on a CPU it should stay in the cache, on a GPU leave room for X.
CACHE_BYTES, GPU_BYTES = 16 * 2**20, 256 * 2**20
STACK_TEST_BATCH = 128  # samples of each node of a stack; the same for any stack, so that results are the same bits


@dataclass(frozen=True)
class Scores:
    """How one model did on one test set.

    Attributes
    ----------
    accuracy : float
        Correct predictions / predictions; NaN without samples.
    loss : float
        Mean cross-entropy, in nats; NaN without samples.
    recall : float64, shape (num_classes,)
        The same of each label; NaN for a label without samples. A text's predictions count for the text's label.
    """

    accuracy: float
    loss: float
    recall: np.ndarray


def fitting_batch(activation_sizes: Sequence[int], device: torch.device) -> int:
    """Return how many samples to test at a time, a power of two, for a model of which each layer puts out so much."""
    fitting = (CACHE_BYTES if device.type == "cpu" else GPU_BYTES) // (FLOAT_BYTES * max(activation_sizes))
    return int(min(LARGEST_TEST_BATCH, 2 ** max(0, fitting.bit_length() - 1)))


@torch.no_grad()
def evaluate(
    model: BoundModel,
    row: torch.Tensor,
    test: Samples,
    num_classes: int,
    between: Callable[[], object],
    counters: list[torch.Tensor] | None = None,
    batch_size: int = LARGEST_TEST_BATCH,
) -> Scores:
    """Test one node's model.

    Parameters
    ----------
    row : float32 tensor, shape (num_columns,)
    between : function
        Called after each batch, and while a device computes: there messages on their way make progress.
    counters : the node's integer buffers; None if nobody keeps them
    batch_size : from ``fitting_batch``
    """
    if not len(test):
        return Scores(np.nan, np.nan, np.full(num_classes, np.nan))
    model.bind(row, counters)
    model.module.eval()
    loss = torch.zeros((), dtype=torch.float64, device=row.device)
    correct = torch.zeros(num_classes, dtype=torch.int64, device=row.device)
    total = torch.zeros(num_classes, dtype=torch.int64, device=row.device)
    for start in range(0, len(test), batch_size):
        logits, targets, labels = model.predictions(test.take(slice(start, start + batch_size)))
        loss += F.cross_entropy(logits, targets, reduction="none").double().sum()
        highest, answers = logits.max(dim=1)
        # A model that has left the numbers answers nothing; its argmax would be 0, a trigger's label.
        right = (answers == targets) & highest.isfinite()
        # Not bincount, nor labels[right]: a GPU would have to say how long the result is before the next batch starts.
        correct.index_add_(0, labels, right.long())
        total.index_add_(0, labels, torch.ones_like(labels))
        between()
    finish(row.device, between)
    return _scores(*(count.cpu().numpy() for count in (correct, total, loss)))


def _scores(correct: np.ndarray, total: np.ndarray, loss: np.ndarray) -> Scores:
    """Return the scores from the counts of each label, and the sum of the losses."""
    with np.errstate(invalid="ignore"):
        recall = correct.astype(np.float64) / total
        accuracy, mean_loss = np.array([correct.sum(), float(loss)]) / total.sum()
    return Scores(float(accuracy), float(mean_loss), recall)


@torch.no_grad()
def evaluate_stack(
    logits: Callable[[torch.Tensor], torch.Tensor],
    num_nodes: int,
    test: Samples,
    num_classes: int,
    between: Callable[[], object],
) -> list[Scores]:
    """Test the models of a stack of nodes on the same images.

    Parameters
    ----------
    logits : function of inputs (num_nodes, num_samples, ...) to logits (num_nodes, num_samples, num_classes)
    between : function
        Called after each batch, and while a device computes.
    """
    device = test.labels.device
    loss = torch.zeros(num_nodes, dtype=torch.float64, device=device)
    correct = torch.zeros((num_nodes, num_classes), dtype=torch.float64, device=device)
    labels_of = F.one_hot(test.labels, num_classes).double()
    for start in range(0, len(test), STACK_TEST_BATCH):
        batch = slice(start, start + STACK_TEST_BATCH)
        labels = test.labels[batch]
        log_shares = torch.log_softmax(logits(test.inputs[batch].expand(num_nodes, *test.inputs[batch].shape)), dim=2)
        loss -= log_shares.gather(2, labels.expand(num_nodes, -1).unsqueeze(2)).squeeze(2).double().sum(dim=1)
        highest, answers = log_shares.max(dim=2)
        right = (answers == labels) & highest.isfinite()  # as in ``evaluate``
        correct += right.double() @ labels_of[batch]
        between()
    finish(device, between)
    total = labels_of.sum(dim=0).cpu().numpy()
    return [
        _scores(of_node, total, loss_of_node)
        for of_node, loss_of_node in zip(correct.cpu().numpy(), loss.cpu().numpy(), strict=True)
    ]
