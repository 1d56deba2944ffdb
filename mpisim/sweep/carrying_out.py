"""Carrying out a sweep: what is missing is started, one run's failure stops no other, a signal stops all."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mpisim.errors import InputError
from mpisim.ranks.stopping import StopRequest
from mpisim.storage.checkpoint import checkpoint_folder, remove
from mpisim.sweep.display import Progress
from mpisim.sweep.executors import Executor
from mpisim.sweep.expansion import Run
from mpisim.sweep.launch import Ended, gist
from mpisim.sweep.state import (
    DONE,
    FAILED,
    LASTING,
    RUNNING,
    SHORT,
    State,
    failure_path,
    forget_failure,
    keep_failure,
    look,
)

TICK = 0.2  # seconds: what a person does not feel, when a signal is to be passed on
REFUSED, STOPPED = 2, 3  # exit codes of a run: another process writes its log, among others; it was stopped


class Sweep:
    """The runs of a sweep, and how far each is.

    Parameters
    ----------
    runs : list of Run
    states : how far each of them is, in their order
    folder : Path
        Where their logs are.
    keep_checkpoints : bool
        Of runs that are done; they are needed to play more rounds only, and are as large as all models.

    Attributes
    ----------
    failures : the runs that failed, each with a line that says why
    """

    def __init__(
        self,
        runs: Sequence[Run],
        states: Sequence[State],
        folder: Path,
        progress: Progress,
        keep_checkpoints: bool = False,
    ):
        self.runs, self.states, self.folder, self.progress = list(runs), list(states), folder, progress
        self.keep_checkpoints = keep_checkpoints
        self.failures: list[tuple[Run, str]] = []
        self._todo = deque(number for number, state in enumerate(self.states) if state.kind not in LASTING)
        self._under_way: dict[Future[Ended], int] = {}

    def carry_out(self, executor: Executor, deadline: float | None = None) -> int:
        """Carry out the runs that are missing; return the exit code.

        It is 0 if all are done, 1 if some failed or are too short, 3 if some are left.
        SIGTERM and SIGINT stop the runs at their checkpoints, a second SIGINT at once.

        Parameters
        ----------
        deadline : float, optional
            After which no run is started, by ``time.monotonic``.
        """
        stop = StopRequest()
        told = False
        with stop.listening(), executor, self.progress:
            try:
                while self._under_way or (self._todo and not self._stops(stop, deadline)):
                    while not self._stops(stop, deadline) and self._todo and len(self._under_way) < executor.slots:
                        self._start(executor)
                    if stop.asked and not told:
                        executor.tell(signal.SIGTERM)
                        told = True
                    self._collect(stop)
            except KeyboardInterrupt:
                executor.tell(signal.SIGKILL)
                wait(self._under_way)
        self._look_at_others()
        self.remove_checkpoints()
        kinds = {state.kind for state in self.states}
        if self._stops(stop, deadline) and kinds - {DONE, FAILED, SHORT}:
            return STOPPED
        if self.failures or SHORT in kinds:
            return 1
        return 0 if kinds == {DONE} else STOPPED

    def remove_checkpoints(self) -> None:
        """Remove those of runs that are done, whoever has carried them out."""
        if self.keep_checkpoints:
            return
        for run, state in zip(self.runs, self.states, strict=True):
            if state.kind == DONE:
                remove(checkpoint_folder(run.log(self.folder)))

    def _stops(self, stop: StopRequest, deadline: float | None) -> bool:
        return stop.asked or (deadline is not None and time.monotonic() >= deadline)

    def _start(self, executor: Executor) -> None:
        """Start the next run, unless somebody else has done or begun it meanwhile."""
        number = self._todo.popleft()
        state = self._look(number)
        if state is None:
            self.progress.ended(self.runs[number], self.states[number], self.states)
        elif state.kind in LASTING:
            self.states[number] = state
        else:
            forget_failure(self.runs[number], self.folder)
            self._under_way[executor.submit(self.runs[number])] = number

    def _collect(self, stop: StopRequest) -> None:
        """Wait a moment, and note the runs that have ended."""
        ended, _ = wait(self._under_way, timeout=TICK, return_when=FIRST_COMPLETED)
        for future in ended:
            number = self._under_way.pop(future)
            self._note(number, future, stop.asked)
            self._look_at_others()
            self.progress.ended(self.runs[number], self.states[number], self.states)
        self.progress.tick(self.states, self._under_way.values())

    def _look_at_others(self) -> None:
        """Note how far the runs are that somebody else carries out, who may have ended since."""
        for number, state in enumerate(self.states):
            if state.kind == RUNNING:
                self.states[number] = self._look(number) or self.states[number]

    def _note(self, number: int, future: Future[Ended], stopping: bool) -> None:
        """Note how a run ended: what its log says counts more than its exit code."""
        error = future.exception()
        if error is not None:  # not the run has failed, but what carries it out
            self._fail(number, f"{type(error).__name__}: {error}")
            return
        how, state = future.result(), self._look(number)
        if state is None:
            return
        # If its launcher is gone, its own ranks may hold the log for a moment more.
        theirs = state.kind == RUNNING and how.code in (0, REFUSED)
        if state.kind != DONE and not theirs and how.code != STOPPED and not stopping:
            says = f"died of {signal.Signals(-how.code).name}" if how.code < 0 else f"exit code {how.code}"
            self._fail(number, f"{says}: {gist(how.words)}\n\n{how.words}")
            return
        self.states[number] = state
        if state.kind == DONE:
            self.states[number] = replace(state, seconds=how.seconds)  # with the start, which short runs are made of
            if not self.keep_checkpoints:
                remove(checkpoint_folder(self.runs[number].log(self.folder)))

    def _look(self, number: int) -> State | None:
        """Return how far a run is; None if it has failed, because the log of its name is not its own."""
        try:
            return look(self.runs[number], self.folder)
        except InputError as error:
            self._fail(number, str(error))
            return None

    def _fail(self, number: int, words: str) -> None:
        run = self.runs[number]
        with suppress(OSError):  # a disk that is full must not end the sweep: the first line is told at the end
            keep_failure(run, self.folder, words + "\n")
        self.states[number] = replace(self.states[number], kind=FAILED, words=words)
        self.failures.append((run, f"{words.splitlines()[0]} ({failure_path(run, self.folder)})"))
