"""Labeled samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Labeled:
    """Labeled samples, as the files hold them.

    Attributes
    ----------
    inputs : uint8, shape (num_samples, channels, height, width); tokens of text: (num_samples, context)
    labels : int64, shape (num_samples,)
    """

    inputs: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def take(self, samples: np.ndarray) -> Labeled:
        """Return some of the samples, in the order given."""
        return Labeled(self.inputs[samples], self.labels[samples])
