"""How a run stands, from its log: how far it is, how well it does, who holds it up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpisim.analysis.logs import configuration, is_aggregated, reading, score, title_of, values_of
from mpisim.analysis.topology import links

if TYPE_CHECKING:
    import h5py

BUSY, WAITING = ("train", "test", "mix"), ("exchange", "log")  # the parts of a round
RECENT = 10  # rounds that tell what a round takes now


@dataclass(frozen=True)
class Metric:
    """What one figure has done so far.

    Attributes
    ----------
    over_rounds : float64, shape (num_rounds,)
        Mean over the nodes that have a number.
    of_nodes : float64, shape (num_nodes,), or None
        Of the last round; None for a figure that nodes do not have, or before the first round.
    scale : (float, float), or None
        The least and the most that it can be; None where that is not known.
    """

    name: str
    over_rounds: np.ndarray
    of_nodes: np.ndarray | None = None
    scale: tuple[float, float] | None = None

    @property
    def last(self) -> float:
        """Its mean in the last round; NaN before the first."""
        return float(self.over_rounds[-1]) if len(self.over_rounds) else float("nan")


@dataclass(frozen=True)
class Slowest:
    """The rank that spent most time on work of its own, training, tests and mixing, in the last ten rounds.

    Attributes
    ----------
    host : str
        Empty where the log does not tell.
    seconds : float
        Mean of a round.
    over_median : float
        By how much that is more than what the median rank spent, as a share of it; NaN if that is nothing, and where
        there is but one rank.
    """

    rank: int
    host: str
    seconds: float
    over_median: float


@dataclass(frozen=True)
class Look:
    """What a log says of its run.

    Attributes
    ----------
    written : float
        When the file was written, in seconds since 1970.
    after_aggregation : bool
        Whether the scores are those of aggregated models, because only those were tested.
    round_seconds : float64, shape (num_rounds,)
        What each round took: the time of the rank that accounts for most.
    slowest : Slowest, or None
        None where no time is known.
    bytes_sent : float, or None
        By all ranks in the last round; None before the first, or where the log does not tell.
    diverged : list of int
        Nodes that trained in the last round and whose loss is no number.
    """

    title: str
    status: str
    num_rounds: int
    wanted_rounds: int
    written: float
    after_aggregation: bool
    metrics: list[Metric]
    round_seconds: np.ndarray
    slowest: Slowest | None
    bytes_sent: float | None
    diverged: list[int]

    @property
    def seconds_a_round(self) -> float:
        """What a round takes now, the mean of the last ten; NaN where no time is known."""
        return float(_mean(self.round_seconds[-RECENT:]))

    def seconds_left(self, now: float) -> float:
        """Return the time until the last round is played, if they go on as they do; NaN where no time is known.

        Parameters
        ----------
        now : float
            In seconds since 1970: the round that is being played began when the log was written.
        """
        begun = min(max(now - self.written, 0.0), self.seconds_a_round)
        left = self.seconds_a_round * (self.wanted_rounds - self.num_rounds) - begun
        return float(np.maximum(left, 0.0))  # and NaN stays NaN


def look(path: str | Path) -> Look:
    """Return what a log says of its run now.

    Raises
    ------
    InputError
        If it is no log, or one of its links is of no node.
    """
    with reading(path) as file:
        links(file)
        num_rounds, options = len(file["round"]), configuration(file)
        losses, is_told = values_of(file, "train_loss"), "train_loss" in file and not options.get("no_train", False)
        trained = (values_of(file, "participated")[-1:].reshape(-1) > 0) & is_told
        return Look(
            title=title_of(file),
            status=str(file.attrs["status"]),
            num_rounds=num_rounds,
            wanted_rounds=int(options["rounds"]),
            written=Path(path).stat().st_mtime,
            after_aggregation=is_aggregated(file),
            metrics=[
                _of_nodes("IID accuracy", score(file, "iid_accuracy"), (0.0, 1.0)),
                _of_nodes("OOD accuracy", score(file, "ood_accuracy"), (0.0, 1.0)),
                _of_nodes("train loss", losses),
                Metric("consensus", values_of(file, "consensus_distance")),
            ],
            round_seconds=_largest(_seconds(file, (*BUSY, *WAITING))),
            slowest=_slowest(_seconds(file, BUSY)[-RECENT:], _hosts(file)),
            bytes_sent=float(file["bytes_sent"][-1].sum()) if num_rounds and "bytes_sent" in file else None,
            diverged=np.flatnonzero(~np.isfinite(losses[-1:].reshape(-1)) & trained).tolist(),
        )


def _of_nodes(name: str, values: np.ndarray, scale: tuple[float, float] | None = None) -> Metric:
    return Metric(name, _mean(values), values[-1] if len(values) else None, scale)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is finite; NaN where nothing is."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(finite, values, 0.0).sum(axis=-1) / finite.sum(axis=-1))


def _largest(values: np.ndarray) -> np.ndarray:
    """Return the largest number along the last axis; NaN where there is none."""
    largest = np.where(np.isfinite(values), values, -np.inf).max(axis=-1, initial=-np.inf)
    return np.where(np.isfinite(largest), largest, np.nan)


def _seconds(file: h5py.File, parts: tuple[str, ...]) -> np.ndarray:
    """Return the time that each rank spent in some parts of each round, shape (num_rounds, num_ranks)."""
    return np.asarray(sum(file[f"{part}_seconds"][:] for part in parts))


def _hosts(file: h5py.File) -> list[str]:
    """Return the host of each rank, as far as the log tells."""
    try:
        hosts = json.loads(str(file.attrs.get("hosts", "[]")))
    except ValueError:
        return []
    return [str(host) for host in hosts] if isinstance(hosts, list) else []


def _slowest(busy: np.ndarray, hosts: list[str]) -> Slowest | None:
    """Return the slowest of the ranks that played the last round: a run may be resumed on fewer than it had before."""
    ranks = np.flatnonzero(np.isfinite(busy[-1:]).any(axis=0))
    if len(ranks) == 0:
        return None
    of_ranks = _mean(busy[:, ranks].T)
    most, median = int(of_ranks.argmax()), float(np.median(of_ranks))
    rank, seconds = int(ranks[most]), float(of_ranks[most])
    over_median = seconds / median - 1 if len(ranks) > 1 and median else float("nan")
    return Slowest(rank, hosts[rank] if rank < len(hosts) else "", seconds, over_median)
