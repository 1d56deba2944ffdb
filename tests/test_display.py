"""What a person sees: plain lines, a bar on a terminal, nothing if quiet; and whether there is a terminal at all."""

import fcntl
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
from types import SimpleNamespace

import numpy as np
import pytest

from mpisim import display
from mpisim.display import Display, spread

NONE = np.full(2, np.nan)


def test_the_accuracy_of_all_nodes_is_their_mean_and_a_dash_where_there_is_none():
    assert spread(np.array([0.25, 0.5, 0.75, 0.6])) == "0.525"
    assert spread(NONE) == "–"


@pytest.fixture
def _clock(monkeypatch):
    """Let half a minute pass between two looks at the clock."""
    times = iter(range(0, 1000, 30))
    monkeypatch.setattr(display, "time", SimpleNamespace(perf_counter=lambda: float(next(times))))


@pytest.mark.usefixtures("_clock")
def test_elsewhere_than_on_a_terminal_a_round_is_a_plain_line(monkeypatch, capsys):
    monkeypatch.setattr(display, "terminal_of_launcher", lambda: None)
    shown = Display(10, quiet=False)
    shown.plan([("topology", "ring"), ("log", "results/run.h5")])
    shown.start()
    shown.round(1, np.array([0.25, 0.75]), NONE)
    shown.round(2, np.array([0.5, 1.0]), np.array([0.0, 0.25]))
    shown.stop()
    assert capsys.readouterr().out.splitlines() == [
        "topology  ring",
        "log       results/run.h5",
        "round  1/10  IID 0.500  OOD –  30 s, 4 min 30 s left",
        "round  2/10  IID 0.750  OOD 0.125  1 min 00 s, 4 min 00 s left",
    ]


def test_quiet_prints_nothing_even_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(display, "terminal_of_launcher", lambda: 80)
    shown = Display(2, quiet=True)
    shown.line("text")
    shown.plan([("topology", "ring")])
    shown.start()
    shown.round(1, np.array([0.5]), NONE)
    shown.stop()
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_round_moves_a_bar_that_fits_and_the_cursor_is_there_afterwards(monkeypatch, capsys):
    monkeypatch.setattr(display, "terminal_of_launcher", lambda: 60)
    monkeypatch.setenv("TERM", "xterm")
    shown = Display(2, quiet=False)
    shown.start()
    for round in (1, 2):
        shown.round(round, np.array([0.25, 0.75]), NONE)
        output = capsys.readouterr().out
        last_line = output.split("\n")[-1].split("\r")[-1]
        assert f"round {round}/2" in last_line
        assert "IID 0.500  OOD –" in last_line
    shown.stop()
    output += capsys.readouterr().out
    assert output.rfind("\x1b[?25h") >= output.rfind("\x1b[?25l")  # show the cursor, hide the cursor


ASK = "import sys; from mpisim.display import terminal_of_launcher; print(terminal_of_launcher(), file=sys.stderr)"
RANK = f"{shlex.quote(sys.executable)} -c {shlex.quote(ASK)}"


def ask(command, tmp_path):
    """Return what a rank takes for its terminal when a shell on a terminal of 93 columns runs a command.

    There is a launcher, mpiexec, that copies the output of the program it runs to its own.
    """
    launcher = tmp_path / "mpiexec"
    launcher.write_text('#!/bin/sh\nsh -c \'"$@"; true\' proxy "$@" | cat\n')
    launcher.chmod(0o755)
    controller, terminal = pty.openpty()
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 93, 0, 0))
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", command],
            stdout=terminal,
            stderr=subprocess.PIPE,
            env=os.environ | {"PATH": path},
            cwd=tmp_path,
            text=True,
            check=True,
        )
    finally:
        os.close(controller)
        os.close(terminal)
    return done.stderr.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    "command, columns",
    [
        (f"{RANK}", "93"),
        (f"mpiexec {RANK}", "93"),
        (f"mpiexec {RANK} | cat", "None"),
        (f"mpiexec {RANK} > file & wait", "None"),
        (f"{RANK} | cat", "None"),
        (f"{RANK} > file & wait", "None"),
    ],
    ids=["alone", "launched", "launched into a pipe", "launched into a file", "alone into a pipe", "alone into a file"],
)
def test_a_rank_finds_the_terminal_that_its_output_ends_on(tmp_path, command, columns):
    assert ask(command, tmp_path) == columns
