"""Local training of a stack of nodes at once, each on its own shard: the batched engine.

Nodes are independent, and so each goes through its own steps: the stack's step t is step t of every node that has one.
Those with the most samples come first in the stack, so that whoever still has steps is its front part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol

import numpy as np
import torch

from mpisim.learning.batches import Batch, BatchTable
from mpisim.learning.optimizers import Count, Optimizer, OptimizerSettings
from mpisim.learning.parameters import StateLayout, allocate_rows, assign_rows
from mpisim.learning.replay import Replays
from mpisim.learning.training import StackProximal, Transform

Tensors = list[torch.Tensor]


class Products(Protocol):
    """What computes the gradients of a stack, with some of its nodes' state (nodes, ...), the parameters first."""

    def gradients(self, state: Tensors, batch: Batch) -> tuple[torch.Tensor, Tensors]:
        """Return each node's mean loss, shape (num_nodes,), and the gradients of the parameters."""

    def descend(self, state: Tensors, batch: Batch, settings: OptimizerSettings) -> torch.Tensor | None:
        """Make a whole step, if it can be made better than from gradients; return each node's mean loss, or None."""


class StackPlan:
    """Which batches each node of a stack trains on, step by step.

    Parameters
    ----------
    table : the batches of all shards
    nodes : of the stack, as numbers of shards
    num_epochs : int

    Attributes
    ----------
    nodes : int64, those with the most samples first
    nodes_on_device : the same, to choose rows by
    sizes : int64, shape (num_nodes, num_steps)
        The samples in each batch; 0 where a node has no step left.
    steps_per_epoch : int64, shape (num_nodes,)
    """

    def __init__(self, table: BatchTable, nodes: np.ndarray, num_epochs: int):
        self.table = table
        self.nodes = nodes[np.argsort(-table.shard_sizes[nodes], kind="stable")]
        self.steps_per_epoch = table.batches_per_epoch[self.nodes]
        num_steps = self.steps_per_epoch * num_epochs
        steps = np.arange(num_steps.max())[:, np.newaxis]
        rows = table.firsts[self.nodes] + steps % table.counts[self.nodes]
        self.sizes = np.where(steps < num_steps, table.sizes[rows], 0).T
        device = table.samples.labels.device
        self.nodes_on_device = torch.from_numpy(self.nodes).to(device)
        self._rows = torch.from_numpy(rows).to(device)

    def parts(self, counts: np.ndarray) -> list[list[tuple[slice, int]]]:
        """Return, of each step, the (nodes, width) it is made in: neighbors in the stack that can share one product.

        Parameters
        ----------
        counts : int64, shape (num_nodes,)
            The steps that each node's optimizer has counted before.
        """
        of_steps = []
        for sizes in self.sizes.T:
            active = sizes[sizes > 0]
            keys = [(count, 0 if self.table.pads else size) for count, size in zip(counts, active, strict=False)]
            parts, end = [], 0
            for (_, size), part in groupby(keys):
                start, end = end, end + len(list(part))
                parts.append((slice(start, end), int(size) or self.table.width))
            of_steps.append(parts)
        return of_steps

    def rows(self, step: int, nodes: slice) -> torch.Tensor:
        """Return the rows of the table that some nodes take in a step, shape (num_nodes,)."""
        return self._rows[step, nodes]

    def take(self, step: int, nodes: slice, width: int, transforms: Sequence[Transform] | None) -> Batch:
        """Return the batches of some nodes in a step; ``transforms`` change each node's inputs."""
        batch = self.table.take(self.rows(step, nodes), nodes, width)
        inputs = batch.samples.inputs
        for of_node, transform in enumerate(() if transforms is None else transforms[nodes]):
            row = nodes.start + of_node
            size = self.sizes[row, step]
            which = batch.positions[of_node, :size] - int(self.table.starts[self.nodes[row]])
            inputs[of_node, :size] = transform(inputs[of_node, :size], which)
        return batch


