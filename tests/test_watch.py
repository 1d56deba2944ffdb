"""A run that is watched is shown as its log stands, in the width and the characters of the output, until it ends."""

import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mpisim.analysis import watch as watching
from mpisim.analysis.watch import ASCII_BLOCKS, BLOCKS, frame, looks, sparkline, watch
from mpisim.errors import InputError
from mpisim.storage.log import Log
from mpisim.storage.variables import logged_variables

TRAINED = logged_variables(trained=True, aggregated=False, epochs=False)
NO_TIME = {f"{part}_seconds": [0.0, 0.0] for part in ("train", "test", "exchange", "mix", "log")}
WRITTEN = 1000.0
COMMAND = [sys.executable, "-m", "mpisim.report", "watch"]


@pytest.fixture
def content(log_content):
    log_content.attributes = log_content.attributes | {"config": json.dumps({"rounds": 40})}
    return log_content


@pytest.fixture
def rounds(content):
    first = {"iid_accuracy": [0.0, 0.1, 0.2], "ood_accuracy": [0, 0, 1], "train_loss": [2, 1, 6]}
    last = {"iid_accuracy": [0.5, 0.9, 0.4], "ood_accuracy": [0.5, 1, 1], "train_loss": [1, 0.004, 2]}
    work = NO_TIME | {"train_seconds": [2.0, 3.0], "exchange_seconds": [70.0, 69.0]}
    same = {"bytes_sent": [2**20, 2**21], "participated": [1, 1, 1]} | work
    return [
        content.round(consensus_distance=0.25, **first, **same),
        content.round(consensus_distance=4, **last, **same),
    ]


@pytest.fixture
def log(tmp_path, content, rounds):
    content.attributes |= {"hosts": json.dumps(["north", "south"])}
    path = content.write(tmp_path / "run.h5", rounds, variables=TRAINED)
    os.utime(path, (WRITTEN, WRITTEN))
    return path


def printed(path, width=80, now=WRITTEN + 1, encoding="utf-8"):
    """Return the lines of a frame as an output that is no terminal gets them."""
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=output, width=width, highlight=False).print(frame(path, now))
    output.flush()
    return [line.rstrip() for line in output.buffer.getvalue().decode(encoding).splitlines()]


def test_every_figure_of_a_frame_is_the_one_computed_by_hand(log):
    assert printed(log) == [
        "degree on ring:n=3, digits, seed 0",
        "running, round 2 of 40, 2 min 24 s so far, 45 min 35 s left",  # 72 s each, 38 to come, 1 s gone
        "━━━━",
        "               last  lowest node  highest node  over rounds",
        "IID accuracy  0.600   0.400 at 2    0.900 at 1  ▁▅",  # of 8 blocks from 0 to 1: 0.1 and 0.6
        "OOD accuracy  0.833   0.500 at 0    1.000 at 1  ▃▇",
        "train loss    1.001   0.004 at 1    2.000 at 2  █▁",
        "consensus     4.000                             ▁█",
        "",
        "slowest rank: 1 on south, works 3 s a round, 20% more than the median rank",
        "sent between ranks: 3.0 MiB in the last round",
    ]


def test_in_a_narrow_terminal_the_extreme_nodes_have_a_table_of_their_own_and_nothing_is_cut(log):
    assert printed(log, width=40) == [
        "degree on ring:n=3, digits, seed 0",
        "running, round 2 of 40, 2 min 24 s so",
        "far, 45 min 35 s left",
        "━━",
        "               last  over rounds",
        "IID accuracy  0.600  ▁▅",
        "OOD accuracy  0.833  ▃▇",
        "train loss    1.001  █▁",
        "consensus     4.000  ▁█",
        "              lowest node  highest node",
        "IID accuracy   0.400 at 2    0.900 at 1",
        "OOD accuracy   0.500 at 0    1.000 at 1",
        "train loss     0.004 at 1    2.000 at 2",
        "",
        "slowest rank: 1 on south, works 3 s a",
        "round, 20% more than the median rank",
        "sent between ranks: 3.0 MiB in the last",
        "round",
    ]


