"""Placement: which rank owns which node."""

import numpy as np


def contiguous(num_nodes: int, num_ranks: int) -> np.ndarray:
    """Return the rank of each node: blocks of consecutive nodes, whose sizes differ by one at the most.

    With more ranks than nodes, the first ranks own one node each and the others none.

    >>> contiguous(7, 3)
    array([0, 0, 0, 1, 1, 2, 2])
    """
    num_owners = min(num_nodes, num_ranks)
    sizes = num_nodes // num_owners + (np.arange(num_owners) < num_nodes % num_owners)
    return np.repeat(np.arange(num_owners), sizes)
