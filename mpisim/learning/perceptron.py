"""Perceptrons written out as matrix products, for a stack of nodes at a time: no autograd, no copies.

A step of a small perceptron costs torch's autograd and its dispatch of layers several times what the products cost; and
a large one trains faster when plain SGD adds the gradient's product straight to the weights.

A node's results are the same bits in whatever stack it trains: the product of each node's matrices is computed by
itself, and every operand starts on a 64-byte bound, if the batches are padded to a multiple of ROW_ALIGNMENT samples.
"""

from __future__ import annotations

import torch
from torch import nn

from mpisim.learning.batches import Batch
from mpisim.learning.optimizers import OptimizerSettings

Tensors = list[torch.Tensor]  # weights (nodes, out, in) and biases (nodes, out), layer after layer


def is_perceptron(module: nn.Module) -> bool:
    """Return whether a module is linear layers with biases, and ReLU between them, on flattened input."""
    if not isinstance(module, nn.Sequential):
        return False
    first, linear, between = list(module)[:1], list(module)[1::2], list(module)[2::2]
    return (
        all(type(layer) is nn.Flatten for layer in first)
        and len(linear) == len(between) + 1
        and all(type(layer) is nn.Linear and layer.bias is not None for layer in linear)
        and all(type(layer) is nn.ReLU for layer in between)
    )


def logits(parameters: Tensors, inputs: torch.Tensor) -> torch.Tensor:
    """Return the outputs, shape (num_nodes, num_samples, num_classes), for inputs (num_nodes, num_samples, inputs).

    They are float32, also where the parameters, and with them the factors of all products, have a lower precision.
    """
    return _activations(parameters, inputs.to(parameters[0].dtype))[-1].float()


def _activations(parameters: Tensors, inputs: torch.Tensor) -> Tensors:
    """Return the inputs, and what comes out of each layer."""
    activations = [inputs]
    for weight, bias in zip(parameters[0::2], parameters[1::2], strict=True):
        if len(activations) > 1:
            activations[-1].relu_()
        activations.append(torch.baddbmm(bias.unsqueeze(1), activations[-1], weight.mT))
    return activations


def _loss(outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each node's mean cross-entropy, and its derivative by the outputs."""
    log_shares = torch.log_softmax(outputs, dim=2)
    labels = batch.samples.labels.unsqueeze(2)
    loss = (log_shares.gather(2, labels).squeeze(2) * batch.weights).sum(dim=1).neg_()
    slope = log_shares.exp_()
    slope.scatter_add_(2, labels, torch.full_like(labels, -1, dtype=slope.dtype))
    return loss, slope.mul_(batch.weights.unsqueeze(2))


class PerceptronProducts:
    """A stack's gradients, and its steps of plain SGD: see ``stack.Products``.

    Parameters
    ----------
    precision : torch.float32 or torch.bfloat16
        What the factors of all products are rounded to, as ``torch.autocast`` and autograd would round them.
    """

    def __init__(self, precision: torch.dtype = torch.float32):
        self._precision = precision

    @torch.no_grad()
    def gradients(self, state: Tensors, batch: Batch) -> tuple[torch.Tensor, Tensors]:
        """Return each node's mean loss, shape (num_nodes,), and the gradients, in the order of the parameters."""
        state = [tensor.to(self._precision) for tensor in state]
        *activations, outputs = _activations(state, batch.samples.inputs.flatten(2).to(self._precision))
        loss, slope = _loss(outputs.float(), batch)
        slope = slope.to(self._precision)
        found: Tensors = []
        for layer in reversed(range(len(activations))):
            found[:0] = [torch.bmm(slope.mT, activations[layer]).float(), slope.sum(dim=1, dtype=torch.float32)]
            if layer > 0:
                slope = _slope_below(slope, state[2 * layer], activations[layer])
        return loss, found

    @torch.no_grad()
    def descend(self, state: Tensors, batch: Batch, settings: OptimizerSettings) -> torch.Tensor | None:
        """Make a step of plain SGD, whose products add straight to the weights; None for other optimizers.

        And None in a lower precision: products of such factors have their type, and do not add to float32 weights.
        """
        if settings.name != "sgd" or settings.moments or self._precision != torch.float32:
            return None
        *activations, outputs = _activations(state, batch.samples.inputs.flatten(2))
        loss, slope = _loss(outputs, batch)
        keep = 1 - settings.lr * settings.weight_decay
        for layer in reversed(range(len(activations))):
            weight, bias = state[2 * layer], state[2 * layer + 1]
            below = _slope_below(slope, weight, activations[layer]) if layer > 0 else slope
            weight.baddbmm_(slope.mT, activations[layer], beta=keep, alpha=-settings.lr)
            bias.mul_(keep).sub_(slope.sum(dim=1), alpha=settings.lr)
            slope = below
        return loss


def _slope_below(slope: torch.Tensor, weight: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
    """Return the loss's derivative by what went into a layer, before the ReLU that made it."""
    below: torch.Tensor = torch.ops.aten.threshold_backward(torch.bmm(slope, weight), activation, 0)
    return below
