"""Nodes go to ranks in blocks of consecutive nodes, as evenly as whole nodes allow."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.graphs.placement import contiguous


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 300), st.integers(1, 400))
def test_every_rank_owns_the_block_that_numpy_would_cut(num_nodes: int, num_ranks: int) -> None:
    rank_of_node = contiguous(num_nodes, num_ranks)
    assert rank_of_node.shape == (num_nodes,)
    for rank, nodes in enumerate(np.array_split(np.arange(num_nodes), num_ranks)):
        np.testing.assert_array_equal(np.flatnonzero(rank_of_node == rank), nodes)


def test_ranks_beyond_the_nodes_own_none() -> None:
    assert contiguous(3, 5).tolist() == [0, 1, 2]


def test_a_block_more_goes_to_the_first_ranks() -> None:
    assert contiguous(8, 3).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_one_rank_owns_every_node() -> None:
    assert contiguous(4, 1).tolist() == [0, 0, 0, 0]