def test_an_output_without_blocks_gets_ascii(tmp_path, content, rounds):
    content.attributes |= {"title": "ringförmig – ▁"}
    rounds[-1]["ood_accuracy"] = [np.nan] * 3
    lines = printed(content.write(tmp_path / "run.h5", rounds, variables=TRAINED), encoding="ascii")
    assert lines[0] == "ringf?rmig - ?"
    assert lines[2] == "----"
    assert lines[4].endswith("0.900 at 1  .+")
    assert lines[5] == "OOD accuracy      -            -             -  -"  # a third, and then nothing


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path, content, rounds, width):
    lines = printed(content.write(tmp_path / "run.h5", rounds * 150, variables=TRAINED), width)
    assert max(map(len, lines)) <= width
    blocks = [len(re.findall("[▁-█]", line)) for line in lines]
    assert max(blocks) == {20: 0, 40: 19, 60: 39, 80: 32, 200: 40}[width]  # what the other columns leave, 40 at most


def test_a_run_that_has_ended_says_what_it_took_and_one_without_a_round_has_dashes(tmp_path, content, rounds):
    interrupted = content.write(tmp_path / "interrupted.h5", rounds, "interrupted", TRAINED)
    assert printed(interrupted, now=1e12)[1:3] == ["interrupted, round 2 of 40, in 2 min 24 s", "━━━━"]
    lines = printed(content.write(tmp_path / "empty.h5", [], variables=TRAINED))
    assert lines[1:3] == ["running, round 0 of 40", ""]
    assert [line.split() for line in lines[4:8]] == [
        ["IID", "accuracy", "–"],
        ["OOD", "accuracy", "–"],
        ["train", "loss", "–"],
        ["consensus", "–"],
    ]


def test_a_silent_run_and_nodes_that_diverged_are_warned_of(tmp_path, content, rounds):
    rounds[-1]["train_loss"] = [np.nan, 1, np.nan]
    log = content.write(tmp_path / "run.h5", rounds, variables=TRAINED)
    os.utime(log, (WRITTEN, WRITTEN))
    assert printed(log, now=WRITTEN + 276)[-1] == "the loss is no number at node 0, 2"  # 3 × 72 s and a minute
    assert " ".join(printed(log, now=WRITTEN + 277)[-2:]) == (
        "the loss is no number at node 0, 2 no round for 4 min 37 s, one takes 1 min 12 s: is the run still there?"
    )


def test_scores_of_aggregated_models_are_named(tmp_path, content):
    variables = logged_variables(trained=False, aggregated=True, epochs=False)
    assert "(of the aggregated models)" in printed(
        content.write(tmp_path / "run.h5", [content.round()], variables=variables)
    )


def test_a_title_is_text_and_nothing_else(tmp_path, content):
    content.attributes |= {"title": "[red]a[/] \x1b[2J\n\x07"}
    assert printed(content.write(tmp_path / "run.h5", [], variables=TRAINED))[0] == "[red]a[/] ?[2J??"


def test_one_frame_is_printed_without_control_codes_where_nobody_sees_them(log, capsys):
    watch(log, once=True)
    out = capsys.readouterr().out
    assert out.splitlines()[4].split()[:3] == ["IID", "accuracy", "0.600"]
    assert "\x1b" not in out
    assert "\r" not in out


def test_a_log_that_grows_is_read_again_and_one_that_does_not_is_not(tmp_path, content, rounds):
    path = content.write(tmp_path / "run.h5", rounds[:1], variables=TRAINED)
    pauses = []
    found = looks(path, lambda: pauses.append(1))
    first = next(found)
    assert next(found) is first
    Log(path).append(2, {name: value for name, value in rounds[1].items() if name in TRAINED})
    second = next(found)
    assert (first.num_rounds, second.num_rounds) == (1, 2)
    assert [look.metrics[0].last for look in (first, second)] == pytest.approx([0.1, 0.6])
    Log(path).set_status("interrupted")
    assert next(found).status == "interrupted"
    assert next(found, "the end") == "the end"
    assert len(pauses) == 3


def test_a_log_that_is_not_there_yet_or_any_more_is_waited_for(tmp_path, content, rounds):
    path = tmp_path / "results" / "run.h5"
    found = looks(path, lambda: None)
    assert next(found) is None
    content.write(path, rounds, variables=TRAINED)
    assert next(found).num_rounds == 2
    path.unlink()
    assert next(found) is None
    content.write(path, [], "complete", TRAINED)
    assert next(found).num_rounds == 0
    assert next(found, "the end") == "the end"


