"""The objective: what of a model's output is a prediction, and of what.

Both kinds of data come down to the same three tensors, one row per prediction: logits, targets, and the label that the
prediction counts for in recalls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mpisim.data.shards import Samples

Predictions = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def of_labels(logits: torch.Tensor, samples: Samples) -> Predictions:
    """Predict each image's label: logits of shape (num_samples, num_classes)."""
    return logits, samples.labels, samples.labels


def of_next_tokens(logits: torch.Tensor, samples: Samples) -> Predictions:
    """Predict each token from those before it, pads included: logits of shape (num_samples, context, vocabulary)."""
    targets = samples.inputs[:, 1:]
    return (
        logits[:, :-1].flatten(0, 1),
        targets.flatten(),
        samples.labels.repeat_interleave(targets.shape[1]),
    )


OBJECTIVES: dict[str, Callable[[torch.Tensor, Samples], Predictions]] = {
    "image": of_labels,
    "text": of_next_tokens,
}
