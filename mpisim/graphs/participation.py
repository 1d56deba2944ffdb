"""Participation: which nodes take part in a round, where not all do."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from mpisim.streams import Purpose, stream


def participants(num_nodes: int, fraction: float, seed: int, round: int) -> np.ndarray:
    """Return which nodes take part in a round, bool, shape (num_nodes,): max(1, ⌊fraction · num_nodes⌋) of them.

    Parameters
    ----------
    fraction : float, above 0, 1 at the most
    seed, round : int
        The address of the draw.

    >>> int(participants(10, 0.35, seed=0, round=1).sum())
    3
    """
    takes_part = np.ones(num_nodes, dtype=bool)
    if fraction < 1:
        # In decimals, as the fraction was written: 0.29 of 100 nodes are 29, and not 28.999….
        count = max(1, math.floor(Fraction(repr(float(fraction))) * num_nodes))
        order = stream(seed, Purpose.PARTICIPATION, round=round).permutation(num_nodes)
        takes_part[order[count:]] = False
    return takes_part