def test_what_is_no_log_is_told_in_one_line_also_if_it_comes_later(tmp_path, log):
    found = looks(log, lambda: None)
    next(found)
    log.write_text("no log")
    with pytest.raises(InputError, match=r"run\.h5: cannot be read as HDF5"):
        next(found)
    with pytest.raises(InputError, match=r"other\.h5: no such log"):
        watch(tmp_path / "other.h5", once=True)


@pytest.mark.parametrize("interval", [0, -1.0, float("nan"), float("inf")])
def test_an_interval_that_is_no_time_is_refused(log, interval):
    with pytest.raises(InputError, match=f"the interval between two looks is {interval} s: it must be positive"):
        watch(log, interval=interval)


def test_ctrl_c_ends_it_quietly_after_the_last_frame(log, capsys, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    watch(log)
    out = capsys.readouterr().out
    assert "round 2 of 40" in out
    assert out.endswith("\n")


def test_the_command_waits_for_a_log_follows_it_and_ends_with_the_run(tmp_path, content, rounds):
    path = tmp_path / "run.h5"
    with subprocess.Popen([*COMMAND, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        content.write(path, rounds[:1], variables=TRAINED)
        Log(path).append(2, {name: value for name, value in rounds[1].items() if name in TRAINED})
        Log(path).set_status("complete")
        out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert "complete, round 2 of 40, in 2 min 24 s" in out.splitlines()
    assert out.endswith("\n")


def test_in_a_terminal_ctrl_c_ends_the_command_with_code_0_and_leaves_the_cursor(tmp_path):
    ours, theirs = pty.openpty()
    with subprocess.Popen([*COMMAND, tmp_path / "run.h5"], stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            seen = b""
            while b"no log yet" not in seen:
                assert select.select([ours], [], [], 120)[0], seen
                seen += os.read(ours, 1000)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)
            with contextlib.suppress(OSError):  # which tells that nobody has the terminal open any more
                while more := os.read(ours, 1000):
                    seen += more
        finally:
            process.kill()
    os.close(ours)
    assert process.returncode == 0
    assert b"Traceback" not in seen
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")  # shown after it was hidden


NUMBERS = st.floats(-1e6, 1e6) | st.sampled_from([float("nan"), float("inf")])


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(NUMBERS, max_size=40))
def test_a_sparkline_with_room_rises_where_the_values_rise_and_has_spaces_where_there_are_none(values):
    line, finite = sparkline(np.array(values), 40), np.isfinite(np.array(values, dtype=float))
    assert len(line) == len(values)
    assert [character != " " for character in line] == finite.tolist()
    heights = np.array([BLOCKS.index(character) for character in line if character != " "])
    known = np.array(values, dtype=float)[finite]
    assert (np.diff(heights[np.argsort(known, kind="stable")]) >= 0).all()
    if len(set(known)) > 1:
        assert (heights[known.argmin()], heights[known.argmax()]) == (0, 7)


@pytest.mark.parametrize(
    ("values", "width", "scale", "line"),
    [
        ([], 10, None, ""),
        ([1.0, 2.0], 0, None, ""),
        ([1.0, 2.0], -3, None, ""),
        ([3.0, 3.0], 10, None, "▁▁"),
        ([np.nan, np.nan], 10, None, "  "),
        ([0.0, 0.124, 0.126, 0.99, 1.0, 1.5, -1.0], 10, (0, 1), "▁▁▂███▁"),
        ([0, 1, 6, 7, 2, 2, 7, np.nan], 4, None, "▁█▂█"),  # means of two: 0.5, 6.5, 2, 7
        (range(100), 5, None, "▁▃▅▇█"),
    ],
)
def test_a_sparkline_has_the_blocks_counted_by_hand(values, width, scale, line):
    assert sparkline(np.array(values, dtype=float), width, scale) == line
    translated = line.translate(str.maketrans(BLOCKS, ASCII_BLOCKS))
    assert sparkline(np.array(values, dtype=float), width, scale, ascii_only=True) == translated
