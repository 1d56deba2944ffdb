"""One aggregation: X'[i] = Σ_j W[i, j] · row(j), from the trained rows only, in one fixed order."""

from __future__ import annotations

import itertools

import numpy as np
import torch

# Columns mixed at a time, a multiple of 64: a vectorised loop and its scalar tail may round differently, and so the
# tail must always be the same columns. 128 KiB per row keeps the accumulator in the L2 cache, and torch does not
# divide so few columns among threads.
BLOCK = 32_768
# On a device, blocks are as large as a scratch matrix of so many bytes allows: each term of each is a call, which takes
# the host microseconds, and a GPU no longer than that for some 100,000 columns.
DEVICE_SCRATCH_BYTES = 256 * 2**20

Term = tuple[int, float]  # of a mixture: the position of a row, and its weight


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


def block_width(num_rows: int, device: torch.device) -> int:
    """Return how many columns to mix at a time, at the most, with a scratch matrix of so many rows."""
    if device.type == "cpu":
        return BLOCK
    return max(BLOCK, DEVICE_SCRATCH_BYTES // (torch.float32.itemsize * max(1, num_rows)))


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

    Where models travel as bfloat16, every neighbor's is rounded to it, also one that did not travel; a node's own is
    not, and comes last in its sum, as whoever mixes columns of X need not know it (see ``transpose.py``).

    Parameters
    ----------
    parameters, remote : tensors, shapes (num_own, num_columns) and (num_received, num_columns)
        X is float32. The type of ``remote``, which may have no row, is the one that models travel as.
    indptr, positions, weights : shapes (num_own + 1,), (num_entries,), (num_entries,)
        W's rows of the own nodes; positions as from ``positions_in_rows``, in ascending order of nodes.
        An entry of weight 0 is not read: a neighbor that did not answer, or whose model is not finite, adds nothing.
    out : float32 tensor, shape (num_own, num_columns), optional
        Where the mixtures go; ``parameters`` if not given.
    """
    out = parameters if out is None else out
    num_rows, num_columns = len(parameters) + len(remote), parameters.shape[1]
    rounds = remote.dtype != torch.float32
    mixtures, of_row = _mixtures(indptr, positions, weights, num_rows if rounds else None)
    heard = sorted({position for terms in mixtures for position, _ in terms if position < num_rows}) if rounds else []
    size = block_width(len(mixtures) + len(heard), parameters.device)
    width = min(size, num_columns)
    sums = torch.empty((len(mixtures), width), device=parameters.device)
    rounded = torch.empty((len(heard), width), device=parameters.device)
    for start in range(0, num_columns, size):
        columns = slice(start, min(start + size, num_columns))
        width = columns.stop - start
        block = [*parameters[:, columns], *remote[:, columns]]
        if rounds:
            own = block[: len(parameters)]
            for position, row in zip(heard, rounded[:, :width], strict=True):
                row.copy_(block[position].to(remote.dtype))
                block[position] = row
            block += own
        for terms, row in zip(mixtures, sums[:, :width], strict=True):
            _sum(terms, block, row)
        if len(mixtures) == len(of_row):
            out[:, columns] = sums[:, :width]
        else:
            for number, row in zip(of_row, out[:, columns], strict=True):
                row.copy_(sums[number, :width])


def _mixtures(
    indptr: np.ndarray, positions: np.ndarray, weights: np.ndarray, first_own: int | None
) -> tuple[list[list[Term]], list[int]]:
    """Return the different mixtures, and which of them each row is: under ``fl`` all nodes' are one.

    Parameters
    ----------
    first_own : int, optional
        If given, the position at which the own rows come once more, to be the last term of their mixture.
    """
    numbers: dict[bytes, int] = {}
    mixtures: list[list[Term]] = []
    of_row = []
    for number, (start, end) in enumerate(itertools.pairwise(indptr)):
        where, weight_of = positions[start:end], weights[start:end]
        if first_own is not None:
            own = where == number
            where = np.concatenate([where[~own], where[own] + first_own])
            weight_of = np.concatenate([weight_of[~own], weight_of[own]])
        where, weight_of = where[weight_of != 0], weight_of[weight_of != 0]
        key = where.tobytes() + weight_of.tobytes()
        if key not in numbers:
            numbers[key] = len(mixtures)
            mixtures.append(list(zip(where.tolist(), weight_of.tolist(), strict=True)))
        of_row.append(numbers[key])
    return mixtures, of_row


def _sum(terms: list[Term], rows: list[torch.Tensor], out: torch.Tensor) -> None:
    if not terms:
        out.zero_()
        return
    position, weight = terms[0]
    torch.mul(rows[position], weight, out=out)
    for position, weight in terms[1:]:
        out.add_(rows[position], alpha=weight)
