"""The plan of messages against brute force: each rank gets the rows its nodes listen to, each of them once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.exchange.neighborhood import plan_exchange
from mpisim.graphs.generators import make_topology
from mpisim.graphs.mixing import MixingRule
from mpisim.graphs.placement import contiguous
from mpisim.graphs.strategies import STRATEGIES, mixing_matrix, mixing_rule


def rule_of(pattern):
    """Return the rule whose entries are where the pattern is true."""
    rows, columns = np.nonzero(pattern)
    indptr = np.searchsorted(rows, np.arange(len(pattern) + 1))
    ones = np.ones(len(rows))
    nodes = np.arange(len(pattern))
    return MixingRule(len(pattern), nodes, indptr, columns, ones, ones, np.full(len(rows), -1), "sum", False, False, 0)


def rows_to_send(pattern, rank_of_node):
    """Return every (listening rank, sending rank, node), by looking at all pairs of nodes."""
    num_nodes = len(pattern)
    return {
        (rank_of_node[i], rank_of_node[j], j)
        for i in range(num_nodes)
        for j in range(num_nodes)
        if pattern[i, j] and rank_of_node[i] != rank_of_node[j]
    }


def assert_plans(plans, pattern, rank_of_node, num_ranks):
    wanted = rows_to_send(pattern, rank_of_node)
    assert len(plans) == num_ranks
    for rank, plan in enumerate(plans):
        assert plan.own.tolist() == [node for node in range(len(pattern)) if rank_of_node[node] == rank]
        received = sorted((sender, node) for to, sender, node in wanted if to == rank)
        sent = sorted((to, node) for to, sender, node in wanted if sender == rank)
        assert list(zip(plan.received_from.tolist(), plan.received.tolist(), strict=True)) == received
        assert list(zip(plan.sent_to.tolist(), plan.sent.tolist(), strict=True)) == sent
        assert plan.num_messages == len({to for to, _ in sent})
        assert plan.bytes_sent(1000) == 4 * 1000 * len(sent)
        assert plan.bytes_sent(1000, torch.bfloat16) == 2 * 1000 * len(sent)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    num_nodes=st.integers(1, 14),
    num_ranks=st.integers(1, 6),
    density=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_any_pattern_on_any_placement_sends_what_brute_force_says(num_nodes, num_ranks, density, seed):
    rng = np.random.default_rng(seed)
    pattern = (rng.random((num_nodes, num_nodes)) < density) | np.eye(num_nodes, dtype=bool)  # W need not be symmetric
    rank_of_node = rng.integers(0, num_ranks, num_nodes)  # some ranks may own no node
    assert_plans(plan_exchange(rule_of(pattern), rank_of_node, num_ranks), pattern, rank_of_node, num_ranks)


@pytest.mark.parametrize("num_ranks", range(1, 7))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_sends_what_its_mixing_matrix_reads(strategy, num_ranks):
    topology = make_topology("ba:n=16,m=2,seed=0")
    pattern = mixing_matrix(topology, strategy.removesuffix("-similarity")).toarray() != 0
    rank_of_node = contiguous(16, num_ranks)
    plans = plan_exchange(mixing_rule(topology, strategy, np.ones(16)), rank_of_node, num_ranks)
    assert_plans(plans, pattern, rank_of_node, num_ranks)


def test_what_one_rank_sends_another_receives_in_the_same_order():
    topology = make_topology("ba:n=33,m=2,seed=0")
    plans = plan_exchange(mixing_rule(topology, "degree", np.ones(33)), contiguous(33, 5), 5)
    for sender, sending in enumerate(plans):
        for to, receiving in enumerate(plans):
            leaving = sending.sent[sending.sent_to == to]
            arriving = receiving.received[receiving.received_from == sender]
            np.testing.assert_array_equal(leaving, arriving)


def test_a_ring_on_ranks_of_its_own_sends_two_rows_in_two_messages_each():
    plans = plan_exchange(mixing_rule(make_topology("ring:n=5"), "unweighted", np.ones(5)), np.arange(5), 5)
    assert [plan.sent_to.tolist() for plan in plans] == [[1, 4], [0, 2], [1, 3], [2, 4], [0, 3]]
    assert [plan.num_messages for plan in plans] == [2] * 5
    assert [plan.bytes_sent(10) for plan in plans] == [80] * 5


def test_one_row_that_many_nodes_of_a_rank_listen_to_travels_once():
    plans = plan_exchange(
        mixing_rule(make_topology("star:n=6"), "unweighted", np.ones(6)), np.array([0, 1, 1, 1, 1, 1]), 2
    )
    assert (plans[0].sent.tolist(), plans[0].num_messages) == ([0], 1)
    assert (plans[1].sent.tolist(), plans[1].num_messages) == ([1, 2, 3, 4, 5], 1)
