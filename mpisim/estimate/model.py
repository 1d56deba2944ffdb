"""The model: how long the work takes, from a few speeds.

A round is synchronous: it takes as long as the rank with the most to do. Messages cost latency · messages + bytes /
bandwidth, less what passes while the rank tests. Where ranks share cores, their work adds up: a rank that waits gives
its core back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpisim.estimate.work import Work

PARTS = ("start", "train", "test", "exchange", "mix", "log", "checkpoint")


@dataclass(frozen=True)
class Link:
    """What connects two ranks.

    Attributes
    ----------
    latency : seconds that a message takes, however small
    bandwidth : bytes per second, each way
    """

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Speeds:
    """What a rank of the machine in hand needs.

    Attributes
    ----------
    imports : seconds until a rank has its libraries
    prepare : seconds that rank 0 prepares the experiment
    make : seconds to make a node, with its first model
    train : seconds for a sample and epoch
    test : seconds for a sample
    consensus : seconds for a node, to add it to the mean model and take its distance
    mix : bytes per second that mixing reads and writes
    sum_bytes : of the mean model, which all ranks add up each round
    """

    imports: float
    prepare: float
    make: float
    train: float
    test: float
    consensus: float
    mix: float
    sum_bytes: int


@dataclass(frozen=True)
class Disk:
    """What a run writes, and how long that takes.

    Attributes
    ----------
    log_bytes : int
        Of the log when the run is complete.
    log_seconds : float
        To append a round and write the log, on average.
    checkpoint_bytes : int
        Of one checkpoint.
    num_checkpoints : int
        Written in the whole run.
    checkpoint_seconds : float
        To write one.
    """

    log_bytes: int
    log_seconds: float
    checkpoint_bytes: int
    num_checkpoints: int
    checkpoint_seconds: float

    @property
    def kept_bytes(self) -> int:
        """The bytes of the checkpoints that are kept: the newest two."""
        return min(2, self.num_checkpoints) * self.checkpoint_bytes


@dataclass(frozen=True)
class Machine:
    """What a rank has of the machine.

    Attributes
    ----------
    ranks_per_host : int or None
        None: all ranks are on one host.
    cores : int or None
        That the ranks of a host share where they are more; None: each rank has its own.
    """

    ranks_per_host: int | None
    cores: int | None

    def hosts(self, num_ranks: int) -> int:
        """Return how many hosts some ranks take."""
        return math.ceil(num_ranks / (self.ranks_per_host or num_ranks))


@dataclass(frozen=True)
class Estimate:
    """What a run takes on some ranks.

    Attributes
    ----------
    ranks, hosts : int
    seconds : of each of PARTS, in the whole run
    round_bytes, wire_bytes : model state that travels between ranks, in a round and in the whole run
    log_bytes, checkpoint_bytes : on disk, the newest two checkpoints together
    memory : of a rank, None where nobody has asked
    """

    ranks: int
    hosts: int
    seconds: dict[str, float]
    round_bytes: int
    wire_bytes: int
    log_bytes: int
    checkpoint_bytes: int
    memory: int | None = None

    @property
    def total(self) -> float:
        """Seconds from the start to the end of the job."""
        return sum(self.seconds.values())

    @property
    def host_hours(self) -> float:
        """Hours × hosts."""
        return self.hosts * self.total / 3600

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk at the end."""
        return self.log_bytes + self.checkpoint_bytes


def part_of(estimate: Estimate, share: float) -> Estimate:
    """Return what a run takes that has only a share of its rounds left."""
    seconds = {part: each if part == "start" else each * share for part, each in estimate.seconds.items()}
    return replace(estimate, seconds=seconds, wire_bytes=round(estimate.wire_bytes * share))


def summed(estimates: Sequence[Estimate]) -> Estimate:
    """Return what several runs take, one after the other, on as many ranks each; of a rank's memory, the most."""
    memories = [each.memory for each in estimates if each.memory is not None]
    return replace(
        estimates[0],
        seconds={part: sum(each.seconds[part] for each in estimates) for part in PARTS},
        round_bytes=max(each.round_bytes for each in estimates),
        wire_bytes=sum(each.wire_bytes for each in estimates),
        log_bytes=sum(each.log_bytes for each in estimates),
        checkpoint_bytes=sum(each.checkpoint_bytes for each in estimates),
        memory=max(memories, default=None),
    )


