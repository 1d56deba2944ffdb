"""What a person sees of a run: the plan, the rounds, the result. On rank 0 only."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpisim.units import plain_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def terminal_of_launcher() -> int | None:
    """Return the width, in characters, of the terminal that the launcher prints to; None if it prints elsewhere.

    mpiexec gives its ranks pipes for their output and copies those to its own, so a rank's own output is never a
    terminal. Linux tells what an ancestor's is.
    """
    if sys.stdout.isatty():
        return _columns(sys.stdout.fileno())
    process = os.getppid()
    try:
        if not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):  # a file, then: nobody reads along
            return None
        while process > 1:
            name, _, after = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")
            if "mpiexec" in name or "mpirun" in name:
                with Path(f"/proc/{process}/fd/1").open("rb") as output:
                    return _columns(output.fileno()) if output.isatty() else None
            process = int(after.split()[1])
    except (OSError, ValueError):  # no Linux, or the launcher is somebody else's or on another host
        return None
    return None


def _columns(terminal: int) -> int:
    return os.get_terminal_size(terminal).columns or 80  # a terminal that does not know its size says 0


def spread(accuracy: np.ndarray) -> str:
    """Return the mean accuracy over nodes, as text; a dash where there is none."""
    mean = float(np.mean(accuracy))
    return "–" if np.isnan(mean) else f"{mean:.3f}"


class Display:
    """Shows a run: a progress bar on a terminal, a plain line per round elsewhere, nothing if quiet.

    Parameters
    ----------
    num_rounds : int
    """

    def __init__(self, num_rounds: int, quiet: bool):
        self.num_rounds = num_rounds
        self.quiet = quiet
        self._width = None if quiet else terminal_of_launcher()
        self._started = time.perf_counter()
        self._before = 0
        self._progress: Progress | None = None

    def line(self, text: str) -> None:
        """Print a line."""
        if self.quiet:
            return
        try:
            print(text, flush=True)
        except OSError:  # nobody listens any more, or a disk is full: no reason to lose a run
            self.quiet = True

    def plan(self, rows: list[tuple[str, str]]) -> None:
        """Print the plan: a name and a text on each row."""
        widest = max(len(name) for name, _ in rows)
        self.line("\n".join(f"{name:<{widest}}  {text}" for name, text in rows))

    def start(self, rounds_before: int = 0) -> None:
        """Start the clock that the time left is told from, after some rounds that were played before."""
        self._started = time.perf_counter()
        self._before = rounds_before
        if self.quiet or self._width is None:
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("round {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            console=self._console(),
            auto_refresh=False,  # a thread that wakes up takes the core from ranks that train
        )
        self._progress.add_task("", total=self.num_rounds, completed=rounds_before)
        self._progress.start()
        self._progress.console.show_cursor(True)  # a run that is killed must not leave a terminal without one

    def round(self, round: int, iid_accuracy: np.ndarray, ood_accuracy: np.ndarray) -> None:
        """Show a finished round; the accuracies are of all nodes."""
        text = f"IID {spread(iid_accuracy)}  OOD {spread(ood_accuracy)}"
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=round, description=text, refresh=True)
            return
        elapsed = time.perf_counter() - self._started
        left = elapsed / (round - self._before) * (self.num_rounds - round)
        digits = len(str(self.num_rounds))
        self.line(
            f"round {round:>{digits}}/{self.num_rounds}  {text}  {plain_seconds(elapsed)}, {plain_seconds(left)} left"
        )

    def stop(self) -> None:
        """Take the progress bar off the terminal."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _console(self) -> Console:
        from rich.console import Console

        return Console(force_terminal=True, width=self._width)
