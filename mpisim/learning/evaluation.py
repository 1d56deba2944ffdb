"""Exact tests: the share of correct answers over all samples, whatever the batch size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from mpisim.data.shards import Samples
from mpisim.learning.parameters import BoundModel

TEST_BATCH = 1024  # samples: large enough to be near the peak, small enough for the activations to stay in the cache


@dataclass(frozen=True)
class Scores:
    """How one model did on one test set.

    Attributes
    ----------
    accuracy : float
        Correct answers / samples; NaN without samples.
    loss : float
        Mean cross-entropy, in nats; NaN without samples.
    recall : float64, shape (num_classes,)
        Correct answers / samples of each label; NaN for a label without samples.
    """

    accuracy: float
    loss: float
    recall: np.ndarray


@torch.no_grad()
def evaluate(
    model: BoundModel, row: torch.Tensor, test: Samples, num_classes: int, between: Callable[[], object]
) -> Scores:
    """Test one node's model.

    Parameters
    ----------
    row : float32 tensor, shape (num_columns,)
    between : function
        Called after each batch: there messages on their way make progress.
    """
    model.bind(row)
    model.module.eval()
    loss = torch.zeros((), dtype=torch.float64, device=row.device)
    correct = torch.zeros(num_classes, dtype=torch.int64, device=row.device)
    for start in range(0, len(test), TEST_BATCH):
        labels = test.labels[start : start + TEST_BATCH]
        logits = model.module(test.inputs[start : start + TEST_BATCH])
        loss += F.cross_entropy(logits, labels, reduction="none").double().sum()
        correct += torch.bincount(labels[logits.argmax(dim=1) == labels], minlength=num_classes)
        between()
    num_correct = correct.cpu().numpy().astype(np.float64)
    num_samples = torch.bincount(test.labels, minlength=num_classes).cpu().numpy().astype(np.float64)
    with np.errstate(invalid="ignore"):
        recall = num_correct / num_samples
        accuracy, mean_loss = np.array([num_correct.sum(), float(loss)]) / np.float64(len(test))
    return Scores(float(accuracy), float(mean_loss), recall)