def predict(
    work: Work, speeds: Speeds, disk: Disk, link: Link, machine: Machine, idle: int = 0, memory: int | None = None
) -> Estimate:
    """Return what the work takes.

    Parameters
    ----------
    idle : ranks of the job that own no nodes
    memory : bytes of a rank, for the record

    References
    ----------
    The time of a message, latency + bytes / bandwidth: Hockney, "The communication challenge for MPP", 1994.
    """
    seconds = _start(work, speeds, link, machine, idle)
    rounds = [_round(work, speeds, disk, link, machine, trained) for trained in work.trained]
    for part in PARTS[1:-1]:
        seconds[part] = work.rounds * float(np.mean([each[part] for each in rounds]))
    seconds["test"] += _busiest(work.tests_final * speeds.test, machine)[0]
    seconds["checkpoint"] = disk.num_checkpoints * disk.checkpoint_seconds
    return Estimate(
        work.num_ranks + idle,
        machine.hosts(work.num_ranks + idle),
        seconds,
        work.bytes_sent,
        work.bytes_sent * work.rounds,
        disk.log_bytes,
        disk.kept_bytes,
        memory,
    )


def _start(work: Work, speeds: Speeds, link: Link, machine: Machine, idle: int) -> dict[str, float]:
    """Return the time before the first round: libraries, the experiment, the data on its way, the nodes."""
    ranks, sharing = work.num_ranks, 1.0
    if machine.cores is not None:
        sharing = max(1.0, (ranks + idle) / machine.cores)
    hops = math.ceil(math.log2(ranks))
    sending = (ranks - 1) * link.latency + work.data_bytes / link.bandwidth
    sending += hops * (link.latency + work.test_bytes / link.bandwidth)
    making = _busiest(work.nodes * speeds.make, machine)[0]
    return {"start": speeds.imports * sharing + speeds.prepare + sending + making}


def _round(
    work: Work, speeds: Speeds, disk: Disk, link: Link, machine: Machine, trained: np.ndarray
) -> dict[str, float]:
    """Return the parts of one round, in seconds, on the rank that has the most to do."""
    hidden = work.tests_hidden * speeds.test
    hops = 2 * math.ceil(math.log2(work.num_ranks))  # the mean model is added up, and told to all
    adding = hops * (link.latency + speeds.sum_bytes / link.bandwidth)
    sending = link.latency * work.messages + work.wire_bytes / link.bandwidth
    meanwhile = sending * work.hideable + adding
    shown = np.maximum(0, meanwhile - hidden) + sending * (1 - work.hideable) + sending * (work.exchanges - 1)
    log = np.zeros(work.num_ranks)
    log[0] = disk.log_seconds + (work.num_ranks - 1) * link.latency  # rank 0 hears from each
    parts = {
        "train": trained * speeds.train,
        "test": hidden + work.tests_shown * speeds.test,
        "exchange": work.nodes * speeds.consensus + shown,
        "mix": work.exchanges * work.mixed_bytes / speeds.mix,
        "log": log,
    }
    _, rank = _busiest(np.sum([*parts.values()], axis=0), machine)
    if rank is None:
        return {part: float(seconds.sum()) / (machine.cores or 1) for part, seconds in parts.items()}
    return {part: float(seconds[rank]) for part, seconds in parts.items()}


def _busiest(seconds: np.ndarray, machine: Machine) -> tuple[float, int | None]:
    """Return how long it takes until all ranks are done, and the rank that is last; None if it is the cores."""
    rank = int(np.argmax(seconds))
    longest = float(seconds[rank])
    if machine.cores is not None and len(seconds) > machine.cores:
        together = float(seconds.sum()) / machine.cores
        if together > longest:
            return together, None
    return longest, rank
