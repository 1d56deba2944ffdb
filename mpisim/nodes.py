"""The nodes of one rank: their rows of X, their shards, and the tests they take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from mpisim.config import Config
from mpisim.data.shards import Samples, unpack
from mpisim.dealing import dataset_of, ood_change
from mpisim.experiment import make_model
from mpisim.learning.engine import choose_engine
from mpisim.learning.evaluation import Scores, evaluate, evaluate_stack, fitting_batch
from mpisim.learning.parameters import BoundModel, allocate_rows, fill_from_host, on_host
from mpisim.learning.perceptron import logits
from mpisim.learning.precision import PRECISIONS
from mpisim.learning.replay import GraphRecorder
from mpisim.local_training import AfterEpoch, LocalTraining, NeighborSums
from mpisim.models.activations import activation_sizes
from mpisim.streams import Purpose, stream, torch_seed

NodeScores = dict[str, float | np.ndarray]


class Nodes:
    """What a rank holds of the experiment, and what it does with it alone.

    Parameters
    ----------
    own : int64, shape (num_own,)
        The nodes, ascending.
    shards, own_tests, test : arrays from ``data.shards.pack``
        The nodes' training samples, in their order, and their own test samples; the IID and the OOD test set.
    largest_shard : int
        The samples of the node of the topology that has the most.

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
        largest_shard: int,
        device: torch.device,
    ):
        dataset = dataset_of(config)
        self.config = config
        self.own = own
        self.num_classes = dataset.num_classes
        change = ood_change(config)
        rngs = [stream(config.seed, Purpose.OOD_CHANGE, node=int(node)) for node in own]
        self.own_tests = unpack(own_tests, dataset, change, device, rngs)
        test_sets = unpack(test, dataset, change, device, [stream(config.seed, Purpose.OOD_TEST_CHANGE)])
        self.iid_test, self.ood_test = test_sets.clean(0), test_sets.ood(0)
        precision = PRECISIONS[config.precision]
        self.model = BoundModel(make_model(config, dataset).to(device), dataset.kind, precision)
        self.parameters = allocate_rows(len(own), self.model.layout.num_columns, device)
        self.counters = [self.model.new_counters() for _ in own]
        self._initialize()
        self.model.bind(self.parameters[0])  # what the module began with is given back
        sizes = activation_sizes(self.model.module, dataset.input_shape, device)
        self.test_batch = fitting_batch(sizes, device)
        engine = choose_engine(
            config.engine, config.stack, self.model.module, self.model.layout.num_columns, self.parameters.device
        )
        self.training = LocalTraining(
            config,
            engine,
            own,
            unpack(shards, dataset, change, device, rngs),
            largest_shard,
            self.model,
            self.parameters,
            self.counters,
            black=-dataset.offset,
            recorder=GraphRecorder(device) if device.type == "cuda" else None,
        )

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

    def state(self) -> dict[str, np.ndarray]:
        """Return all that a round changes, as arrays whose first dimension is this rank's nodes."""
        arrays = {"nodes": self.own, "rows": on_host(self.parameters)}
        for index in range(len(self.model.counter_names)):
            arrays[f"counter.{index}"] = np.array([of_node[index].cpu().numpy() for of_node in self.counters])
        return arrays | self.training.state()

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from what ``state`` returned, on whatever ranks."""
        fill_from_host(self.parameters, arrays["rows"])
        for index in range(len(self.model.counter_names)):
            for of_node, value in zip(self.counters, arrays[f"counter.{index}"], strict=True):
                of_node[index].fill_(int(value))
        self.training.load_state(arrays)

    def train(
        self,
        round: int,
        takes_part: np.ndarray,
        neighbor_sums: NeighborSums | None,
        after_epoch: AfterEpoch | None = None,
    ) -> np.ndarray:
        """Train the nodes that take part for a round: see ``LocalTraining.train``."""
        if self.config.no_train:
            return np.full(len(self.own), np.nan)
        return self.training.train(round, takes_part, neighbor_sums, after_epoch)

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
        if self.training.tests_stacks:
            scores = [each for stack in self._stacks() for each in self._test_stack(stack, between)]
        else:
            scores = [self.test_node(position, between) for position in range(len(self.own))]
        return {name: np.array([each[name] for each in scores]) for name in scores[0]}

    def test_node(self, position: int, between: Callable[[], object]) -> NodeScores:
        """Return the scores of one node's model, on the IID, the OOD and its own test set, by name."""
        iid, ood = (self._evaluate(position, test, between) for test in (self.iid_test, self.ood_test))
        return self._by_name(position, iid, ood, between)

    def _stacks(self) -> list[slice]:
        size = self.training.engine.stack
        return [slice(start, min(start + size, len(self.own))) for start in range(0, len(self.own), size)]

    def _test_stack(self, stack: slice, between: Callable[[], object]) -> list[NodeScores]:
        state = [tensor.to(self.model.precision) for tensor in self.model.layout.views(self.parameters[stack])]
        count = stack.stop - stack.start
        iid, ood = (
            evaluate_stack(lambda inputs: logits(state, inputs.flatten(2)), count, test, self.num_classes, between)
            for test in (self.iid_test, self.ood_test)
        )
        return [self._by_name(stack.start + row, iid[row], ood[row], between) for row in range(count)]

    def _by_name(self, position: int, iid: Scores, ood: Scores, between: Callable[[], object]) -> NodeScores:
        own = self._evaluate(position, self.own_tests.clean(position), between)
        return {
            "iid_accuracy": iid.accuracy,
            "ood_accuracy": ood.accuracy,
            "own_accuracy": own.accuracy,
            "iid_loss": iid.loss,
            "ood_loss": ood.loss,
            "iid_recall": iid.recall,
        }

    def _evaluate(self, position: int, test: Samples, between: Callable[[], object]) -> Scores:
        row, counters = self.parameters[position], self.counters[position]
        return evaluate(self.model, row, test, self.num_classes, between, counters, self.test_batch)
