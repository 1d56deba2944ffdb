"""Exact tests: the share of correct predictions over all samples, whatever the batch size."""

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
        Correct predictions / predictions; NaN without samples.
    loss : float
        Mean cross-entropy, in nats; NaN without samples.
    recall : float64, shape (num_classes,)
        The same of each label; NaN for a label without samples. A text's predictions count for the text's label.
    """

    accuracy: float
    loss: float
    recall: np.ndarray


@torch.no_grad()
def evaluate(
    model: BoundModel,
    row: torch.Tensor,
    test: Samples,
    num_classes: int,
    between: Callable[[], object],
    counters: list[torch.Tensor] | None = None,
) -> Scores:
    """Test one node's model.

    Parameters
    ----------
    row : float32 tensor, shape (num_columns,)
    between : function
        Called after each batch: there messages on their way make progress.
    counters : the node's integer buffers; None if nobody keeps them
    """
    model.bind(row, counters)
    model.module.eval()
    loss = torch.zeros((), dtype=torch.float64, device=row.device)
    correct = torch.zeros(num_classes, dtype=torch.int64, device=row.device)
    total = torch.zeros(num_classes, dtype=torch.int64, device=row.device)
    for start in range(0, len(test), TEST_BATCH):
        logits, targets, labels = model.predictions(test.take(slice(start, start + TEST_BATCH)))
        loss += F.cross_entropy(logits, targets, reduction="none").double().sum()
        highest, answers = logits.max(dim=1)
        # A model that has left the numbers answers nothing; its argmax would be 0, a trigger's label.
        right = (answers == targets) & highest.isfinite()
        correct += torch.bincount(labels[right], minlength=num_classes)
        total += torch.bincount(labels, minlength=num_classes)
        between()
    num_correct, num_predictions = (count.cpu().numpy().astype(np.float64) for count in (correct, total))
    with np.errstate(invalid="ignore"):
        recall = num_correct / num_predictions
        accuracy, mean_loss = np.array([num_correct.sum(), float(loss)]) / num_predictions.sum()
    return Scores(float(accuracy), float(mean_loss), recall)
