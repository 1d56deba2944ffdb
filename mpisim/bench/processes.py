"""Whole processes: launched, timed from the first to the last moment, and the logs they leave."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mpisim.analysis.logs import open_file, score
from mpisim.bench.timing import Figures
from mpisim.errors import InputError

WHOLE, ROUNDS = "whole process", "rounds"
REST = "all but training, testing and mixing"  # of the rounds
IID, OOD = "IID accuracy", "OOD accuracy"
PRODUCTS = ("train_seconds", "test_seconds", "mix_seconds")
LAST_WORDS = 2_000  # characters of a failed process's output that are worth showing


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
        wrong_input = [line for line in done.stderr.splitlines() if line.startswith("mpisim: ")]
        if done.returncode == 2 and wrong_input:
            raise InputError(wrong_input[0].removeprefix("mpisim: "))
        raise RuntimeError(f"code {done.returncode} from {command}:\n{(done.stdout + done.stderr)[-LAST_WORDS:]}")
    return seconds, done


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
