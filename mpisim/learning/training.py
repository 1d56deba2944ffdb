"""Local training, node by node, in place in the node's row of X (the sequential engine).

Optimizers are torch's own functional forms on the row's views: the first optimizer *object* of a process would import a
compiler, 1.7 s of each rank's start-up. Their state is new each round, as in the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from mpisim.data.shards import Samples
from mpisim.learning.parameters import BoundModel

ADAM_EPSILON = 1e-8  # torch's default


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What an optimizer is told. ``momentum`` is SGD's, ``betas`` are Adam's."""

    name: str
    lr: float
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


Step = Callable[[list[torch.Tensor]], None]  # takes the gradients, updates the parameters in place


def _sgd(settings: OptimizerSettings, parameters: list[torch.Tensor]) -> Step:
    buffers: list[torch.Tensor | None] = [None] * len(parameters)

    def step(gradients: list[torch.Tensor]) -> None:
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

    return step


def _adam_like(function: Callable[..., None]) -> Callable[[OptimizerSettings, list[torch.Tensor]], Step]:
    def make(settings: OptimizerSettings, parameters: list[torch.Tensor]) -> Step:
        first = [torch.zeros_like(parameter) for parameter in parameters]
        second = [torch.zeros_like(parameter) for parameter in parameters]
        steps = [torch.zeros(()) for _ in parameters]

        def step(gradients: list[torch.Tensor]) -> None:
            function(
                parameters,
                gradients,
                first,
                second,
                [],
                steps,
                foreach=True,
                amsgrad=False,
                beta1=settings.betas[0],
                beta2=settings.betas[1],
                lr=settings.lr,
                weight_decay=settings.weight_decay,
                eps=ADAM_EPSILON,
                maximize=False,
            )

        return step

    return make


OPTIMIZERS: dict[str, Callable[[OptimizerSettings, list[torch.Tensor]], Step]] = {
    "adam": _adam_like(adam),
    "adamw": _adam_like(adamw),
    "sgd": _sgd,
}


def new_step(model: BoundModel, settings: OptimizerSettings) -> Step:
    """Return an optimizer with new state, for whatever row the model is bound to when it is called."""
    return OPTIMIZERS[settings.name](settings, model.parameters)


def batches(num_samples: int, batch_size: int, order: torch.Tensor | None) -> Iterator[slice | torch.Tensor]:
    """Yield what selects each batch: slices in the order the samples lie, or parts of a shuffled order.

    The last batch is short where the batch size does not divide the shard; no sample is left out.
    """
    for start in range(0, num_samples, batch_size):
        stop = min(start + batch_size, num_samples)
        yield slice(start, stop) if order is None else order[start:stop]


@dataclass(frozen=True)
class Proximal:
    """The proximal term (strength / 2) · Σ_j ‖x - x_j‖² over the neighbors j, as they were when the round began.

    Attributes
    ----------
    strength : float
    num_neighbors : int
    neighbor_sum : list of tensors
        Σ_j x_j, in the shapes of the parameters.

    References
    ----------
    Li et al., "Federated optimization in heterogeneous networks" (FedProx), 2020; with a node's neighbors in place of
    the server.
    """

    strength: float
    num_neighbors: int
    neighbor_sum: list[torch.Tensor]

    def add_gradient(self, gradients: list[torch.Tensor], parameters: list[torch.Tensor]) -> None:
        """Add the term's gradient, strength · (num_neighbors · x - Σ_j x_j), in place."""
        torch._foreach_add_(gradients, parameters, alpha=self.strength * self.num_neighbors)
        torch._foreach_sub_(gradients, self.neighbor_sum, alpha=self.strength)


def train_node(
    model: BoundModel,
    row: torch.Tensor,
    shard: Samples,
    step: Step,
    batch_size: int,
    orders: list[torch.Tensor | None],
    counters: list[torch.Tensor] | None = None,
    *,
    transform: Callable[[torch.Tensor, slice | torch.Tensor], torch.Tensor] | None = None,
    proximal: Proximal | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> float:
    """Train one node for some epochs; its row of X changes in place.

    Parameters
    ----------
    row : float32 tensor, shape (num_columns,)
    step : from ``new_step``
    orders : list of (int64 tensor of shape (num_samples,), or None)
        One for each epoch: the order of the samples, None for the order they lie in.
    counters : the node's integer buffers, which change in place; None if nobody keeps them
    transform : function of (inputs of a batch, what selected them), optional
        Returns the inputs to train on.
    proximal : Proximal, optional
    after_epoch : function of the number of epochs so far, optional
        It may test the model.

    Returns
    -------
    float
        The mean over epochs and samples of the loss (cross-entropy, in nats, without the proximal term), each taken
        when its batch was trained on.
    """
    losses: list[torch.Tensor] = []
    sizes: list[int] = []
    model.bind(row, counters)
    for epoch, order in enumerate(orders, start=1):
        model.module.train()
        for batch in batches(len(shard), batch_size, order):
            samples = shard.take(batch)
            if transform is not None:
                samples = Samples(transform(samples.inputs, batch), samples.labels)
            logits, targets, _ = model.predictions(samples)
            loss = F.cross_entropy(logits, targets)
            gradients = list(torch.autograd.grad(loss, model.parameters))
            with torch.no_grad():
                if proximal is not None:
                    proximal.add_gradient(gradients, model.parameters)
                step(gradients)
            losses.append(loss.detach())
            sizes.append(len(samples))
        if after_epoch is not None:
            after_epoch(epoch)
    # Read once: a look at every loss would make a GPU wait for each step.
    values = torch.stack(losses).double().cpu()
    return float((values * torch.tensor(sizes, dtype=torch.float64)).sum()) / (len(shard) * len(orders))
