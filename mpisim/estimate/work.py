"""The work: what each rank has to do in a round, counted from the plans that a run would follow."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from mpisim.config import Config
from mpisim.exchange.choice import Plan
from mpisim.exchange.rows import WIRES
from mpisim.exchange.transpose import TransposePlan
from mpisim.experiment import Experiment
from mpisim.graphs.mixing import MixingRule
from mpisim.graphs.participation import participants
from mpisim.learning.parameters import FLOAT_BYTES

MOST_DRAWS = 50  # rounds of which it is looked up who takes part; the others are taken to be like these


@dataclass(frozen=True)
class Work:
    """What the ranks have to do.

    Attributes
    ----------
    rounds : int
    trained : float64, shape (num_draws, num_ranks)
        Samples that a rank trains on in a round, all epochs; several rounds of which not all nodes take part in.
    tests_hidden, tests_shown : float64, shape (num_ranks,)
        Samples that a rank's models are tested on in a round, while models travel and at other times.
    tests_final : float64, shape (num_ranks,)
        The same after the last round.
    nodes, messages, wire_bytes, mixed_bytes : float64, shape (num_ranks,)
        Own nodes; messages of a round, sent or received, whichever are more, and their bytes; the bytes of rows that
        mixing reads and writes.
    bytes_sent : int
        All ranks', in a round.
    exchanges : int
        How many times messages and mixing come to pass in a round.
    hideable : float
        The share of a message's way during which a rank tests.
    data_bytes, test_bytes : int
        The data that rank 0 sends to others before the first round: each its shards, and everyone the test sets.
    """

    rounds: int
    trained: np.ndarray
    tests_hidden: np.ndarray
    tests_shown: np.ndarray
    tests_final: np.ndarray
    nodes: np.ndarray
    messages: np.ndarray
    wire_bytes: np.ndarray
    mixed_bytes: np.ndarray
    bytes_sent: int
    exchanges: int
    hideable: float
    data_bytes: int
    test_bytes: int

    @property
    def num_ranks(self) -> int:
        """The number of ranks that own nodes."""
        return len(self.nodes)


def work_of(experiment: Experiment) -> Work:
    """Return the work of an experiment."""
    split = experiment.test_split
    num_tests = np.array([len(split.clean) + len(split.ood) + len(own) for own in experiment.own_tests])
    num_columns, train, test = experiment.num_columns, experiment.train, experiment.test
    return count_work(
        experiment.config,
        experiment.rule,
        experiment.rank_of_node,
        experiment.plans,
        num_columns,
        experiment.train_samples,
        num_tests,
        (train.inputs.nbytes + train.labels.nbytes, test.inputs.nbytes + test.labels.nbytes),
    )


def count_work(
    config: Config,
    rule: MixingRule,
    rank_of_node: np.ndarray,
    plans: list[Plan],
    num_columns: int,
    train_samples: np.ndarray,
    num_tests: np.ndarray,
    data_bytes: tuple[int, int],
) -> Work:
    """Return the work of a run.

    Parameters
    ----------
    train_samples, num_tests : int arrays, shape (num_nodes,)
        Of each node: its training samples, and all samples that its model is tested on.
    data_bytes : of the training set, and of the test set
    """

    def by_rank(of_nodes: np.ndarray) -> np.ndarray:
        return np.bincount(rank_of_node, weights=of_nodes, minlength=len(plans))

    tests, moments = by_rank(num_tests), config.moments
    later = (config.epochs - 1) * moments["epochs"] + moments["aggregated"]
    messages, wire_bytes = _wire(config, plans, num_columns)
    train_bytes, test_bytes = data_bytes
    return Work(
        rounds=config.rounds,
        trained=np.array([by_rank(samples) for samples in _trained(config, train_samples)]),
        tests_hidden=tests * moments["trained"],
        tests_shown=tests * later,
        tests_final=tests,
        nodes=by_rank(np.ones(len(rank_of_node))),
        messages=messages,
        wire_bytes=wire_bytes,
        mixed_bytes=mixed_bytes(rule, plans, num_columns, _weights(config, rule)),
        bytes_sent=sum(plan.bytes_sent(num_columns, WIRES[config.wire]) for plan in plans) * config.exchanges,
        exchanges=config.exchanges,
        hideable=0.5 if isinstance(plans[0], TransposePlan) else 1.0,  # mixtures go back when all is tested
        data_bytes=int(train_bytes * (1 - by_rank(train_samples)[0] / train_samples.sum())),
        test_bytes=test_bytes,
    )


def _trained(config: Config, train_samples: np.ndarray) -> list[np.ndarray]:
    """Return the samples that each node trains on in a round; of several rounds, if they are not alike."""
    if config.no_train:
        return [np.zeros(len(train_samples))]
    draws = 1 if config.participation == 1 else min(config.rounds, MOST_DRAWS)
    return [
        train_samples * config.epochs * participants(len(train_samples), config.participation, config.seed, round)
        for round in range(1, draws + 1)
    ]


def _wire(config: Config, plans: list[Plan], num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each rank's messages and bytes in one exchange: those sent, or those received if they are more."""
    wire = WIRES[config.wire]
    messages = np.array([plan.num_messages for plan in plans], dtype=np.float64)
    sent = np.array([plan.bytes_sent(num_columns, wire) for plan in plans], dtype=np.float64)
    if isinstance(plans[0], TransposePlan):
        return messages, sent
    sources = np.array([len(np.unique(plan.received_from)) for plan in plans])
    received = np.array([len(plan.received) * num_columns * wire.itemsize for plan in plans])
    return np.maximum(messages, sources), np.maximum(sent, received)


def _weights(config: Config, rule: MixingRule) -> np.ndarray:
    """Return the weights of the first round: equal rows of W are mixed once."""
    if rule.similarity:  # they follow from the trained models
        return np.ones(len(rule.indices))
    takes_part = participants(rule.num_nodes, config.participation, config.seed, 1)
    return rule.weights(config.seed, 1, 1 / config.temperature, takes_part=takes_part)


def mixed_bytes(rule: MixingRule, plans: list[Plan], num_columns: int, weights: np.ndarray) -> np.ndarray:
    """Return the bytes of the rows that each rank's mixing reads and writes.

    Parameters
    ----------
    rule : of all rows
    weights : shape (num_entries,)
    """
    like = equal_rows(rule, weights)
    if isinstance(plans[0], TransposePlan):
        widths = np.diff(plans[0].column_bounds(num_columns))
        return np.asarray(rows_moved(rule, like, plans[0].mixed) * widths * FLOAT_BYTES, dtype=np.float64)
    return np.array([rows_moved(rule, like, plan.mixed) * num_columns * FLOAT_BYTES for plan in plans], dtype=float)


def equal_rows(rule: MixingRule, weights: np.ndarray) -> np.ndarray:
    """Return, for each row of W, the first row that is equal to it."""
    bounds = rule.indptr.tolist()
    keys = [rule.indices[a:b].tobytes() + weights[a:b].tobytes() for a, b in itertools.pairwise(bounds)]
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(key, row) for row, key in enumerate(keys)])


def rows_moved(rule: MixingRule, like: np.ndarray, mixed: np.ndarray) -> int:
    """Return how many rows of models mixing reads, one for each term of a sum, and writes, one for each node.

    Rows of W that are equal, all of them under ``fl``, are summed once (``exchange.mixing``).

    Parameters
    ----------
    like : from ``equal_rows``
    mixed : the rows of W to apply
    """
    return int(np.diff(rule.indptr)[np.unique(like[mixed])].sum()) + len(mixed)
