"""The parameters matrix X: one row per node, one column per scalar of the flattened model state.

The row *is* the model: a node's tensors (parameters and floating buffers) are views into it, so flattening costs
nothing, optimizers update X in place, and mixing changes the models without a copy. Integer buffers (BatchNorm counts
its batches) cannot be mixed: they stay outside the row, and every node has its own.

Rows start on 64-byte bounds. A matrix product may round differently with another alignment of its operands, and which
row of X a node has depends on the number of ranks: with aligned rows a node gets the same bits anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mpisim.data.shards import Samples
from mpisim.learning.objective import OBJECTIVES, Predictions
from mpisim.learning.precision import autocast

FLOAT_BYTES = 4
ROW_ALIGNMENT = 16  # float32 scalars: 64 bytes


def row_stride(num_columns: int) -> int:
    """Return the distance between rows, in scalars: the columns and what fills up the last 64 bytes."""
    return math.ceil(num_columns / ROW_ALIGNMENT) * ROW_ALIGNMENT


def allocate_rows(num_rows: int, num_columns: int, device: torch.device) -> torch.Tensor:
    """Return a float32 matrix of zeros, shape (num_rows, num_columns), whose rows start on 64-byte bounds."""
    shape = (num_rows, row_stride(num_columns))
    whole = torch.zeros(shape, device=device) if device.type != "cpu" else host_rows(*shape)
    return whole[:, :num_columns]


def host_rows(num_rows: int, stride: int) -> torch.Tensor:
    """Return a float32 matrix of zeros in host memory that starts on a 64-byte bound.

    numpy asks the system for huge pages where an array is large, and torch does not: with the small ones that it is
    then given, messages of 20 MB between two ranks took 1.1 to 1.7 times as long.
    """
    memory = np.zeros(num_rows * stride + ROW_ALIGNMENT, dtype=np.float32)
    first = -memory.ctypes.data % (FLOAT_BYTES * ROW_ALIGNMENT) // FLOAT_BYTES
    return torch.from_numpy(memory[first : first + num_rows * stride].reshape(num_rows, stride))


def assign_rows(matrix: torch.Tensor, numbers: np.ndarray, there: torch.Tensor, rows: torch.Tensor) -> None:
    """Replace some rows of a matrix, none of them twice, by others, on the same device.

    Where torch computes deterministically, one by one: a GPU would change all at once in a copy of the whole matrix.

    Parameters
    ----------
    numbers, there : int64, shape (num_rows,)
        Which, on the host and on the device.
    """
    if torch.are_deterministic_algorithms_enabled():
        for number, row in zip(numbers.tolist(), rows, strict=True):
            matrix[number].copy_(row)
    else:
        matrix[there] = rows


def on_host(rows: torch.Tensor) -> np.ndarray:
    """Return a matrix of rows in host memory: a CPU's as it is, a device's copied row by row.

    At once, rows with gaps between them would first be copied together on the device, which may have no room for that.
    """
    if rows.device.type == "cpu":
        return np.asarray(rows.numpy())
    copies = torch.empty(rows.shape, dtype=rows.dtype)
    for row, copy in zip(rows, copies, strict=True):
        copy.copy_(row)
    return np.asarray(copies.numpy())


def fill_from_host(rows: torch.Tensor, values: np.ndarray) -> None:
    """Copy values, of the same shape, to a matrix of rows: row by row, for the same reason."""
    for row, value in zip(rows, torch.from_numpy(values), strict=True):
        row.copy_(value)


@dataclass(frozen=True)
class StateLayout:
    """Where each tensor of a model's state lies in a row.

    Attributes
    ----------
    names : of the parameters, then of the floating buffers, as in the module's ``state_dict``
    shapes, offsets : of each tensor; an offset is a column of X
    num_columns : int
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    offsets: tuple[int, ...]
    num_columns: int

    @classmethod
    def of(cls, module: nn.Module) -> StateLayout:
        """Return the layout of a module's state."""
        tensors = _state(module)
        offsets = [0]
        for tensor in tensors.values():
            offsets.append(offsets[-1] + tensor.numel())
        return cls(tuple(tensors), tuple(t.shape for t in tensors.values()), tuple(offsets[:-1]), offsets[-1])

    def head(self, count: int) -> StateLayout:
        """Return the layout of the first tensors alone."""
        end = self.offsets[count] if count < len(self.offsets) else self.num_columns
        return StateLayout(self.names[:count], self.shapes[:count], self.offsets[:count], end)

    def views(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return the tensors that a row holds, in the order of ``names``, sharing its memory.

        Of a matrix of rows, each tensor has a first dimension of rows.
        """
        return [
            rows[..., offset : offset + shape.numel()].view((*rows.shape[:-1], *shape))
            for offset, shape in zip(self.offsets, self.shapes, strict=True)
        ]


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    floating = {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()}
    return dict(module.named_parameters()) | floating


class BoundModel:
    """One module that computes with the row of any node: ``bind`` makes a row's views its tensors.

    Parameters
    ----------
    module : nn.Module
        Gives the architecture, and the first values of the integer buffers; its other values are lost at the first
        ``bind``.
    objective : a name in OBJECTIVES
        What its outputs predict.
    precision : torch.float32 or torch.bfloat16
        Of the factors of its products.
    """

    def __init__(self, module: nn.Module, objective: str = "image", precision: torch.dtype = torch.float32):
        self.module = module
        self.precision = precision
        self.objective = OBJECTIVES[objective]
        self.layout = StateLayout.of(module)
        self.parameters: list[torch.Tensor] = list(module.parameters())
        self._tensors = list(_state(module).values())
        integer = {name: buffer for name, buffer in module.named_buffers() if not buffer.is_floating_point()}
        self.counter_names = tuple(integer)
        self._counters = list(integer.values())
        self._first_counters = [counter.clone() for counter in self._counters]

    @property
    def parameter_layout(self) -> StateLayout:
        """Where the parameters lie in a row: before everything else."""
        return self.layout.head(len(self.parameters))

    def new_counters(self) -> list[torch.Tensor]:
        """Return integer buffers for a node, with their first values, in the order of the module's buffers."""
        return [counter.clone() for counter in self._first_counters]

    def bind(self, row: torch.Tensor, counters: list[torch.Tensor] | None = None) -> None:
        """Let the module compute with, and training change, this row of X and these integer buffers.

        Parameters
        ----------
        row : float32 tensor, shape (num_columns,)
        counters : what ``new_counters`` returned; None for integer buffers that are nobody's, new ones each time
        """
        for tensor, view in zip(self._tensors, self.layout.views(row), strict=True):
            tensor.data = view
        for tensor, counter in zip(self._counters, counters or self.new_counters(), strict=True):
            tensor.data = counter

    def predictions(self, samples: Samples) -> Predictions:
        """Return the logits, targets and labels of what the bound model predicts about some samples."""
        with autocast(self.precision, samples.labels.device):
            logits, targets, labels = self.objective(self.module(samples.inputs), samples)
        return logits.float(), targets, labels

    @torch.no_grad()
    def read(self, module: nn.Module, row: torch.Tensor) -> None:
        """Fill a row with the state of another module of the same architecture."""
        for view, tensor in zip(self.layout.views(row), _state(module).values(), strict=True):
            view.copy_(tensor)
