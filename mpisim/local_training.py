"""Local training of one rank's nodes for a round: what each is trained with, by whichever engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from mpisim.config import Config
from mpisim.data.augment import crop_and_flip
from mpisim.data.shards import Splits
from mpisim.learning.batches import BatchTable, padded_batch_size
from mpisim.learning.engine import Engine
from mpisim.learning.mapped import MappedProducts
from mpisim.learning.optimizers import Optimizer, OptimizerSettings
from mpisim.learning.parameters import BoundModel, fill_from_host, on_host
from mpisim.learning.perceptron import PerceptronProducts, is_perceptron
from mpisim.learning.replay import Recorder, Replays
from mpisim.learning.stack import Products, StackPlan, train_stack
from mpisim.learning.training import Proximal, StackProximal, Transform, train_node
from mpisim.models.dropout import dropouts
from mpisim.streams import Purpose, stream, torch_seed


def optimizer_settings(config: Config) -> OptimizerSettings:
    """Return what the options say of the optimizer."""
    return OptimizerSettings(
        name=str(config.optimizer),
        lr=float(config.lr or 0),
        momentum=config.momentum,
        betas=(config.betas[0], config.betas[1]),
        weight_decay=config.weight_decay,
    )


def replay_obstacle(config: Config, module: nn.Module) -> str | None:
    """Return why the steps of a stack cannot be replayed on a GPU; None if they can."""
    obstacles = {
        "--augment draws on the host": config.augment,
        "--proximal reads other models in each round": bool(config.proximal),
        "dropout draws from a generator for each node": any(layer.p > 0 for layer in dropouts(module)),
    }
    return next((reason for reason, is_so in obstacles.items() if is_so), None)


AfterEpoch = Callable[[int, int], None]  # of a node's position, and the number of its epochs so far
NeighborSums = tuple[torch.Tensor, np.ndarray]


class LocalTraining:
    """Trains nodes in place in their rows of X.

    Parameters
    ----------
    own : int64, shape (num_own,)
        The nodes.
    shards : of these nodes
    largest_shard : int
        Of all nodes of the topology: batches are padded alike on every rank.
    parameters : float32 tensor, shape (num_own, num_columns)
    counters : of each node, its integer buffers
    black : float
        What a pixel of 0 is after normalisation.
    recorder : what records the steps of stacks, to be replayed; None to make each as it is

    Attributes
    ----------
    kept : the optimizer's state of every node, where it is kept from round to round
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        own: np.ndarray,
        shards: Splits,
        largest_shard: int,
        model: BoundModel,
        parameters: torch.Tensor,
        counters: list[list[torch.Tensor]],
        black: float,
        recorder: Recorder | None = None,
    ):
        self.config, self.engine = config, engine
        self.own, self.shards = own, shards
        self.model, self.parameters, self.counters = model, parameters, counters
        self.black = black
        self.batch_size = min(int(config.batch_size or 1), largest_shard)
        self._settings = optimizer_settings(config)
        self._is_perceptron = is_perceptron(model.module)
        self._width = padded_batch_size(self.batch_size, largest_shard) if self._is_perceptron else None
        self.kept = self._new_optimizer(len(own)) if config.keep_optimizer_state else None
        self._plans: dict[bytes, StackPlan] = {}
        self._table, self._replays = None, None
        if engine.batched:
            self._table = BatchTable(shards, self.batch_size, config.epochs if config.shuffle else 1, self._width)
        if engine.batched and recorder is not None and replay_obstacle(config, model.module) is None:
            rows = min(engine.stack, len(own))
            memory = self._new_optimizer(rows), model.new_counters(), parameters.device
            self._replays = Replays(recorder, model.layout, rows, *memory)

    def state(self) -> dict[str, np.ndarray]:
        """Return the optimizer's state where it is kept, as arrays whose first dimension is nodes."""
        if self.kept is None:
            return {}
        moments = {f"optimizer.{name}": on_host(moment) for name, moment in self.kept.moments.items()}
        return moments | {"optimizer.num_steps": self.kept.num_steps}

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from what ``state`` returned."""
        if self.kept is not None:
            for name, moment in self.kept.moments.items():
                fill_from_host(moment, arrays[f"optimizer.{name}"])
            self.kept.num_steps[:] = arrays["optimizer.num_steps"]

    @property
    def tests_stacks(self) -> bool:
        """Whether stacks are tested at once too: where one model's products leave a core waiting for calls."""
        return self._is_perceptron and self.engine.batched and self.engine.stack > 1

    def train(
        self,
        round: int,
        takes_part: np.ndarray,
        neighbor_sums: NeighborSums | None,
        after_epoch: AfterEpoch | None,
    ) -> np.ndarray:
        """Train every node that takes part for a round; return the nodes' mean losses, NaN where one did not train.

        Parameters
        ----------
        takes_part : bool array, shape (num_own,)
        neighbor_sums : (float32 tensor like ``parameters``, int array of shape (num_own,)), for the proximal term only
            The sum of each node's neighbors' models as the round begins, and their number.
        """
        losses = np.full(len(self.own), np.nan)
        positions = np.flatnonzero(takes_part)
        if self._table is None:
            for position in positions:
                losses[position] = self._train_one(int(position), round, neighbor_sums, after_epoch)
            return losses
        if self.config.shuffle:
            self._table.set_orders({position: self._orders(position, round) for position in positions.tolist()})
        positions = positions[np.argsort(-self.shards.sizes[positions], kind="stable")]
        for start in range(0, len(positions), self.engine.stack):
            plan = self._plan(self._table, positions[start : start + self.engine.stack])
            losses[plan.nodes] = self._train_stack(plan, round, neighbor_sums, after_epoch)
        return losses

    def _train_one(
        self, position: int, round: int, neighbor_sums: NeighborSums | None, after_epoch: AfterEpoch | None
    ) -> float:
        torch.manual_seed(self._dropout_seed(position, round))  # torch's own generator is what layers draw from
        orders: list[torch.Tensor | None] = [None] * self.config.epochs
        if self.config.shuffle:
            orders = [torch.from_numpy(order).to(self.parameters.device) for order in self._orders(position, round)]
        proximal = None
        if neighbor_sums is not None:
            sums, counts = neighbor_sums
            views = self.model.parameter_layout.views(sums[position])
            proximal = Proximal(self.config.proximal, int(counts[position]), views)
        optimizer, row = (self._new_optimizer(1), 0) if self.kept is None else (self.kept, position)
        return train_node(
            self.model,
            self.parameters[position],
            self.shards.of(position),
            optimizer.bind(self.model.parameters, row),
            self.batch_size,
            orders,
            self.counters[position],
            transform=self._augmentation(position, round) if self.config.augment else None,
            proximal=proximal,
            after_epoch=None if after_epoch is None else partial(after_epoch, position),
        )

    def _plan(self, table: BatchTable, positions: np.ndarray) -> StackPlan:
        """Return the plan of a stack, the same in every round where all nodes take part."""
        if self.config.participation < 1:
            return StackPlan(table, positions, self.config.epochs)
        key = positions.tobytes()
        if key not in self._plans:
            self._plans[key] = StackPlan(table, positions, self.config.epochs)
        return self._plans[key]

    def _train_stack(
        self, plan: StackPlan, round: int, neighbor_sums: NeighborSums | None, after_epoch: AfterEpoch | None
    ) -> np.ndarray:
        optimizer = self._stack_optimizer(plan.nodes)
        proximal = None
        if neighbor_sums is not None:
            sums, counts = neighbor_sums
            chosen = torch.from_numpy(plan.nodes).to(sums.device)
            views = self.model.parameter_layout.views(sums[chosen])
            proximal = StackProximal(self.config.proximal, torch.from_numpy(counts).to(sums)[chosen], views)
        counters = self._stack_counters(plan.nodes)
        row_of = {int(node): row for row, node in enumerate(plan.nodes)}

        def give_back_counters(node: int) -> None:
            for counter, of_nodes in zip(self.counters[node], counters, strict=True):
                counter.copy_(of_nodes[row_of[node]])

        def between_epochs(node: int, epoch: int) -> None:
            give_back_counters(node)
            if after_epoch is not None:
                after_epoch(node, epoch)

        losses = train_stack(
            self._products(plan, round, counters),
            self.parameters,
            self.model.layout,
            plan,
            optimizer,
            replays=self._replays,
            transforms=[self._augmentation(node, round) for node in plan.nodes] if self.config.augment else None,
            proximal=proximal,
            after_epoch=None if after_epoch is None else between_epochs,
        )
        for node in row_of:
            give_back_counters(node)
        if self.kept is not None:
            self.kept.put_rows(plan.nodes, optimizer)
        return losses

    def _new_optimizer(self, num_rows: int) -> Optimizer:
        return Optimizer(self._settings, self.model.parameter_layout, num_rows, self.parameters.device)

    def _stack_optimizer(self, nodes: np.ndarray) -> Optimizer:
        """Return an optimizer with the state of some nodes, or new state where none is kept."""
        if self._replays is not None:
            self._replays.optimizer.begin(nodes, self.kept)
            return self._replays.optimizer
        return self._new_optimizer(len(nodes)) if self.kept is None else self.kept.of_rows(nodes)

    def _stack_counters(self, nodes: np.ndarray) -> list[torch.Tensor]:
        """Return the integer buffers of some nodes, stacked."""
        stacked = [torch.stack(of_nodes) for of_nodes in zip(*(self.counters[node] for node in nodes), strict=True)]
        if self._replays is None:
            return stacked
        memory = [counter[: len(nodes)] for counter in self._replays.counters]
        for mine, counter in zip(memory, stacked, strict=True):
            mine.copy_(counter)
        return memory

    def _products(self, plan: StackPlan, round: int, counters: list[torch.Tensor]) -> Products:
        if self._is_perceptron:
            return PerceptronProducts(self.model.precision)
        generators = [torch.Generator(self.parameters.device) for _ in plan.nodes]
        for node, generator in zip(plan.nodes, generators, strict=True):
            generator.manual_seed(self._dropout_seed(int(node), round))
        return MappedProducts(self.model, counters, [*generators])

    def _dropout_seed(self, position: int, round: int) -> int:
        """Return what decides which values dropout drops: for a node the same in whatever stack, on whatever rank."""
        return torch_seed(self.config.seed, Purpose.DROPOUT, node=int(self.own[position]), round=round)

    def _orders(self, position: int, round: int) -> list[np.ndarray]:
        """Return the order of a node's samples in each epoch."""
        rng = stream(self.config.seed, Purpose.DATA_ORDER, node=int(self.own[position]), round=round)
        return [rng.permutation(int(self.shards.sizes[position])) for _ in range(self.config.epochs)]

    def _augmentation(self, position: int, round: int) -> Transform:
        """Return what moves and flips a batch's images, but those out of distribution: a trigger stays in its place."""
        rng = stream(self.config.seed, Purpose.AUGMENTATION, node=int(self.own[position]), round=round)
        num_clean = int(self.shards.middles[position] - self.shards.starts[position])

        def transform(images: torch.Tensor, batch: slice | torch.Tensor) -> torch.Tensor:
            if isinstance(batch, slice):
                batch = torch.arange(batch.start, batch.stop, device=images.device)
            is_clean = (batch < num_clean)[:, None, None, None]
            return torch.where(is_clean, crop_and_flip(images, self.black, rng), images)

        return transform
