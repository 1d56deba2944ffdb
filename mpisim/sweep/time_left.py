"""How long the rest of a sweep takes, from what the rounds of its other runs took."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence

from mpisim.sweep.expansion import Run
from mpisim.sweep.state import DONE, SHORT, State


def seconds_left(runs: Sequence[Run], states: Sequence[State], jobs: int) -> float | None:
    """Return the time that the rounds which are left take, some runs at a time; None if no round was played yet.

    A round of a run takes what those took of the runs that are most like it: the same data, model and topology, or the
    same data and model, or any.
    """
    known: list[dict[Hashable, list[float]]] = [defaultdict(list) for _ in _likenesses(runs[0])]
    for run, state in zip(runs, states, strict=True):
        if state.num_rounds and state.seconds > 0:
            for of_kind, key in zip(known, _likenesses(run), strict=True):
                of_kind[key].append(state.seconds / state.num_rounds)
    if not known[-1]:
        return None
    total = 0.0
    for run, state in zip(runs, states, strict=True):
        if state.kind not in (DONE, SHORT):
            like = next(of_kind[key] for of_kind, key in zip(known, _likenesses(run), strict=True) if key in of_kind)
            total += sum(like) / len(like) * (run.config.rounds - state.num_rounds)
    return total / jobs


def _likenesses(run: Run) -> list[Hashable]:
    """Return what a run has in common with others whose rounds may take as long: the most telling first."""
    config = run.config
    work = (config.dataset, config.model, config.epochs, config.train_samples)
    topology = re.sub(r"seed=?\d+", "", config.topology)  # another seed is another graph of the same size
    return [(*work, topology, config.strategy), (*work, topology), work, ()]
