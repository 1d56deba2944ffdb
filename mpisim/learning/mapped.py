"""Any model's gradients for a stack of nodes, by ``torch.func``: one call for all nodes, each with its own parameters.

Batches must not be padded here: BatchNorm's statistics are those of a batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from mpisim.data.shards import Samples
from mpisim.learning.batches import Batch
from mpisim.learning.optimizers import OptimizerSettings
from mpisim.learning.parameters import BoundModel
from mpisim.learning.precision import within_vmap
from mpisim.models.dropout import Generators, dropouts

Tensors = list[torch.Tensor]


class MappedProducts:
    """A stack's gradients: see ``stack.Products``.

    Parameters
    ----------
    model : BoundModel
    counters : integer buffers of the stack's nodes, each of shape (num_nodes, ...); they change in place
    generators : of each node, for its dropout
    """

    def __init__(self, model: BoundModel, counters: Tensors, generators: Generators):
        self._model = model
        self._counters = counters
        self._generators = generators
        self._dropouts = dropouts(model.module)
        self._mapped = torch.func.vmap(self._loss_of_node)

    def _loss_of_node(
        self, state: tuple[torch.Tensor, ...], counters: tuple[torch.Tensor, ...], samples: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        tensors = dict(zip(self._model.layout.names, state, strict=True))
        tensors |= dict(zip(self._model.counter_names, counters, strict=True))
        inputs, labels = samples
        with within_vmap(self._model.precision):
            outputs = torch.func.functional_call(self._model.module, tensors, (inputs,))
        logits, targets, _ = self._model.objective(outputs, Samples(inputs, labels))
        return F.cross_entropy(logits.float(), targets)

    def gradients(self, state: Tensors, batch: Batch) -> tuple[torch.Tensor, Tensors]:
        """Return each node's mean loss, shape (num_nodes,), and the gradients of the parameters."""
        count = len(self._model.parameters)
        parameters = [tensor.detach().requires_grad_() for tensor in state[:count]]
        for layer in self._dropouts:
            layer.generators = self._generators[batch.nodes]
        self._model.module.train()
        buffers = [tensor.clone() for tensor in state[count:]]  # vmap changes in place only what lies in one piece
        with sdpa_kernel(SDPBackend.MATH):  # vmap knows no other attention, and would fall back to node by node
            losses = self._mapped(
                (*parameters, *buffers),
                tuple(counter[batch.nodes] for counter in self._counters),
                (batch.samples.inputs, batch.samples.labels),
            )
        gradients = list(torch.autograd.grad(losses.sum(), parameters))
        for tensor, buffer in zip(state[count:], buffers, strict=True):
            tensor.copy_(buffer)
        return losses.detach(), gradients

    def descend(self, state: Tensors, batch: Batch, settings: OptimizerSettings) -> torch.Tensor | None:
        """Return None: every step is made from gradients."""
