"""A table says every figure under its heading, and makes do with the room that a terminal has."""

import os
import sys

import numpy as np
import pytest

from mpisim.analysis import columns

HEADINGS = ["log", "strategy", "rank", "IID", "OOD"]
CELLS = [
    ["results/a-long-name-0.h5", "degree", "1", "0.900", "1.000"],
    ["results/a-long-name-1.h5", "unweighted", "1", "0.875", "0.125"],
]
LEFT = ["log", "strategy"]


def shown(monkeypatch, capsys, width, headings=HEADINGS, cells=CELLS, **options):
    """Return the lines that a terminal of this width is shown."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((width, 24)))
    columns.show(headings, cells, LEFT, **options)
    return capsys.readouterr().out.splitlines()


def test_columns_begin_or_end_below_each_other():
    assert columns.as_text(HEADINGS, CELLS, LEFT).splitlines() == [
        "log                       strategy    rank    IID    OOD",
        "results/a-long-name-0.h5  degree         1  0.900  1.000",
        "results/a-long-name-1.h5  unweighted     1  0.875  0.125",
    ]


@pytest.mark.parametrize(
    "value, text", [(None, "–"), (np.nan, "–"), (0.0, "0.000"), (-1.23456, "-1.235"), (12, "12"), ("ba", "ba")]
)
def test_a_figure_is_text_and_a_dash_where_there_is_none(value, text):
    assert columns.figure(value) == text


def test_what_is_no_terminal_gets_the_whole_table(capsys):
    columns.show(HEADINGS, CELLS, LEFT, spare=["IID"], paths="log")
    assert capsys.readouterr().out == columns.as_text(HEADINGS, CELLS, LEFT) + "\n"


def test_a_terminal_with_room_gets_the_whole_table(monkeypatch, capsys):
    text = columns.as_text(HEADINGS, CELLS, LEFT).splitlines()
    assert shown(monkeypatch, capsys, 56, spare=["IID"], paths="log") == text
    assert max(map(len, text)) == 56


def test_if_room_is_short_what_all_rows_share_is_told_once(monkeypatch, capsys):
    assert shown(monkeypatch, capsys, 55, spare=["IID"], paths="log") == [
        "all 2: rank 1, in results",
        "log               strategy      IID    OOD",
        "a-long-name-0.h5  degree      0.900  1.000",
        "a-long-name-1.h5  unweighted  0.875  0.125",
    ]


def test_then_spare_columns_are_left_out_as_far_as_it_takes(monkeypatch, capsys):
    assert shown(monkeypatch, capsys, 36, spare=["rank", "IID", "strategy"], paths="log")[1:] == [
        "no room for IID: a wider terminal and --csv have them",
        "log               strategy      OOD",
        "a-long-name-0.h5  degree      1.000",
        "a-long-name-1.h5  unweighted  0.125",
    ]


def test_then_long_words_are_cut_in_their_middle_and_figures_are_not(monkeypatch, capsys):
    assert shown(monkeypatch, capsys, 32, spare=["IID"], paths="log")[2:] == [
        "log            strategy      OOD",
        "a-lo…ame-0.h5  degree      1.000",
        "a-lo…ame-1.h5  unweighted  0.125",
    ]


def test_a_table_for_which_there_is_no_room_at_all_is_shown_too_wide(monkeypatch, capsys):
    lines = shown(monkeypatch, capsys, 1)
    assert [line.split()[-1] for line in lines[1:]] == ["OOD", "1.000", "0.125"]


def test_a_row_alone_keeps_all_its_columns(monkeypatch, capsys):
    [heading, row] = shown(monkeypatch, capsys, 50, cells=CELLS[:1], paths="log")
    assert heading.split() == HEADINGS
    assert row.split()[1:] == CELLS[0][1:]


@pytest.mark.parametrize(
    "paths, told",
    [
        (["/a/b/x.h5", "/a/c/y.h5"], "in /a"),
        (["a/b/x.h5", "a/b/y.h5"], "in a/b"),
        (["x.h5", "a/y.h5"], None),
        (["/a/x.h5", "a/y.h5"], None),
        (["ab/x.h5", "ac/y.h5"], None),
    ],
)
def test_the_folder_that_is_told_is_that_of_all_paths(monkeypatch, capsys, paths, told):
    cells = [[path, str(number)] for number, path in enumerate(paths)]
    lines = shown(monkeypatch, capsys, 5, ["log", "seed"], cells, paths="log")
    assert (lines[0] == f"all 2: {told}") == (told is not None)
    ends = [line.split()[0] for line in lines[-2:]]
    assert [os.path.join(told[3:], end) if told else end for end in ends] == paths  # noqa: PTH118
