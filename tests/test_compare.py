"""Runs are grouped by what differs but the seeds; means, intervals and the improvement are those worked out by hand."""

import csv
import json

import numpy as np
import pytest
from plain_logs import write_log

from mpisim.analysis.compare import as_rows, compare, load
from mpisim.report.__main__ import main


def run(folder, name, strategy, ood, seed=0, topology="path:n=4", **options):
    """Write and load a run of one round in which every node has this OOD accuracy, so that its AUC is that too."""
    path = folder / f"{name}.h5"
    return load(write_log(path, topology, strategy, ((0.5,) * 4,), ((ood,) * 4,), seed=seed, **options))


@pytest.fixture
def two_strategies(tmp_path):
    return [
        run(tmp_path, f"{strategy}-{seed}", strategy, ood, seed)
        for strategy, oods in (("unweighted", (0.2, 0.4)), ("degree", (0.7, 0.8)))
        for seed, ood in enumerate(oods)
    ]


def test_a_group_is_what_differs_in_the_seed_alone(two_strategies):
    found = compare(two_strategies)
    assert [(group.settings, group.num_runs) for group in found.groups] == [
        ({"strategy": "degree"}, 2),
        ({"strategy": "unweighted"}, 2),
    ]
    assert [group.mean["ood_auc"] for group in found.groups] == pytest.approx([0.75, 0.3])
    assert found.shared["data"] == "digits"


def test_of_two_runs_the_interval_is_from_one_to_the_other(two_strategies):
    # A resample of two is twice the lower with probability 1/4, and twice the higher: both beyond 2.5 %.
    [degree, unweighted] = compare(two_strategies).groups
    assert (degree.low["ood_auc"], degree.high["ood_auc"]) == pytest.approx((0.7, 0.8))
    assert (unweighted.low["ood_auc"], unweighted.high["ood_auc"]) == pytest.approx((0.2, 0.4))


def test_a_seed_of_the_topology_is_a_seed_too(tmp_path):
    runs = [run(tmp_path, f"{seed}", "degree", 0.5, seed=seed, topology=f"ba:n=4,m=1,seed={seed}") for seed in range(3)]
    [group] = compare(runs).groups
    assert group.num_runs == 3


def test_any_other_option_parts_runs(tmp_path):
    runs = [run(tmp_path, f"{tau}", "degree", 0.5, temperature=tau) for tau in (0.1, 0.2)]
    assert [group.settings for group in compare(runs).groups] == [{"temperature": "0.1"}, {"temperature": "0.2"}]


def test_the_improvement_is_the_mean_over_cells_of_aware_over_unaware(tmp_path):
    oods = {  # by the OOD node's place: strategies and their AUC
        0: {"unweighted": 0.2, "random": 0.4, "degree": 0.8, "betweenness": 1.0},  # 0.9 / 0.3 - 1 = 2
        1: {"weighted": 0.5, "degree": 0.5},  # 0
    }
    runs = [
        run(tmp_path, f"{node}-{strategy}", strategy, ood, ood_nodes=[node], ood_node=[node])
        for node, of_strategies in oods.items()
        for strategy, ood in of_strategies.items()
    ]
    found = compare(runs)
    assert found.num_cells == 2
    assert found.improvement == pytest.approx(1.0)
    assert (found.improvement_low, found.improvement_high) == pytest.approx((0.0, 2.0))


def test_without_unaware_strategies_there_is_no_improvement(tmp_path):
    found = compare([run(tmp_path, "run", "degree", 0.5)])
    assert found.num_cells == 0
    assert np.isnan(found.improvement)


def test_a_run_that_is_not_complete_and_one_that_repeats_another_are_counted(tmp_path):
    found = compare([run(tmp_path, "one", "degree", 0.5, status="interrupted"), run(tmp_path, "two", "degree", 0.5)])
    assert (found.num_runs, found.num_unfinished, found.num_repeated) == (2, 1, 1)


def test_rows_hold_none_where_nothing_is_known(tmp_path):
    [row] = as_rows(compare([run(tmp_path, "run", "degree", 0.25)]))
    assert (row["num_runs"], row["ood_auc"], row["ood_auc_low"]) == (1, 0.25, None)


def test_the_command_prints_groups_and_answers_and_writes_csv_and_json(tmp_path, two_strategies, capsys):
    paths = [str(each.run.path) for each in two_strategies]
    assert main(["compare", *paths]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("4 runs in 2 groups")
    assert "over unaware ones (unweighted, weighted, random): +150 %, in one cell" in printed  # 0.75 / 0.3 - 1
    table, answers = tmp_path / "groups.csv", tmp_path / "answers.json"
    assert main(["compare", *paths, "--csv", str(table), "--json", str(answers)]) == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["strategy"], float(row["ood_auc"])) for row in rows] == [
        ("degree", pytest.approx(0.75)),
        ("unweighted", pytest.approx(0.3)),
    ]
    assert json.loads(answers.read_text())["improvement"] == pytest.approx(1.5)
