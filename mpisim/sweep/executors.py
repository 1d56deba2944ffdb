"""What carries out the runs of a sweep: on this machine, some at a time, each by an ``mpiexec`` of its own."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from mpisim.errors import InputError
from mpisim.sweep.expansion import Run
from mpisim.sweep.launch import Ended, environment_among_others, launch, run_command, take_share_of_cores

LAUNCHER = "mpiexec -n {ranks}"


@dataclass(frozen=True)
class Orders:
    """How each run is to be started.

    Attributes
    ----------
    folder : Path
        Where the logs are.
    ranks : int
        Of each run.
    deadline : float, optional
        When all runs must have stopped, by ``time.monotonic``.
    no_download : bool
        Whether runs take only data that is on disk.
    """

    folder: Path
    ranks: int
    deadline: float | None = None
    no_download: bool = False

    @property
    def seconds_left(self) -> float | None:
        """The time until the deadline, if there is one."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def command(self, run: Run) -> list[str]:
        """Return the command of a run that is started now."""
        limits = [limit for limit in (self.seconds_left, run.config.walltime) if limit is not None]
        on_disk = ["--no-download"] if self.no_download and not run.config.no_download else []
        return run_command([*run.flags(), *on_disk], str(run.log(self.folder)), min(limits) if limits else None)


class Executor(Protocol):
    """What carries out runs, at most ``slots`` at a time, between entering and leaving it."""

    slots: int

    def __enter__(self) -> Executor:
        """Make ready."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release what was made ready; the runs have ended."""

    def submit(self, run: Run) -> Future[Ended]:
        """Start a run."""

    def tell(self, number: int) -> None:
        """Send a signal to all runs that are under way."""


class LocalExecutor:
    """Runs on this machine, each beside a thread that waits for it.

    Parameters
    ----------
    jobs : int
        Runs at a time.
    launcher : str
        The command that starts as many processes as ``{ranks}`` of the command that follows it.

    Raises
    ------
    InputError
        If there is no such command.
    """

    def __init__(self, orders: Orders, jobs: int = 1, launcher: str = LAUNCHER):
        self.orders, self.slots = orders, jobs
        try:
            self._prefix = shlex.split(launcher.replace("{ranks}", str(orders.ranks)))
        except ValueError as error:
            raise InputError(f"--launcher {launcher!r}: {error}") from error
        if not self._prefix or shutil.which(self._prefix[0]) is None:
            raise InputError(
                f"{' '.join(self._prefix[:1]) or '--launcher'} is not on PATH: activate the environment that has it, or"
                " load the machine's MPI"
            )
        self._wanted: int | None = None
        numbers = itertools.count()
        self._pool = ThreadPoolExecutor(jobs, initializer=lambda: take_share_of_cores(next(numbers), jobs))

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def submit(self, run: Run) -> Future[Ended]:
        """Start a run."""
        command = [*self._prefix, *self.orders.command(run), *self._threads(run)]
        environment = environment_among_others() if self.slots > 1 else None
        return self._pool.submit(launch, command, lambda: self._wanted, environment)

    def tell(self, number: int) -> None:
        """Send a signal to all runs that are under way."""
        self._wanted = number

    def _threads(self, run: Run) -> list[str]:
        """Return the option that keeps runs side by side from taking all cores each, where they cannot be bound."""
        if self.slots == 1 or run.config.threads is not None or hasattr(os, "sched_setaffinity"):
            return []
        return [f"--threads={max(1, (os.cpu_count() or 1) // (self.slots * self.orders.ranks))}"]
