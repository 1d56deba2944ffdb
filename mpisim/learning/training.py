"""Local training, node by node, in place in the node's row of X: the sequential engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

from mpisim.data.shards import Samples
from mpisim.learning.optimizers import Step
from mpisim.learning.parameters import BoundModel

# A function of (inputs of a batch, what selected them in the shard) to the inputs to train on.
Transform = Callable[[torch.Tensor, slice | torch.Tensor], torch.Tensor]


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


@dataclass(frozen=True)
class StackProximal:
    """The proximal term of a stack of nodes.

    Attributes
    ----------
    nums_neighbors : float32 tensor, shape (num_nodes,)
    neighbor_sums : list of tensors
        Σ_j x_j of each node, in the shapes of the stacked parameters.
    """

    strength: float
    nums_neighbors: torch.Tensor
    neighbor_sums: list[torch.Tensor]

    def add_gradient(self, gradients: list[torch.Tensor], parameters: list[torch.Tensor], nodes: slice) -> None:
        """Add the gradient of some nodes of the stack, in place."""
        for gradient, parameter, total in zip(gradients, parameters, self.neighbor_sums, strict=True):
            times = self.nums_neighbors[nodes].view(-1, *[1] * (parameter.dim() - 1))
            gradient.addcmul_(times, parameter, value=self.strength).sub_(total[nodes], alpha=self.strength)


def train_node(
    model: BoundModel,
    row: torch.Tensor,
    shard: Samples,
    step: Step,
    batch_size: int,
    orders: list[torch.Tensor | None],
    counters: list[torch.Tensor] | None = None,
    *,
    transform: Transform | None = None,
    proximal: Proximal | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> float:
    """Train one node for some epochs; its row of X changes in place.

    Parameters
    ----------
    row : float32 tensor, shape (num_columns,)
    step : from ``Optimizer.bind``
    orders : list of (int64 tensor of shape (num_samples,), or None)
        One for each epoch: the order of the samples, None for the order they lie in.
    counters : the node's integer buffers, which change in place; None if nobody keeps them
    transform : Transform, optional
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