def train_stack(
    products: Products,
    rows: torch.Tensor,
    layout: StateLayout,
    plan: StackPlan,
    optimizer: Optimizer,
    *,
    replays: Replays | None = None,
    transforms: Sequence[Transform] | None = None,
    proximal: StackProximal | None = None,
    after_epoch: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Train the nodes of a plan for its epochs; their rows change in place.

    Parameters
    ----------
    rows : float32 tensor, shape (num_own, num_columns)
        Rows of X; the plan's nodes are positions in it.
    layout : of a row
    optimizer : with a row of state for each node of the plan, in the plan's order
    replays : if given, what the steps are replayed by, with the memory they are made in; then neither ``transforms``
        nor ``proximal``
    transforms, proximal : of the nodes, in the plan's order
    after_epoch : function of (node, epochs so far), optional

    Returns
    -------
    float64, shape (num_nodes,), in the plan's order: as ``train_node`` returns it
    """
    in_place = len(plan.nodes) == 1 and replays is None
    stack = rows[plan.nodes[0] : plan.nodes[0] + 1] if in_place else _gathered(rows, plan.nodes_on_device, replays)
    state = layout.views(stack)
    losses = _no_losses(len(plan.nodes), rows.device, replays)
    if replays is not None:
        replays.begin(plan.table.memory)
    bound: dict[tuple[int, int], Callable[[Batch, Count], None]] = {}
    for step, parts in enumerate(plan.parts(optimizer.num_steps.copy())):
        for nodes, width in parts:
            place = nodes.start, nodes.stop
            if place not in bound:
                bound[place] = _bind(products, state, optimizer, losses, nodes, proximal)
            num_steps = int(optimizer.num_steps[nodes.start])
            if replays is None:
                bound[place](plan.take(step, nodes, width, transforms), num_steps)
            else:
                _replay(replays, plan, step, nodes, width, num_steps, bound[place])
            if optimizer.moments:  # one that remembers nothing need not count
                optimizer.num_steps[nodes] += 1
        if after_epoch is not None:
            for row in np.flatnonzero((step + 1) % plan.steps_per_epoch == 0):
                if plan.sizes[row, step]:
                    rows[plan.nodes[row]] = stack[row]
                    after_epoch(int(plan.nodes[row]), (step + 1) // int(plan.steps_per_epoch[row]))
    if not in_place:
        assign_rows(rows, plan.nodes, plan.nodes_on_device, stack)
    return np.asarray(losses.cpu().numpy() / plan.sizes.sum(axis=1))


def _gathered(rows: torch.Tensor, nodes: torch.Tensor, replays: Replays | None) -> torch.Tensor:
    stack = allocate_rows(len(nodes), rows.shape[1], rows.device) if replays is None else replays.rows[: len(nodes)]
    return torch.index_select(rows, 0, nodes, out=stack)


def _no_losses(count: int, device: torch.device, replays: Replays | None) -> torch.Tensor:
    if replays is None:
        return torch.zeros(count, dtype=torch.float64, device=device)
    return replays.losses[:count].zero_()


def _bind(
    products: Products,
    state: Tensors,
    optimizer: Optimizer,
    losses: torch.Tensor,
    nodes: slice,
    proximal: StackProximal | None,
) -> Callable[[Batch, Count], None]:
    """Return what makes a step of some nodes, given their batch and the steps that the optimizer has counted."""
    mine, mine_lost = [tensor[nodes] for tensor in state], losses[nodes]
    update = optimizer.bind_uncounted(mine[: len(optimizer.layout.shapes)], nodes)

    def step(batch: Batch, num_steps: Count) -> None:
        loss = None if proximal is not None else products.descend(mine, batch, optimizer.settings)
        if loss is None:
            loss, gradients = products.gradients(mine, batch)
            if proximal is not None:
                proximal.add_gradient(gradients, mine[: len(gradients)], nodes)
            update(gradients, num_steps)
        mine_lost.add_(loss * batch.sizes)

    return step


def _replay(
    replays: Replays,
    plan: StackPlan,
    step: int,
    nodes: slice,
    width: int,
    num_steps: int,
    part: Callable[[Batch, Count], None],
) -> None:
    table = plan.table  # and nothing else of the plan: a replay serves other plans too

    def make(rows: torch.Tensor, count: torch.Tensor) -> None:
        part(table.take(rows, nodes, width), count)

    replays.step((nodes.start, nodes.stop, width), plan.rows(step, nodes), num_steps, make)
