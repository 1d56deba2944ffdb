"""Similarity of models: which neighbor's model is least alike one's own, for the strategies that ask.

How alike two models are is the mean over their layers of the mean cosine between the rows of a layer's tensor. Sums are
in float64 and in one fixed order, the same for a pair of models on whatever rank it is looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

BLOCK = 131_072  # scalars at a time: what they become in float64 stays in the cache, 5 times as fast as whole layers
DEVICE_BLOCK = 4_194_304  # a device is to have few calls
SMALLEST_NORM = 1e-8  # a row of zeros is like nothing: its cosine is 0


def least_alike(
    shapes: Sequence[torch.Size],
    offsets: Sequence[int],
    rows: Sequence[torch.Tensor],
    indptr: np.ndarray,
    positions: np.ndarray,
    own_positions: np.ndarray,
    answers: np.ndarray | None = None,
) -> np.ndarray:
    """Return the entry of each node's neighbor whose model is least alike its own; of several, the lowest node's.

    Parameters
    ----------
    shapes, offsets : of the layers' tensors within a row, as ``StateLayout`` has them (parameters come first there)
    rows : float32 tensors, shape (num_columns,)
        The models: this rank's rows of X, and those it received.
    indptr, positions : int arrays, shapes (num_own + 1,) and (num_entries,)
        W's rows of the own nodes; where in ``rows`` each entry's model is, in ascending order of nodes.
    own_positions : int array, shape (num_own,)
        Where in ``rows`` the own nodes' models are.
    answers : bool array, shape (num_entries,), optional
        Which entries are heard this round; all if not given.

    Returns
    -------
    int64, shape (num_own,); -1 for a node that hears no neighbor. A model with values that are no number is the least
    alike.
    """
    owner = np.repeat(np.asarray(own_positions), np.diff(indptr))
    heard = positions != owner
    if answers is not None:
        heard &= answers
    pair = np.minimum(owner, positions) * len(rows) + np.maximum(owner, positions)
    pairs, which = np.unique(pair[heard], return_inverse=True)
    alike = np.full(len(positions), np.inf)
    alike[heard] = similarities(shapes, offsets, rows, np.stack(np.divmod(pairs, len(rows)), axis=1))[which]
    found = np.full(len(indptr) - 1, -1, dtype=np.int64)
    for node, (start, end) in enumerate(itertools.pairwise(indptr)):
        if heard[start:end].any():
            found[node] = start + np.argmin(alike[start:end])  # the first of equals; NaN comes before any number
    return found


@torch.no_grad()
def similarities(
    shapes: Sequence[torch.Size], offsets: Sequence[int], rows: Sequence[torch.Tensor], pairs: np.ndarray
) -> np.ndarray:
    """Return how alike the models of some pairs are, between -1 and 1, float64, shape (num_pairs,).

    Parameters
    ----------
    shapes, offsets, rows : as for ``least_alike``
        A tensor counts as a matrix of its first dimension; one of no or one dimension is a single row.
    pairs : int array, shape (num_pairs, 2)
        Positions in ``rows``.
    """
    if not len(pairs):
        return np.empty(0)
    total = torch.zeros(len(pairs), dtype=torch.float64, device=rows[0].device)
    for shape, offset in zip(shapes, offsets, strict=True):
        height = shape[0] if len(shape) > 1 else 1
        matrices = [row[offset : offset + shape.numel()].view(height, -1) for row in rows]
        norms = [_row_dots(matrix, matrix).sqrt().clamp_min(SMALLEST_NORM) for matrix in matrices]
        for number, (first, second) in enumerate(pairs.tolist()):
            dots = _row_dots(matrices[first], matrices[second])
            total[number] += (dots / (norms[first] * norms[second])).mean()
    return np.asarray((total / len(shapes)).cpu().numpy())


def _row_dots(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the product of each row with the same row of another matrix, float64."""
    count = max(1, (BLOCK if first.device.type == "cpu" else DEVICE_BLOCK) // first.shape[1])
    blocks = [slice(start, start + count) for start in range(0, len(first), count)]
    return torch.cat([(first[block].double() * second[block]).sum(dim=1) for block in blocks])
