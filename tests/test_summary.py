"""The summary of a log, and that of many, has the figures that one computes from the logs by hand."""

import h5py
import numpy as np
import pytest
from plain_logs import write_log

from mpisim.analysis.summary import HEADINGS, as_text, show, summarize
from mpisim.analysis.table import rows
from mpisim.errors import InputError
from mpisim.report.__main__ import main
from mpisim.storage.log import Log
from mpisim.storage.variables import WITHOUT_RECALL, logged_variables

TRAINED = logged_variables(trained=True, aggregated=False, epochs=False)
NONE = np.full(3, np.nan)


def seconds(**of_ranks):
    """Return the seconds of each part for both ranks, zero where not given."""
    parts = ("train", "test", "exchange", "mix", "log")
    return {f"{part}_seconds": np.array(of_ranks.get(part, [0.0, 0.0])) for part in parts}


@pytest.fixture
def three_rounds(log_content):
    return [
        log_content.round(iid_accuracy=[0.0, 0.2, 0.4], ood_accuracy=[0, 0, 0], **seconds(train=[1, 3], log=[0.5, 0])),
        log_content.round(iid_accuracy=[0.5, 0.5, 0.5], ood_accuracy=[0, 0, 1], **seconds(train=[2, 2], mix=[0, 0.25])),
        log_content.round(iid_accuracy=[0.9, 0.7, 0.8], ood_accuracy=[0.5, 0, 1], **seconds(test=[1, 1])),
    ]


def test_a_summary_has_the_figures_computed_by_hand(tmp_path, log_content, three_rounds):
    path = log_content.write(tmp_path / "run.h5", three_rounds, "complete", TRAINED)
    summary = summarize(path)
    assert (summary.path, summary.status) == (str(path), "complete")
    assert summary.title == "degree on ring:n=3, digits, seed 0"
    assert (summary.num_rounds, summary.wanted_rounds) == (3, 4)
    assert summary.accuracy == pytest.approx({"iid": 0.8, "ood": 0.5})
    assert summary.lowest == {"iid": 0.7, "ood": 0.0}
    assert summary.highest == {"iid": 0.9, "ood": 1.0}
    # Over nodes: (0 + 2·0.5 + 0.9)/4, (0.2 + 1 + 0.7)/4, (0.4 + 1 + 0.8)/4; and 0.5/4, 0, (2 + 1)/4.
    assert summary.auc == pytest.approx({"iid": (1.9 + 1.9 + 2.2) / 12, "ood": 3.5 / 12})
    # Over ranks: training (3 + 5)/2, tests (1 + 1)/2, …
    assert summary.seconds == {"train": 4.0, "test": 1.0, "exchange": 0.0, "mix": 0.125, "log": 0.25}


def test_where_only_aggregated_models_were_tested_their_scores_stand_and_the_text_says_so(tmp_path, log_content):
    variables = logged_variables(trained=False, aggregated=True, epochs=False)
    rounds = [log_content.round(iid_accuracy_aggregated=[0.1, 0.2, 0.6], ood_accuracy_aggregated=NONE, **seconds())]
    summary = summarize(log_content.write(tmp_path / "run.h5", rounds, variables=variables))
    assert summary.accuracy["iid"] == summary.auc["iid"] == pytest.approx(0.3)
    assert "(in every round, of the aggregated models)" in as_text(summary).splitlines()


def test_the_auc_is_over_epochs_where_they_were_tested(tmp_path, log_content):
    by_epoch = [[[0, 0, 0], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]]]  # rounds of two epochs
    rounds = [
        log_content.round(iid_accuracy=epochs[1], iid_accuracy_by_epoch=epochs, **seconds()) for epochs in by_epoch
    ]
    path = log_content.write(tmp_path / "run.h5", rounds)
    assert summarize(path).auc["iid"] == pytest.approx((0.5 + 0.5 + 0) / 3)


def test_a_complete_run_has_its_final_accuracy_and_a_text_its_perplexity(tmp_path, log_content, three_rounds):
    three_rounds[-1] |= {"iid_loss": np.log([2.0, 3.0, 7.0]), "ood_loss": NONE}
    path = log_content.write(tmp_path / "run.h5", three_rounds, variables=TRAINED)
    final = {f"{score}_final": np.full(3, np.nan) for score in WITHOUT_RECALL} | {"peak_memory": [1.0, 2.0]}
    Log(path).set_status("complete", final | {"iid_accuracy_final": [0.25, 0.5, 0.75]})
    with h5py.File(path, "r+") as file:
        file.attrs["data_kind"] = "text"
    lines = as_text(summarize(path)).splitlines()
    assert lines[0].split()[-2:] == ["aggregated", "perplexity"]
    assert lines[1].split()[-2:] == ["0.500", "4.000"]
    assert lines[2].split()[-2:] == ["–", "–"]


def test_its_text_is_a_table_with_every_number_under_its_heading(tmp_path, log_content, three_rounds):
    log_content.static |= {"degree": [1, 2, 1], "is_ood": [0, 0, 1]}
    text = as_text(summarize(log_content.write(tmp_path / "run.h5", three_rounds, variables=TRAINED)))
    assert text.splitlines() == [
        "     accuracy  lowest node  highest node    AUC  aggregated",
        "IID     0.800        0.700         0.900  0.500           –",
        "OOD     0.500        0.000         1.000  0.292           –",
        "3 of 4 rounds in 5.4 s a rank: train 4.0, test 1.0, exchange 0.0, mix 0.1, log 0.2",
        "OOD node 2 (degree 1, degree rank 3)",
    ]


