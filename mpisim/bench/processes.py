"""Whole processes: launched, timed from the first to the last moment, and the logs they leave."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from mpisim.analysis.logs import open_file, score
from mpisim.bench.timing import Figures
from mpisim.errors import InputError

WHOLE, ROUNDS = "whole process", "rounds"
REST = "all but training, testing and mixing"  # of the rounds
IID, OOD = "IID accuracy", "OOD accuracy"
PRODUCTS = ("train_seconds", "test_seconds", "mix_seconds")
LAST_WORDS = 2_000  # characters of a failed process's output that are worth showing
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOKS_EVERY = 0.1  # seconds: whether a signal has come
END_SECONDS = 5.0  # for a launcher to end its ranks


def on_ranks(ranks: int, *arguments: str) -> list[str]:
    """Return the command that starts this Python on some ranks.

    Raises
    ------
    InputError
        If there is no mpiexec.
    """
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None:
        raise InputError("mpiexec is not on PATH: activate the environment that has it, or load the machine's MPI")
    return [mpiexec, "-n", str(ranks), sys.executable, *arguments]


def run(command: list[str], folder: Path) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Return how many seconds a command took in a folder, and what it printed.

    Raises
    ------
    InputError
        If it says that its input is wrong: code 2 and a line.
    RuntimeError
        If it fails otherwise.
    """
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        error = given_input_error(done.returncode, done.stderr)
        if error is not None:
            raise error
        raise RuntimeError(f"code {done.returncode} from {command}:\n{(done.stdout + done.stderr)[-LAST_WORDS:]}")
    return seconds, done


def given_input_error(code: int, printed: str) -> InputError | None:
    """Return the error that a command of mpisim ended with, if it says that its input is wrong: code 2 and a line."""
    lines = [line for line in printed.splitlines() if line.startswith("mpisim: ")]
    return InputError(lines[0].removeprefix("mpisim: ")) if code == 2 and lines else None


def run_in_sight(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder and return how it ended, and what it printed on standard output.

    Its standard error is this process's: people see it as it comes.

    Raises
    ------
    SystemExit
        With a line, after Ctrl-C or a signal like it, and the end of all that the command has started on this host.
    """
    asked: list[int] = []
    before = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in STOPS}
    try:
        with subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a signal is for this process, which passes it on
        ) as process:
            try:
                while not asked:
                    with suppress(subprocess.TimeoutExpired):
                        printed, _ = process.communicate(timeout=LOOKS_EVERY)
                        return subprocess.CompletedProcess(command, process.returncode, printed)
            finally:
                _end(process)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    sys.exit(f"mpisim: stopped by {signal.Signals(asked[0]).name}: the lines above say what was found until then")


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all of its session, in good order if they do so soon; nothing if they are gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)


def simulate(folder: Path, ranks: int, *options: str, module: str = "mpisim.run") -> Figures:
    """Return the figures of a run of mpisim: the seconds of the whole process and of its rounds, and accuracies.

    Parameters
    ----------
    options : of ``mpisim.run``, without --output
    module : str
        What is run in place of ``mpisim.run``; it must know --output.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:  # each turn its own: a run goes with its checkpoints
        log = Path(place) / "run.h5"
        seconds, _ = run(on_ranks(ranks, "-m", module, *options, "--output", str(log)), folder)
        return {WHOLE: seconds} | figures_of(log)


def figures_of(log: Path) -> Figures:
    """Return what a log says: rank 0's seconds in rounds, and the mean accuracies of the last round's trained models.

    The time in rounds is the sum over rounds of every part that is logged: train, test, exchange, mix and log.
    """
    with open_file(log) as file:
        parts = [name for name in file if name.endswith("_seconds")]
        return {
            ROUNDS: float(sum(file[name][:, 0].sum() for name in parts)),
            REST: float(sum(file[name][:, 0].sum() for name in parts if name not in PRODUCTS)),
            IID: float(score(file, "iid_accuracy")[-1].mean()),
            OOD: float(score(file, "ood_accuracy")[-1].mean()),
        }
