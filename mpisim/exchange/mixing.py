"""One aggregation: X'[i] = Σ_j W[i, j] · row(j), from the trained rows only, in one fixed order."""

from __future__ import annotations

import numpy as np
import torch

# Columns mixed at a time, a multiple of 64: a vectorised loop and its scalar tail may round differently, and so the
# tail must always be the same columns. 128 KiB per row keeps the accumulator in the L2 cache.
BLOCK = 32_768


def positions_in_rows(indices: np.ndarray, own: np.ndarray, received: np.ndarray) -> np.ndarray:
    """Return where each entry's row is: its position in ``own``, or len(own) + its position in ``received``.

    Parameters
    ----------
    indices : int array, shape (num_entries,)
        Nodes, all of them in own or received.
    """
    nodes = np.concatenate([own, received])
    order = np.argsort(nodes)
    return order[np.searchsorted(nodes[order], indices)]


@torch.no_grad()
def mix(
    parameters: torch.Tensor,
    remote: torch.Tensor,
    indptr: np.ndarray,
    positions: np.ndarray,
    weights: np.ndarray,
    out: torch.Tensor | None = None,
) -> None:
    """Replace this rank's rows of X by their mixtures.

    Works in place, a block of columns at a time: all of a block's mixtures stand in a scratch matrix before the block
    of X changes, so every sum reads trained rows, and no second X is needed.

    Parameters
    ----------
    parameters, remote : float32 tensors, shapes (num_own, num_columns) and (num_received, num_columns)
    indptr, positions, weights : shapes (num_own + 1,), (num_entries,), (num_entries,)
        W's rows of the own nodes; positions as from ``positions_in_rows``, in ascending order of nodes.
        An entry of weight 0 is not read: a neighbor that did not answer, or whose model is not finite, adds nothing.
    out : float32 tensor, shape (num_own, num_columns), optional
        Where the mixtures go; ``parameters`` if not given.
    """
    out = parameters if out is None else out
    num_columns = parameters.shape[1]
    terms = [
        [(position, weight) for position, weight in zip(where, weight_of, strict=True) if weight != 0]
        for where, weight_of in zip(np.split(positions, indptr[1:-1]), np.split(weights, indptr[1:-1]), strict=True)
    ]
    scratch = torch.empty((len(parameters), min(BLOCK, num_columns)), device=parameters.device)
    for start in range(0, num_columns, BLOCK):
        columns = slice(start, min(start + BLOCK, num_columns))
        width = columns.stop - start
        block = [*parameters[:, columns], *remote[:, columns]]
        for row, row_terms in zip(scratch[:, :width], terms, strict=True):
            if not row_terms:
                row.zero_()
                continue
            position, weight = row_terms[0]
            torch.mul(block[position], float(weight), out=row)
            for position, weight in row_terms[1:]:
                row.add_(block[position], alpha=float(weight))
        out[:, columns] = scratch[:, :width]