def test_a_run_without_ood_has_dashes_for_it(tmp_path, log_content):
    rounds = [log_content.round(iid_accuracy=[0.25, 0.5, 0.75], ood_accuracy=NONE, **seconds())]
    summary = summarize(log_content.write(tmp_path / "run.h5", rounds, variables=TRAINED))
    assert summary.accuracy["iid"] == summary.auc["iid"] == 0.5
    ood = (summary.accuracy, summary.auc, summary.lowest, summary.highest)
    assert np.isnan([figures["ood"] for figures in ood]).all()
    assert as_text(summary).splitlines()[2].split() == ["OOD", "–", "–", "–", "–", "–"]


def test_a_log_without_rounds_has_no_figures_and_no_warning(tmp_path, log_content):
    summary = summarize(log_content.write(tmp_path / "run.h5", []))
    assert (summary.status, summary.num_rounds, summary.wanted_rounds) == ("running", 0, 4)
    for figures in (summary.accuracy, summary.auc, summary.lowest, summary.highest):
        assert np.isnan([figures["iid"], figures["ood"]]).all()
    assert set(summary.seconds.values()) == {0.0}
    assert as_text(summary).splitlines()[1].split() == ["IID", "–", "–", "–", "–", "–"]
    assert as_text(summary).splitlines()[3].startswith("0 of 4 rounds in 0.0 s")


def test_a_summary_of_many_has_a_line_for_each_and_one_for_all(tmp_path, capsys):
    parts = {"train": 1.0, "test": 0.5, "exchange": 0.25, "mix": 0.25, "log": 0.0}
    paths = [
        write_log(
            tmp_path / "a.h5",
            *("star:n=4", "degree", [[0.5] * 4, [0.7] * 4], [[0.1] * 4, [0.3] * 4]),
            seconds=parts,
            rounds=5,
            status="interrupted",
        ),
        write_log(tmp_path / "b.h5", "path:n=4", "fl", [[0.5] * 4], [[np.nan] * 4], ood_nodes=[], seed=3),
    ]
    show(rows(paths))
    heading, first, second, total = capsys.readouterr().out.splitlines()
    assert [*heading.split()] == [word for each in HEADINGS for word in each.split()]
    assert first.split() == [
        *(str(paths[0]), "degree", "star:n=4", "digits", "0", "0", "1"),
        # 200 · (0.2 - 0.6) / (0.2 + 0.6); of 2 · (1 + 0.5 + 0.25 + 0.25) s
        *("0.700", "0.300", "0.600", "0.200", "-100.0", "2/5", "4.0", "50·25·12·12·0", "interrupted"),
    ]
    assert second.split() == [
        *(str(paths[1]), "fl", "path:n=4", "digits", "3", "–", "–"),
        *("0.500", "–", "0.500", "–", "–", "1/1", "0.0", "–", "complete"),
    ]
    assert total == "2 runs, 1 interrupted; 4.0 s a rank: train 2.0, test 1.0, exchange 0.5, mix 0.5, log 0.0"


def test_rounds_that_no_rank_has_a_figure_of_take_no_time_and_warn_nobody(tmp_path, log_content):
    rounds = [
        log_content.round(**seconds(train=[np.nan, np.nan])),
        log_content.round(**seconds(train=[2.0, np.nan])),
        log_content.round(**seconds(train=[1.0, 3.0])),
    ]
    assert summarize(log_content.write(tmp_path / "run.h5", rounds)).seconds["train"] == 2.0 + 2.0


def test_seconds_without_end_are_no_figure_and_the_others_are_shown(tmp_path, capsys):
    times = [{"train": np.inf}, {"train": 3.0, "mix": 1.0}, {"train": 1e300}]
    paths = [str(write_log(tmp_path / f"{number}.h5", seconds=each)) for number, each in enumerate(times)]
    assert main(["summary", *paths[:2]]) == 0
    _, first, second, total = capsys.readouterr().out.splitlines()
    assert first.split()[-3:] == ["–", "–", "complete"]
    assert second.split()[-3:] == ["4.0", "75·0·0·25·0", "complete"]
    assert total.startswith("2 runs; 4.0 s a rank: train 3.0, test 0.0")
    for path in paths:
        assert main(["summary", path]) == 0
    assert main(["summary", *paths]) == 0
    out = capsys.readouterr().out
    assert "1e+300 s a rank: train 1e+300, test 0.0" in out
    assert "0" * 30 not in out


def test_one_log_tells_its_ood_nodes_and_where_they_stand(tmp_path):
    """In a star of 4 the middle has 3 neighbors, the others have 1."""
    last = [
        as_text(summarize(write_log(tmp_path / f"{len(nodes)}.h5", "star:n=4", ood_nodes=nodes))).splitlines()[-1]
        for nodes in ([2], [0, 1], [])
    ]
    assert last == [
        "OOD node 2 (degree 1, degree rank 3)",
        "OOD nodes 0 (degree 3, degree rank 1), 1 (degree 1, degree rank 2)",
        "no OOD node",
    ]


def test_a_broken_log_is_told_in_one_line(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [])
    with h5py.File(path, "r+") as file:
        del file["train_seconds"]
    with pytest.raises(InputError, match=rf"^{path}: is a broken log: its variable train_seconds is missing$"):
        summarize(path)
