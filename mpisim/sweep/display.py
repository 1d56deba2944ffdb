"""What a person sees of a sweep: what would run, how far it is, and its progress."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mpisim.sweep.expansion import Run
from mpisim.sweep.state import DONE, FAILED, INTERRUPTED, KINDS, RUNNING, SHORT, State
from mpisim.sweep.time_left import seconds_left
from mpisim.units import plain_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

MOST_NAMED = 20  # runs of a kind that are named, of thousands
LOOKS_EVERY = 1.0  # seconds: how many rounds the runs that go on have played


def listing(runs: Sequence[Run]) -> str:
    """Return a line for each run: its number, name and options; then, after #, how many runs each axis' values have."""
    digits, widest = len(str(len(runs) - 1)), max(len(run.name) for run in runs)
    lines = [f"{run.index:>{digits}}  {run.name:<{widest}}  {shlex.join(run.flags())}" for run in runs]
    lines.append(f"# {counted(len(runs))}")
    for axis in runs[0].values:
        counts = Counter(run.values[axis] for run in runs)
        lines.append(f"# {axis}: {', '.join(f'{text} {count:,}' for text, count in counts.items())}")
    return "\n".join(lines)


def counted(number: int) -> str:
    """Return a number of runs as text."""
    return f"{number:,} run{'' if number == 1 else 's'}"


def status(runs: Sequence[Run], states: Sequence[State], folder: Path, jobs: int) -> str:
    """Return how far a sweep is: how many runs are done and so on, which ones are not, and the time left."""
    lines = [f"{counted(len(runs))} in {folder}"]
    for kind in KINDS:
        of_kind = [(run, state) for run, state in zip(runs, states, strict=True) if state.kind == kind]
        if kind == SHORT and not of_kind:  # rare
            continue
        lines.append(f"{kind:<11}  {len(of_kind):>5,}")
        if kind in (RUNNING, INTERRUPTED, SHORT, FAILED):
            lines += [f"    {run.index}  {run.name}: {_where(run, state)}" for run, state in of_kind[:MOST_NAMED]]
            if len(of_kind) > MOST_NAMED:
                lines.append(f"    and {len(of_kind) - MOST_NAMED:,} more")
    if all(state.kind in (DONE, SHORT) for state in states):
        return "\n".join(lines)
    left = seconds_left(runs, states, jobs)
    at_a_time = "one run at a time" if jobs == 1 else f"{jobs} runs at a time"
    text = "not known before a first round" if left is None else f"{plain_seconds(left)} of rounds, {at_a_time}"
    return "\n".join([*lines, f"time left    {text}"])


def _where(run: Run, state: State) -> str:
    if state.kind == FAILED:
        return state.words.splitlines()[0]
    if state.kind == SHORT:
        return too_short(run, state).removeprefix(f"{run.name} has ")
    return f"{state.num_rounds} of {run.config.rounds} rounds"


def too_short(run: Run, state: State) -> str:
    """Return a line on a run that is done with fewer rounds than it should have."""
    return (
        f"{run.name} has {state.num_rounds} rounds of {run.config.rounds}, and its checkpoints are gone"
        " (--keep-checkpoints keeps them): move its log away to play it anew"
    )


class Progress:
    """Shows a sweep that is carried out: a bar on a terminal, elsewhere a line for each run that ends.

    Parameters
    ----------
    slots : int
        Runs at a time.
    """

    def __init__(self, runs: Sequence[Run], states: Sequence[State], folder: Path, slots: int):
        self.runs, self.folder, self.slots = runs, folder, slots
        self._states = states
        self._bar: Bar | None = None
        self._next_look = 0.0

    def __enter__(self) -> Progress:
        if sys.stdout.isatty():
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.fields[done]}/{task.fields[all]}"),
                BarColumn(),
                TextColumn("{task.description}"),
                auto_refresh=False,  # a thread that wakes up takes the core from ranks that train
            )
            self._bar.add_task("", total=len(self.runs), done=0, all=len(self.runs))
            self._bar.start()
            self._bar.console.show_cursor(True)  # a sweep that is killed must not leave a terminal without one
            self.tick(self._states, [])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def ended(self, run: Run, state: State, states: Sequence[State]) -> None:
        """Show that a run has ended."""
        done = sum(each.kind == DONE for each in states)
        if state.kind == DONE:
            how = f"done in {plain_seconds(state.seconds)}"
        elif state.kind == FAILED:
            how = f"failed: {state.words.splitlines()[0]}"
        else:
            how = f"{state.kind} after {state.num_rounds} of {run.config.rounds} rounds"
        if self._bar is not None:
            if state.kind != DONE:
                self._bar.console.print(f"{run.name}  {how}", markup=False, highlight=False, soft_wrap=True)
            return
        text = self._left(states)
        _print(f"{done:>{len(str(len(states)))}}/{len(states)}  {run.name}  {how}{text and f', {text}'}")

    def tick(self, states: Sequence[State], under_way: Iterable[int]) -> None:
        """Show how far the runs are, every second; those under way by the rounds in their logs."""
        if self._bar is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOKS_EVERY
        shares = [_share(self.runs[number], self.folder) for number in under_way]
        counts = Counter(state.kind for state in states)
        others = f", {counts[FAILED]} failed" if counts[FAILED] else ""
        left = self._left(states)
        self._bar.update(
            self._bar.task_ids[0],
            completed=counts[DONE] + sum(shares),
            description=f"{len(shares)} running{others}{left and f', {left}'}",
            done=counts[DONE],
            refresh=True,
        )

    def _left(self, states: Sequence[State]) -> str:
        left = seconds_left(self.runs, states, self.slots)
        return "" if not left else f"{plain_seconds(left)} left"


def _share(run: Run, folder: Path) -> float:
    """Return which share of its rounds a run has played; 0 where that cannot be told."""
    import h5py

    try:
        with h5py.File(run.log(folder), "r") as file:
            return min(1.0, len(file["round"]) / run.config.rounds)
    except (OSError, RuntimeError, LookupError, TypeError):
        return 0.0


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:  # nobody listens any more: no reason to lose a sweep
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 (for the rest of the process)
