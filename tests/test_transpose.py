"""The transposed exchange's plan against counts made scalar by scalar, and when it is taken."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim import Config
from mpisim.exchange.choice import plan_messages
from mpisim.exchange.neighborhood import ExchangePlan
from mpisim.exchange.transpose import TransposePlan
from mpisim.experiment import decide
from mpisim.graphs.generators import make_topology
from mpisim.graphs.placement import contiguous
from mpisim.graphs.strategies import mixing_rule
from mpisim.plan import plan_rows

CPU = torch.device("cpu")


@settings(derandomize=True, deadline=None, max_examples=60)
@given(num_columns=st.integers(1, 700), num_ranks=st.integers(1, 6), seed=st.integers(0, 1000))
def test_every_scalar_travels_to_the_rank_of_its_column_and_back(num_columns: int, num_ranks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank_of_node = rng.permutation(np.concatenate([np.arange(num_ranks), rng.integers(0, num_ranks, 5)]))
    plans = [TransposePlan(rank_of_node, rank) for rank in range(num_ranks)]
    bounds = plans[0].column_bounds(num_columns)
    assert (bounds[0], bounds[-1]) == (0, num_columns)
    widths = np.diff(bounds)
    assert all(start % 64 == 0 for start in bounds[:-1] if start < num_columns)
    assert widths.min() >= 0
    assert widths.max() - widths.min() < 128  # 64 for the number of blocks, 63 for what the last one lacks
    rank_of_column = np.repeat(np.arange(num_ranks), widths)
    for wire in (torch.float32, torch.bfloat16):
        sent = np.zeros(num_ranks, dtype=int)
        for of_row in rank_of_node:
            for of_column in rank_of_column:
                if of_row != of_column:
                    sent[of_row] += wire.itemsize
                    sent[of_column] += 4
        assert [plan.bytes_sent(num_columns, wire) for plan in plans] == sent.tolist()
    for plan in plans:
        assert rank_of_node[plan.mixed].tolist() == sorted(rank_of_node)
        assert sorted(plan.mixed) == list(range(len(rank_of_node)))
        assert set(plan.own) == {node for node, rank in enumerate(rank_of_node) if rank == plan.rank}


def taken(spec, strategy, num_ranks, num_columns=10**6, wire=torch.float32, whole_rows=False):
    """Return the kind of the plans, and the bytes that they send."""
    topology = make_topology(spec)
    rule = mixing_rule(topology, strategy, np.ones(topology.num_nodes))
    plans = plan_messages(rule, contiguous(topology.num_nodes, num_ranks), num_columns, wire, whole_rows)
    assert len(plans) == num_ranks
    [kind] = {type(plan) for plan in plans}
    return kind, sum(plan.bytes_sent(num_columns, wire) for plan in plans)


def test_a_dense_w_is_mixed_in_columns_once_that_is_less() -> None:
    """Of n rows of C columns, n (P - 1) C travel whole, or 2 n C (P - 1) / P in columns; as bfloat16, 3 in place of 2.

    A million columns are 15,625 blocks of 64, which five ranks share evenly, and three and four nearly so.
    """
    row = 4 * 10**6
    assert taken("ring:n=12", "fl", 1) == (ExchangePlan, 0)
    assert taken("ring:n=12", "fl", 2) == (ExchangePlan, 12 * row)  # as much in columns, in twice the messages
    kind, sent = taken("ring:n=12", "fl", 3)
    assert kind is TransposePlan
    assert sent == pytest.approx(2 * 12 * row * 2 / 3, rel=1e-4)
    assert taken("complete:n=10", "degree", 5) == (TransposePlan, 2 * 10 * row * 4 // 5)
    assert taken("ring:n=12", "fl", 3, wire=torch.bfloat16) == (ExchangePlan, 12 * row * 2 // 2)
    assert taken("complete:n=10", "random", 5, wire=torch.bfloat16) == (TransposePlan, 3 * 10 * row // 2 * 4 // 5)


@pytest.mark.parametrize(
    "changed",
    [
        {"spec": "ring:n=12", "strategy": "degree"},
        {"whole_rows": True},
        {"num_columns": 64 * 4 - 1},  # not a block for each rank
        {"spec": "ring:n=400", "num_columns": 9_999},  # 100 bytes for each of 400² entries of W, 4 of 400 × 9,999 of X
    ],
)
def test_whole_rows_travel_where_columns_are_no_gain_or_do_not_do(changed: dict) -> None:
    dense = {"spec": "ring:n=12", "strategy": "fl", "num_ranks": 4, "num_columns": 10_001}
    assert taken(**dense)[0] is TransposePlan
    assert taken(**dense | changed)[0] is ExchangePlan


def test_many_small_messages_are_no_gain() -> None:
    """The default: 88 whole rows of 69 KB travel in as many messages, 46 in columns in 1,104 messages."""
    assert taken("ba:n=24,m=2,seed=0", "degree", 24, 17_226) == (ExchangePlan, 88 * 17_226 * 4)
    assert taken("ba:n=24,m=2,seed=0", "degree", 24, 5_000_000)[0] is TransposePlan


@pytest.mark.parametrize(
    "options, num_ranks, messages",
    [
        ({}, 2, "2 messages and 1.4 MiB of models between ranks each round"),  # 21 rows of 68,904 bytes
        ({"wire": "bfloat16"}, 2, "2 messages and 706.5 KiB of models as bfloat16 between ranks each round"),
        ({"proximal": 0.1}, 4, "24 messages and 5.3 MiB of models between ranks each round"),  # 40 rows, twice
        (
            {"strategy": "fl"},
            4,  # 24 rows, three quarters of each, there and back
            "24 messages and 2.4 MiB of models between ranks each round: every rank mixes some columns of all models",
        ),
        ({"strategy": "fl", "proximal": 0.1}, 4, "24 messages and 9.5 MiB of models between ranks each round"),
    ],
)
def test_the_plan_says_what_travels(options: dict, num_ranks: int, messages: str) -> None:
    assert messages_row(num_ranks, **options) == messages


def messages_row(num_ranks: int, **options: object) -> str:
    experiment = decide(Config(ood="none", **options), num_ranks)
    places = [{"host": "here", "threads": 1, "device": "cpu"}] * num_ranks
    return dict(plan_rows(experiment, places, num_ranks, CPU))["messages"]


def test_the_plan_says_what_the_placement_saves() -> None:
    row = messages_row(4, placement="mincut")
    pattern = (
        r"12 messages and (.*) MiB of models between ranks each round: (\d+) models, contiguous placement sends 40"
    )
    mebibytes, rows = re.fullmatch(pattern, row).groups()
    assert int(rows) < 36  # a row's columns would travel 36 times
    assert float(mebibytes) == pytest.approx(int(rows) * 17_226 * 4 / 2**20, abs=0.05)
