"""Optimizers: torch's own functional forms, on views of rows of X, with their state in matrices like X.

The first optimizer *object* of a process would import a compiler, 1.7 s of each rank's start-up. A state that is a
matrix is reset, kept from round to round and saved like X itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from mpisim.learning.parameters import StateLayout, allocate_rows, assign_rows

ADAM_EPSILON = 1e-8  # torch's default


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What an optimizer is told. ``momentum`` is SGD's, ``betas`` are Adam's."""

    name: str
    lr: float
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of what the optimizer remembers of each parameter."""
        if self.name == "sgd":
            return ("momentum",) if self.momentum else ()
        return ("first_moment", "second_moment")


Tensors = list[torch.Tensor]
Count = int | torch.Tensor  # of steps so far; a float64 scalar on the parameters' device where a replay reads it
Step = Callable[[Tensors], None]  # takes the gradients, updates the parameters in place
Update = Callable[[Tensors, Count], None]  # the same, but is told the steps so far and does not count them


class Optimizer:
    """An optimizer of some rows, with new state.

    Parameters
    ----------
    layout : of the parameters in a row
    num_rows : int

    Attributes
    ----------
    moments : float32 matrices by name, shape (num_rows, layout.num_columns)
    num_steps : int64, shape (num_rows,)
        Steps so far.
    """

    def __init__(self, settings: OptimizerSettings, layout: StateLayout, num_rows: int, device: torch.device):
        self.settings = settings
        self.layout = layout
        self.moments = {name: allocate_rows(num_rows, layout.num_columns, device) for name in settings.moments}
        self.num_steps = np.zeros(num_rows, dtype=np.int64)

    def of_rows(self, rows: np.ndarray) -> Optimizer:
        """Return an optimizer with a copy of the state of some rows, in the order given."""
        chosen = torch.from_numpy(rows)
        copy = Optimizer(self.settings, self.layout, 0, torch.device("cpu"))
        copy.moments = {name: moment[chosen.to(moment.device)] for name, moment in self.moments.items()}
        copy.num_steps = self.num_steps[rows]
        return copy

    def put_rows(self, rows: np.ndarray, other: Optimizer) -> None:
        """Take over the state of another optimizer's first rows as that of some rows."""
        for name, moment in self.moments.items():
            assign_rows(moment, rows, torch.from_numpy(rows).to(moment.device), other.moments[name][: len(rows)])
        self.num_steps[rows] = other.num_steps[: len(rows)]

    def begin(self, rows: np.ndarray, other: Optimizer | None) -> None:
        """Take over, in place, the state of some of another optimizer's rows as that of the first; None: new state."""
        for name, moment in self.moments.items():
            mine = moment[: len(rows)]
            if other is None:
                mine.zero_()
            else:
                mine.copy_(other.moments[name][torch.from_numpy(rows).to(moment.device)])
        self.num_steps[: len(rows)] = 0 if other is None else other.num_steps[rows]

    def bind(self, parameters: Tensors, rows: int | slice) -> Step:
        """Return what updates some parameters with the state of one row or, stacked, of several.

        Parameters
        ----------
        parameters : views of X, in the layout's shapes; with a first dimension of rows where ``rows`` is a slice
        rows : rows of the state; those of a slice have made the same number of steps
        """
        update = self.bind_uncounted(parameters, rows)

        def step(gradients: Tensors) -> None:
            count = np.asarray(self.num_steps[rows])
            update(gradients, int(count.flat[0]))
            self.num_steps[rows] += 1

        return step

    def bind_uncounted(self, parameters: Tensors, rows: int | slice) -> Update:
        """Return what ``bind`` returns, but for whoever counts the steps."""
        moments = {name: self.layout.views(moment[rows]) for name, moment in self.moments.items()}
        return partial(OPTIMIZERS[self.settings.name], self.settings, parameters, moments)


def _sgd(
    settings: OptimizerSettings, parameters: Tensors, moments: dict[str, Tensors], gradients: Tensors, _: Count
) -> None:
    buffers: list[torch.Tensor | None] = [None] * len(parameters)
    if settings.momentum:
        # From zero, the first momentum is the first gradient, as torch begins it.
        buffers = list(moments["momentum"])
    sgd(
        parameters,
        gradients,
        buffers,
        foreach=True,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        lr=settings.lr,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )


def _adam_like(function: Callable[..., None]) -> Callable[..., None]:
    def update(
        settings: OptimizerSettings,
        parameters: Tensors,
        moments: dict[str, Tensors],
        gradients: Tensors,
        num_steps: Count,
    ) -> None:
        # The function counts on what it is given: each parameter has a count of its own.
        if isinstance(num_steps, torch.Tensor):
            counts = [num_steps.clone() for _ in parameters]
        else:
            counts = [torch.tensor(float(num_steps)) for _ in parameters]
        function(
            parameters,
            gradients,
            moments["first_moment"],
            moments["second_moment"],
            [],
            counts,
            foreach=True,
            capturable=isinstance(num_steps, torch.Tensor),
            amsgrad=False,
            beta1=settings.betas[0],
            beta2=settings.betas[1],
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            eps=ADAM_EPSILON,
            maximize=False,
        )

    return update


OPTIMIZERS: dict[str, Callable[..., None]] = {
    "adam": _adam_like(adam),
    "adamw": _adam_like(adamw),
    "sgd": _sgd,
}
