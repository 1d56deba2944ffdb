"""Which exchange a run takes: whole rows to whoever listens, or columns of all rows there and back."""

from __future__ import annotations

import numpy as np
import torch
from mpi4py import MPI

from mpisim.exchange.neighborhood import ExchangePlan, NeighborhoodExchange, plan_exchange
from mpisim.exchange.rows import Carry, RowMessages
from mpisim.exchange.transpose import COLUMN_ALIGNMENT, TransposedExchange, TransposePlan
from mpisim.graphs.mixing import MixingRule

# What a message costs beside its bytes, in bytes that could travel meanwhile: some microseconds at some GB/s.
MESSAGE_BYTES = 16_384
# What an entry of W takes on a rank that needs all of W: what is known of it, and what becomes a weight each round.
ENTRY_BYTES = 100

Plan = ExchangePlan | TransposePlan


def plan_messages(
    rule: MixingRule, rank_of_node: np.ndarray, num_columns: int, wire: torch.dtype, whole_rows: bool
) -> list[Plan]:
    """Return every rank's plan, of the exchange that moves fewer bytes in a round.

    Not the transposed one if ranks look at whole models, or all of W would take more memory than all of X.

    Parameters
    ----------
    rule : MixingRule
        Of all rows.
    rank_of_node : int array, shape (num_nodes,)
    wire : torch.float32 or torch.bfloat16
        What models travel as.
    whole_rows : bool
        Whether ranks look at whole models of neighbors, not only at columns of them.
    """
    num_ranks = int(rank_of_node.max()) + 1
    plans: list[Plan] = [*plan_exchange(rule, rank_of_node, num_ranks)]
    transposed: list[Plan] = [TransposePlan(rank_of_node, rank) for rank in range(num_ranks)]
    too_large = len(rule.indices) * ENTRY_BYTES > rule.num_nodes * num_columns * torch.float32.itemsize
    if whole_rows or too_large or num_columns < COLUMN_ALIGNMENT * num_ranks:
        return plans
    return min(
        plans,
        transposed,
        key=lambda each: sum(plan.bytes_sent(num_columns, wire) + plan.num_messages * MESSAGE_BYTES for plan in each),
    )


def make_exchange(
    comm: MPI.Comm, plan: Plan, parameters: torch.Tensor, wire: torch.dtype, carry: Carry = RowMessages
) -> NeighborhoodExchange | TransposedExchange:
    """Return the exchange that a plan is for, on a communicator from ``connect``."""
    if isinstance(plan, TransposePlan):
        return TransposedExchange(comm, plan, parameters, carry, wire)
    return NeighborhoodExchange(comm, plan, parameters, carry, wire)
