"""The nodes of one rank: their rows of X, their shards, and the tests they take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from mpisim.config import Config
from mpisim.data.augment import crop_and_flip
from mpisim.data.shards import joined, unpack
from mpisim.dealing import dataset_of, ood_change
from mpisim.experiment import make_model
from mpisim.learning.evaluation import evaluate
from mpisim.learning.parameters import BoundModel, allocate_rows
from mpisim.learning.training import OptimizerSettings, Proximal, Step, new_step, train_node
from mpisim.streams import Purpose, stream, torch_seed


class Nodes:
    """What a rank holds of the experiment, and what it does with it alone.

    Parameters
    ----------
    own : int64, shape (num_own,)
        The nodes, ascending.
    shards, own_tests, test : arrays from ``data.shards.pack``
        The nodes' training samples, in their order, and their own test samples; the IID and the OOD test set.

    Attributes
    ----------
    parameters : float32 tensor, shape (num_own, num_columns)
        The rows of X; initial models at first.
    counters : of each own node, its integer buffers
    """

    def __init__(
        self,
        config: Config,
        own: np.ndarray,
        shards: dict[str, np.ndarray],
        own_tests: dict[str, np.ndarray],
        test: dict[str, np.ndarray],
        device: torch.device,
    ):
        dataset = dataset_of(config)
        self.config = config
        self.own = own
        self.num_classes = dataset.num_classes
        change = ood_change(config)
        rngs = [stream(config.seed, Purpose.OOD_CHANGE, node=int(node)) for node in own]
        self.shards = [joined(clean, ood) for clean, ood in unpack(shards, dataset, change, device, rngs)]
        self.own_tests = [clean for clean, _ in unpack(own_tests, dataset, change, device, rngs)]
        self.num_clean = shards["num_clean"].tolist()
        self.black = -dataset.offset
        self.kept_steps: dict[int, Step] = {}
        rngs = [stream(config.seed, Purpose.OOD_TEST_CHANGE)]
        [(self.iid_test, self.ood_test)] = unpack(test, dataset, change, device, rngs)
        self.optimizer = OptimizerSettings(
            name=str(config.optimizer),
            lr=float(config.lr or 0),
            momentum=config.momentum,
            betas=(config.betas[0], config.betas[1]),
            weight_decay=config.weight_decay,
        )
        self.model = BoundModel(make_model(config, dataset).to(device), dataset.kind)
        self.parameters = allocate_rows(len(own), self.model.layout.num_columns, device)
        self.counters = [self.model.new_counters() for _ in own]
        self._initialize()

    def _initialize(self) -> None:
        """Fill X with initial models: node 0's for all, or each node's own."""
        common = self.config.init == "common"
        for position, node in enumerate(self.own):
            if common and position > 0:
                self.parameters[position] = self.parameters[0]
                continue
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(torch_seed(self.config.seed, Purpose.INITIAL_MODEL, node=0 if common else int(node)))
                initial = make_model(self.config, dataset_of(self.config))
            self.model.read(initial, self.parameters[position])

    def train(
        self,
        round: int,
        takes_part: np.ndarray,
        neighbor_sums: tuple[torch.Tensor, np.ndarray] | None,
        after_epoch: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Train every node that takes part for a round; return the nodes' mean losses, NaN where one did not train.

        Parameters
        ----------
        takes_part : bool array, shape (num_own,)
        neighbor_sums : (float32 tensor like ``parameters``, int array of shape (num_own,)), for the proximal term only
            The sum of each node's neighbors' models as the round begins, and their number.
        after_epoch : function of a node's position in ``own`` and the number of its epochs so far, optional
        """
        losses = np.full(len(self.own), np.nan)
        if self.config.no_train:
            return losses
        for position, node in enumerate(self.own):
            if not takes_part[position]:
                continue
            shard = self.shards[position]
            # Only torch can draw what dropout drops: seeded here, a node loses the same on whatever rank it is.
            torch.manual_seed(torch_seed(self.config.seed, Purpose.DROPOUT, node=int(node), round=round))
            losses[position] = train_node(
                self.model,
                self.parameters[position],
                shard,
                self._step(position),
                int(self.config.batch_size or 1),
                self._orders(int(node), round, len(shard)),
                self.counters[position],
                transform=self._augmentation(position, round) if self.config.augment else None,
                proximal=None if neighbor_sums is None else self._proximal(position, *neighbor_sums),
                after_epoch=None if after_epoch is None else partial(after_epoch, position),
            )
        return losses

    def _step(self, position: int) -> Step:
        """Return a node's optimizer: with new state, or with what it had after its last round."""
        if not self.config.keep_optimizer_state:
            return new_step(self.model, self.optimizer)
        if position not in self.kept_steps:
            self.kept_steps[position] = new_step(self.model, self.optimizer)
        return self.kept_steps[position]

    def _proximal(self, position: int, sums: torch.Tensor, counts: np.ndarray) -> Proximal:
        views = self.model.layout.views(sums[position])[: len(self.model.parameters)]
        return Proximal(self.config.proximal, int(counts[position]), views)

    def _augmentation(self, position: int, round: int) -> Callable[[torch.Tensor, slice | torch.Tensor], torch.Tensor]:
        """Return what moves and flips a batch's images, but those out of distribution: a trigger stays in its place."""
        rng = stream(self.config.seed, Purpose.AUGMENTATION, node=int(self.own[position]), round=round)
        num_clean = self.num_clean[position]

        def transform(images: torch.Tensor, batch: slice | torch.Tensor) -> torch.Tensor:
            samples = torch.arange(batch.start, batch.stop) if isinstance(batch, slice) else batch
            is_clean = (samples.to(images.device) < num_clean)[:, None, None, None]
            return torch.where(is_clean, crop_and_flip(images, self.black, rng), images)

        return transform

    def _orders(self, node: int, round: int, num_samples: int) -> list[torch.Tensor | None]:
        if not self.config.shuffle:
            return [None] * self.config.epochs
        rng = stream(self.config.seed, Purpose.DATA_ORDER, node=node, round=round)
        orders = [rng.permutation(num_samples) for _ in range(self.config.epochs)]
        return [torch.from_numpy(order).to(self.parameters.device) for order in orders]

    def test(self, between: Callable[[], object]) -> dict[str, np.ndarray]:
        """Return the scores of every node's model, by name.

        Parameters
        ----------
        between : function
            Called after each batch.

        Returns
        -------
        float64 arrays, shape (num_own, ...), by the names of the log's scores
        """
        scores = [self.test_node(position, between) for position in range(len(self.own))]
        return {name: np.array([each[name] for each in scores]) for name in scores[0]}

    def test_node(self, position: int, between: Callable[[], object]) -> dict[str, float | np.ndarray]:
        """Return the scores of one node's model, on the IID, the OOD and its own test set, by name."""
        row, counters = self.parameters[position], self.counters[position]
        iid, ood, own = (
            evaluate(self.model, row, test, self.num_classes, between, counters)
            for test in (self.iid_test, self.ood_test, self.own_tests[position])
        )
        return {
            "iid_accuracy": iid.accuracy,
            "ood_accuracy": ood.accuracy,
            "own_accuracy": own.accuracy,
            "iid_loss": iid.loss,
            "ood_loss": ood.loss,
            "iid_recall": iid.recall,
        }
