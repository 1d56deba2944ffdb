"""The batches of every shard as rows of a table that stays where it is: a step is told no more than numbers of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mpisim.data.shards import Samples, Splits
from mpisim.learning.parameters import ROW_ALIGNMENT


@dataclass(frozen=True)
class Batch:
    """The batches of some neighboring nodes of a stack in one step.

    Attributes
    ----------
    nodes : slice
        Of the stack.
    samples : inputs (num_nodes, width, ...) and labels (num_nodes, width)
    positions : int64 tensor, shape (num_nodes, width)
        Where the samples lie.
    weights : float32 tensor, shape (num_nodes, width)
        1 / the number of samples, 0 for padding.
    sizes : int64 tensor, shape (num_nodes,)
        The number of samples.
    """

    nodes: slice
    samples: Samples
    positions: torch.Tensor
    weights: torch.Tensor
    sizes: torch.Tensor


class BatchTable:
    """Which samples make each batch of each shard, for one epoch or, where their orders differ, for all of a round.

    Parameters
    ----------
    splits : the shards
    num_orders : int
        The epochs with an order of their own; 1 where each takes the samples as they lie.
    width : samples to pad batches to; None not to pad

    Attributes
    ----------
    sizes : int64, shape (num_rows,)
        The samples in each batch.
    starts, batches_per_epoch : int64, shape (num_shards,)
    firsts, counts : int64, shape (num_shards,)
        Each shard's first row, and the number of its rows.
    width : of a row
    """

    def __init__(self, splits: Splits, batch_size: int, num_orders: int, width: int | None):
        self.samples = splits.samples
        self.starts, self.shard_sizes = splits.starts, splits.sizes
        self.batch_size = batch_size
        self.pads, self.width = width is not None, width or batch_size
        self.batches_per_epoch = -(-self.shard_sizes // batch_size)
        self.counts = self.batches_per_epoch * num_orders
        self.firsts = np.cumsum(self.counts) - self.counts
        of_row = np.repeat(np.arange(len(self.counts)), self.counts)
        in_epoch = (np.arange(len(of_row)) - self.firsts[of_row]) % self.batches_per_epoch[of_row]
        self.sizes = np.minimum(batch_size, self.shard_sizes[of_row] - batch_size * in_epoch)
        sizes = self.sizes[:, np.newaxis]
        weights = np.where(np.arange(self.width) < sizes, (1 / sizes).astype(np.float32), np.float32(0))
        device = splits.samples.labels.device
        self._host = np.repeat(self.starts[of_row, np.newaxis], self.width, axis=1)
        self._positions = torch.from_numpy(self._host).to(device)  # on a CPU, the same memory
        self._weights = torch.from_numpy(weights).to(device)
        self._sizes = torch.from_numpy(self.sizes).to(device)
        self.set_orders({shard: [np.arange(size)] * num_orders for shard, size in enumerate(self.shard_sizes)})

    @property
    def memory(self) -> list[torch.Tensor]:
        """What ``take`` reads."""
        return [self.samples.inputs, self.samples.labels, self._positions, self._weights, self._sizes]

    def set_orders(self, orders: Mapping[int, Sequence[np.ndarray]]) -> None:
        """Set the order of samples in each epoch, for the shards given."""
        for shard, of_shard in orders.items():
            steps, size = self.batches_per_epoch[shard], self.shard_sizes[shard]
            for epoch, order in enumerate(of_shard):
                of_epoch = np.full(steps * self.batch_size, self.starts[shard])
                of_epoch[:size] += order
                first = self.firsts[shard] + epoch * steps
                self._host[first : first + steps, : self.batch_size] = of_epoch.reshape(steps, self.batch_size)
        if self._positions.device.type != "cpu":
            self._positions.copy_(torch.from_numpy(self._host))

    def take(self, rows: torch.Tensor, nodes: slice, width: int) -> Batch:
        """Return the batches of some nodes of a stack.

        Parameters
        ----------
        rows : int64 tensor, shape (num_nodes,)
        width : samples of each batch
        """
        positions, weights = self._positions.index_select(0, rows), self._weights.index_select(0, rows)
        if width < self.width:
            positions, weights = positions[:, :width], weights[:, :width]
        samples = self.samples.take(positions.flatten())
        inputs = samples.inputs.view(*positions.shape, *samples.inputs.shape[1:])
        samples = Samples(inputs, samples.labels.view(positions.shape))
        return Batch(nodes, samples, positions, weights, self._sizes.index_select(0, rows))


def padded_batch_size(batch_size: int, largest_shard: int) -> int:
    """Return the width to pad batches to: whole 64 bytes of scalars, and no more than some node needs."""
    return math.ceil(min(batch_size, largest_shard) / ROW_ALIGNMENT) * ROW_ALIGNMENT
