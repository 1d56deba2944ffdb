"""One run as a process: started with its ranks, watched, asked to stop; and what it said, if it failed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

MEETING_POINT = ("MASTER_ADDR", "MASTER_PORT")  # of the ranks of one run, with --transport device
LOOKS_EVERY = 0.1  # seconds: whether the run has ended, or is to
LAST_BYTES, LAST_LINES = 16_000, 60  # of what a run that failed has printed


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes
    ----------
    code : int
        Its exit code; negative: the launcher died of this signal.
    words : str
        The end of what it printed.
    """

    code: int
    words: str
    seconds: float


def launch(
    command: list[str], wanted_signal: Callable[[], int | None], environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a command until it ends.

    Parameters
    ----------
    wanted_signal : function
        Is asked again and again; what it returns is sent to the command, once, if it is a signal: SIGKILL to all of its
        processes.
    environment : of the command; by default that of this process
    """
    started, sent = time.monotonic(), None
    with tempfile.TemporaryFile() as output:  # unlike a pipe it does not end the run when this process dies
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the sweep, which tells its runs
            )
        except OSError as error:
            return Ended(127, f"{command[0]} cannot be started: {error.strerror}", 0.0)
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(LOOKS_EVERY)
                return Ended(code, _last_words(output), time.monotonic() - started)
            wanted = wanted_signal()
            if wanted is not None and wanted != sent:
                _send(process, wanted)
                sent = wanted


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    if number != signal.SIGKILL:
        process.send_signal(number)
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _last_words(output: BinaryIO) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - LAST_BYTES))
    lines = output.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-LAST_LINES:])


def gist(words: str) -> str:
    r"""Return the line that tells most of what a run said last.

    >>> gist("Traceback (most recent call last):\n  File …\nOSError: disk full\n= EXIT CODE: 1\n")
    'OSError: disk full'
    >>> gist("ssh: Could not resolve hostname x1\n[mpiexec@x0] main (mpiexec.c:270): process manager error\n")
    'ssh: Could not resolve hostname x1'
    """
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    for telling in (
        r"mpisim: (?!rank \d+ of \d+ on \S+ failed:)",
        r"[\w.]*(Error|Exception|Interrupt)\b",
        r".*signal ",
    ):
        found = [line for line in lines if re.match(telling, line)]
        if found:
            return found[-1].removeprefix("mpisim: ")
    others = [line for line in lines if not re.match(r"\[(mpiexec|proxy)[@:]", line)]  # Hydra, on the calls it made
    return ["it said nothing", *lines[-1:], *others[-1:]][-1]


def run_command(flags: list[str], log: str, seconds_left: float | None) -> list[str]:
    """Return the command of a run, to be started on each rank.

    Parameters
    ----------
    flags : its options
    seconds_left : float, optional
        Until it must have stopped at a checkpoint.
    """
    kept = [f"--output={log}", "--resume", "--quiet"]
    if seconds_left is not None:
        kept.append(f"--walltime={seconds_left:.1f}")
    return [sys.executable, "-m", "mpisim.run", *flags, *kept]


def environment_among_others(address: str = "") -> dict[str, str]:
    """Return the environment of a run beside which others run: its ranks are not to meet where all are told to.

    Parameters
    ----------
    address : of its first host, where its ranks meet; by default they find that out
    """
    kept = {name: value for name, value in os.environ.items() if name not in MEETING_POINT}
    return kept | ({"MASTER_ADDR": address} if address else {})


def take_share_of_cores(slot: int, num_slots: int) -> None:
    """Bind this thread, and so what it starts, to its share of the cores: runs side by side then count theirs alone.

    Ranks that believe they own all cores take a thread for each, and spin where they wait; several such runs slow each
    other down by more than their number.
    """
    if num_slots == 1 or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[slot % len(cores)], *cores[slot::num_slots]})
