"""Local training of a stack of nodes at once, each on its own shard: the batched engine.

Nodes are independent, and so each goes through its own steps: the stack's step t is step t of every node that has one.
Those with the most samples come first in the stack, so that whoever still has steps is its front part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import torch

from mpisim.data.shards import Samples, Splits
from mpisim.learning.optimizers import Optimizer, OptimizerSettings, Step
from mpisim.learning.parameters import ROW_ALIGNMENT, StateLayout, allocate_rows
from mpisim.learning.training import StackProximal, Transform

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """The batches of some neighboring nodes of a stack in one step.

    Attributes
    ----------
    nodes : slice
        Of the stack.
    samples : inputs (num_nodes, width, ...) and labels (num_nodes, width)
    weights : float32 tensor, shape (num_nodes, width)
        1 / the number of samples, 0 for padding.
    """

    nodes: slice
    samples: Samples
    weights: torch.Tensor


class Products(Protocol):
    """What computes the gradients of a stack, with some of its nodes' state (nodes, ...), the parameters first."""

    def gradients(self, state: Tensors, batch: Batch) -> tuple[torch.Tensor, Tensors]:
        """Return each node's mean loss, shape (num_nodes,), and the gradients of the parameters."""

    def descend(self, state: Tensors, batch: Batch, settings: OptimizerSettings) -> torch.Tensor | None:
        """Make a whole step, if it can be made better than from gradients; return each node's mean loss, or None."""


class StackPlan:
    """Which samples each node of a stack trains on, step by step.

    Parameters
    ----------
    splits : the shards
    nodes : of the stack, as positions in ``splits``
    orders : of each of these nodes, for each epoch the order of its samples; None where all take them as they lie
    width : samples to pad batches to; None not to pad

    Attributes
    ----------
    nodes : int64, those with the most samples first
    sizes : int64, shape (num_nodes, num_steps)
        The samples in each batch; 0 where a node has no step left.
    steps_per_epoch : int64, shape (num_nodes,)
    """

    def __init__(
        self,
        splits: Splits,
        nodes: np.ndarray,
        batch_size: int,
        num_epochs: int,
        orders: Sequence[Sequence[np.ndarray]] | None,
        width: int | None,
    ):
        by_size = np.argsort(-splits.sizes[nodes], kind="stable")
        self.nodes = nodes[by_size]
        self.steps_per_epoch = -(-splits.sizes[self.nodes] // batch_size)
        num_steps = int(self.steps_per_epoch.max()) * num_epochs
        self.sizes = np.zeros((len(nodes), num_steps), dtype=np.int64)
        self._pads = width is not None
        positions = np.empty((len(nodes), num_steps, width or batch_size), dtype=np.int64)
        for row, (node, steps) in enumerate(zip(self.nodes, self.steps_per_epoch, strict=True)):
            start, size = splits.starts[node], splits.sizes[node]
            positions[row] = start
            for epoch in range(num_epochs):
                order = np.arange(size) if orders is None else orders[by_size[row]][epoch]
                of_epoch = np.full(steps * batch_size, start)
                of_epoch[:size] += order
                where = slice(epoch * steps, (epoch + 1) * steps)
                positions[row, where, :batch_size] = of_epoch.reshape(steps, batch_size)
                self.sizes[row, where] = np.minimum(batch_size, size - batch_size * np.arange(steps))
        counts = self.sizes[:, :, np.newaxis]
        weights = (np.arange(positions.shape[2]) < counts) / np.maximum(counts, 1)
        self._samples = splits.samples
        self._starts = splits.starts[self.nodes]
        device = splits.samples.labels.device
        self._positions = torch.from_numpy(positions).to(device)
        self._weights = torch.from_numpy(weights.astype(np.float32)).to(device)

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
            keys = [(count, 0 if self._pads else size) for count, size in zip(counts, active, strict=False)]
            parts, end = [], 0
            for (_, size), part in groupby(keys):
                start, end = end, end + len(list(part))
                parts.append((slice(start, end), int(size) or self._positions.shape[2]))
            of_steps.append(parts)
        return of_steps

    def take(self, step: int, nodes: slice, width: int, transforms: Sequence[Transform] | None) -> Batch:
        """Return the batches of some nodes in a step; ``transforms`` change each node's inputs."""
        positions = self._positions[nodes, step, :width]
        samples = self._samples.take(positions.flatten())
        inputs = samples.inputs.view(*positions.shape, *samples.inputs.shape[1:])
        for of_node, transform in enumerate(() if transforms is None else transforms[nodes]):
            row = nodes.start + of_node
            size = self.sizes[row, step]
            which = positions[of_node, :size] - int(self._starts[row])
            inputs[of_node, :size] = transform(inputs[of_node, :size], which)
        return Batch(nodes, Samples(inputs, samples.labels.view(positions.shape)), self._weights[nodes, step, :width])


def padded_batch_size(batch_size: int, largest_shard: int) -> int:
    """Return the width to pad batches to: whole 64 bytes of scalars, and no more than some node needs."""
    return math.ceil(min(batch_size, largest_shard) / ROW_ALIGNMENT) * ROW_ALIGNMENT


def train_stack(
    products: Products,
    rows: torch.Tensor,
    layout: StateLayout,
    plan: StackPlan,
    optimizer: Optimizer,
    *,
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
    transforms, proximal : of the nodes, in the plan's order
    after_epoch : function of (node, epochs so far), optional

    Returns
    -------
    float64, shape (num_nodes,), in the plan's order: as ``train_node`` returns it
    """
    alone = len(plan.nodes) == 1
    stack = rows[plan.nodes[0] : plan.nodes[0] + 1] if alone else _gathered(rows, plan.nodes)
    state = layout.views(stack)
    losses = torch.zeros(len(plan.nodes), dtype=torch.float64, device=rows.device)
    sizes = torch.from_numpy(plan.sizes).to(rows.device)
    bound: dict[tuple[int, int], tuple[Tensors, Step]] = {}
    for step, parts in enumerate(plan.parts(optimizer.num_steps.copy())):
        for nodes, width in parts:
            batch = plan.take(step, nodes, width, transforms)
            if (nodes.start, nodes.stop) not in bound:
                mine = [tensor[nodes] for tensor in state]
                bound[nodes.start, nodes.stop] = mine, optimizer.bind(mine[: len(optimizer.layout.shapes)], nodes)
            mine, update = bound[nodes.start, nodes.stop]
            loss = None if proximal is not None else products.descend(mine, batch, optimizer.settings)
            if loss is None:
                loss, gradients = products.gradients(mine, batch)
                if proximal is not None:
                    proximal.add_gradient(gradients, mine[: len(gradients)], nodes)
                update(gradients)
            losses[nodes] += loss * sizes[nodes, step]
        if after_epoch is not None:
            for row in np.flatnonzero((step + 1) % plan.steps_per_epoch == 0):
                if plan.sizes[row, step]:
                    rows[plan.nodes[row]] = stack[row]
                    after_epoch(int(plan.nodes[row]), (step + 1) // int(plan.steps_per_epoch[row]))
    if not alone:
        rows[torch.from_numpy(plan.nodes).to(rows.device)] = stack
    return np.asarray(losses.cpu().numpy() / plan.sizes.sum(axis=1))


def _gathered(rows: torch.Tensor, nodes: np.ndarray) -> torch.Tensor:
    stack = allocate_rows(len(nodes), rows.shape[1], rows.device)
    return torch.index_select(rows, 0, torch.from_numpy(nodes).to(rows.device), out=stack)
