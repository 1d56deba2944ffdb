"""The speeds of the machine in hand: the work of a few nodes of the run itself, timed for some seconds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from mpi4py import MPI

from mpisim.data.ood import OodSplit
from mpisim.data.shards import pack
from mpisim.dealing import NOTHING
from mpisim.errors import InputError
from mpisim.estimate.work import equal_rows, rows_moved
from mpisim.exchange.consensus import Consensus
from mpisim.exchange.mixing import mix, positions_in_rows
from mpisim.exchange.rows import WIRES
from mpisim.exchange.transpose import TransposePlan
from mpisim.experiment import Experiment
from mpisim.learning.device import synchronize
from mpisim.learning.engine import choose_engine
from mpisim.learning.parameters import FLOAT_BYTES, allocate_rows
from mpisim.nodes import Nodes
from mpisim.ranks.waiting import Waiting

SECONDS = 0.7  # that a rank's training, or its tests, are watched
REPEATS = 5  # of which the fastest counts: whatever else runs here does not belong to the run
FIRST_TESTS = 32  # samples of the first look at how long a test takes
MIX_BYTES = 2**28  # of the rows that are mixed to find out how fast that is


@dataclass(frozen=True)
class Local:
    """What a rank takes for its nodes alone.

    Attributes
    ----------
    make, train, test, consensus, sum_bytes : as in ``Speeds``
    node_bytes, num_arrays : of a node in a checkpoint
    """

    make: float
    train: float
    test: float
    consensus: float
    sum_bytes: int
    node_bytes: int
    num_arrays: int


def busiest(experiment: Experiment) -> int:
    """Return the rank that has the most training samples."""
    return int(np.argmax([experiment.train_samples[plan.own].sum() for plan in experiment.plans]))


def stack_of(experiment: Experiment, device: torch.device) -> int:
    """Return how many nodes the busiest rank trains at once."""
    config = experiment.config
    engine = choose_engine(config.engine, config.stack, experiment.module, experiment.num_columns, device)
    return min(engine.stack, len(experiment.plans[busiest(experiment)].own))


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch have some threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def local_speeds(experiment: Experiment, device: torch.device) -> Local:
    """Return how fast the busiest rank would train, test and look at its nodes: a stack of them does it here."""
    own = experiment.plans[busiest(experiment)].own
    order = np.argsort(-experiment.train_samples[own], kind="stable")
    own = np.sort(own[order[: stack_of(experiment, device)]])
    batch = min(int(experiment.config.batch_size or 1), int(experiment.train_samples.max()))
    trial = Trial(experiment, own, device, batch, FIRST_TESTS)
    trial.once()  # what is used for the first time takes longer
    train, test = trial.once()
    split = experiment.test_split
    most = int(experiment.train_samples[own].max()) * experiment.config.epochs
    samples = fitting(train * len(own), most, batch)
    tests = fitting(test * len(own), len(split.clean) + len(split.ood), FIRST_TESTS)
    whole = Trial(experiment, own, device, samples, tests)
    whole.once()
    times = [whole.once() for _ in range(REPEATS)]
    consensus = Consensus(MPI.COMM_SELF, whole.nodes.parameters, experiment.topology.num_nodes)
    waiting = Waiting()

    def look() -> None:
        consensus.start()
        consensus.finish(waiting)

    state = whole.nodes.state()
    return Local(
        make=whole.make,
        train=min(train for train, _ in times),
        test=min(test for _, test in times),
        consensus=timed(look) / len(own),
        sum_bytes=(len(consensus.coordinates) + 2) * np.dtype(np.int64).itemsize,
        node_bytes=sum(array.nbytes for array in state.values()) // len(own),
        num_arrays=len(state),
    )


def fitting(seconds: float, most: int, least: int) -> int | None:
    """Return how many samples there is time for, in whole batches of the least; None if there is for all."""
    if seconds * most <= SECONDS:
        return None
    return max(1, int(SECONDS / seconds) // least) * least


class Trial:
    """Some nodes of a run, to be trained and tested on no more than so many samples each."""

    def __init__(
        self, experiment: Experiment, own: np.ndarray, device: torch.device, samples: int | None, tests: int | None
    ):
        config, train = experiment.config, experiment.train
        if samples is not None:
            config = replace(config, epochs=1, evaluate_every="round")
        shards = [_first(experiment.shards[node], samples) for node in own]
        own_tests = [OodSplit(experiment.own_tests[node][:tests], NOTHING) for node in own]
        test_split = _first(experiment.test_split, tests)
        sizes = [len(shard.clean) + len(shard.ood) for shard in shards]
        self.device, self.config = device, config
        self.trained = sum(sizes) * config.epochs
        self.tested = len(own) * (len(test_split.clean) + len(test_split.ood)) + sum(len(t.clean) for t in own_tests)
        started = time.perf_counter()
        self.nodes = Nodes(
            config,
            own,
            pack(train, shards),
            pack(train, own_tests),
            pack(experiment.test, [test_split]),
            max(sizes) if samples is not None else int(experiment.train_samples.max()),
            device,
        )
        self.make = (time.perf_counter() - started) / len(own)

    def once(self) -> tuple[float, float]:
        """Train and test the nodes; return the seconds for a sample and epoch, and for a tested sample."""
        takes_part = np.ones(len(self.nodes.own), dtype=bool)
        neighbor_sums = None
        if self.config.exchanges > 1:
            neighbor_sums = self.nodes.parameters.clone(), np.ones(len(takes_part), dtype=np.int64)
        times = []
        for work in (
            lambda: self.nodes.train(1, takes_part, neighbor_sums, None),
            lambda: self.nodes.test(between=lambda: None),
        ):
            synchronize(self.device)
            started = time.perf_counter()
            work()
            synchronize(self.device)
            times.append(time.perf_counter() - started)
        return times[0] / max(1, self.trained), times[1] / max(1, self.tested)


def _first(split: OodSplit, count: int | None) -> OodSplit:
    """Return the first samples of a split, those out of distribution among them."""
    if count is None:
        return split
    ood = split.ood[: max(0, count // 2)]
    return OodSplit(split.clean[: max(1, count - len(ood))], ood)


def mix_speed(experiment: Experiment, device: torch.device) -> float:
    """Return the bytes per second that the busiest rank's mixing reads and writes, in as many columns as fit."""
    plan, rule = experiment.plans[busiest(experiment)], experiment.rule
    num_rows = len(plan.mixed) + len(plan.received)
    width = experiment.num_columns
    if isinstance(plan, TransposePlan):
        width = -(-width // plan.num_ranks)
    width = max(1, min(width, MIX_BYTES // (num_rows * FLOAT_BYTES)))
    parameters = allocate_rows(len(plan.mixed), width, device)
    wire = WIRES[experiment.config.wire]
    remote = allocate_rows(max(1, len(plan.received)), width, device)[: len(plan.received)].to(wire)
    own = rule.of_rows(plan.mixed)
    positions = positions_in_rows(own.indices, plan.mixed, plan.received)
    counts = np.diff(own.indptr)
    weights = 1 / np.repeat(counts, counts)
    moved = rows_moved(own, equal_rows(own, weights), np.arange(len(plan.mixed))) * width * FLOAT_BYTES

    def once() -> None:
        mix(parameters, remote, own.indptr, positions, weights)
        synchronize(device)

    return moved / timed(once)


def timed(work: Callable[[], object]) -> float:
    """Return the least of the seconds that some work takes, once it has been done a first time."""
    work()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


# What rank 0 does before it tells the others; and when that was.
BEFORE_THE_ROUNDS = """
import json, os, sys
from mpisim.libraries import prepare_libraries
prepare_libraries()
import mpisim.simulation
from mpisim.config import Config
from mpisim.experiment import decide
from mpisim.ranks.startup import process_age
imported = process_age()
decide(Config(**json.loads(sys.argv[1])), int(sys.argv[2])).log_variables()
print(imported, process_age(), flush=True)
os._exit(0)
"""


def start_seconds(experiment: Experiment) -> tuple[float, float]:
    """Return how long a rank takes to have its libraries, and rank 0 then to prepare the experiment.

    A process of its own does it, since this one has all that already.

    Raises
    ------
    InputError
        If it fails.
    """
    options = json.dumps(experiment.config.as_dict())
    command = [sys.executable, "-c", BEFORE_THE_ROUNDS, options, str(experiment.num_ranks)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"--estimate: a process that prepares the run failed: {last}")
    imported, prepared = map(float, done.stdout.split()[-2:])
    return imported, prepared - imported
