"""Runs are grouped by what differs but the seeds; means, intervals and the improvement are those worked out by hand."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from plain_logs import write_log

from mpisim.analysis.compare import as_dict, as_rows, compare, load
from mpisim.config import Config
from mpisim.decisive import FREE, PART_OF, ROUNDINGS
from mpisim.learning.optimizers import OPTIMIZERS
from mpisim.report.__main__ import main

NO_NUMBER = pytest.approx(np.nan, nan_ok=True)


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


def test_no_difference_is_not_a_negative_one(tmp_path, capsys):
    runs = [run(tmp_path, name, name, ood) for name, ood in (("unweighted", 0.5), ("degree", 0.499))]
    assert main(["compare", *(str(each.run.path) for each in runs)]) == 0
    assert "random): +0 %, in one cell" in capsys.readouterr().out


def test_seeds_in_the_names_of_topology_files_are_seeds_too(tmp_path):
    runs = []
    for seed in range(2):
        place = tmp_path / f"path-n4-seed{seed}.txt"
        place.write_text("0 1 0 0\n1 0 1 0\n0 1 0 1\n0 0 1 0\n")
        runs.append(run(tmp_path, f"{seed}", "degree", 0.5, topology=str(place)))
    [group] = compare(runs).groups
    assert (group.settings, group.num_runs) == ({}, 2)


@pytest.mark.parametrize(
    "option, values",
    [
        ("device", ["cpu", "cuda"]),
        ("output", ["a.h5", "b.h5"]),
        ("placement", ["contiguous", "mincut"]),
        ("threads", [1, 2]),
    ],
)
def test_options_without_effect_on_results_part_no_runs(tmp_path, option, values):
    runs = [run(tmp_path, f"{seed}", "degree", 0.5, seed=seed, **{option: values[seed]}) for seed in range(2)]
    assert len(compare(runs).groups) == 1


def test_what_follows_from_the_data_set_is_not_told_beside_it_and_what_does_not_is(tmp_path):
    runs = [
        run(tmp_path, f"{dataset}-{epochs}", "degree", 0.5, dataset=dataset, lr=lr, epochs=epochs)
        for dataset, lr in (("digits", 0.1), ("mnist", 0.01))
        for epochs in (1, 5)
    ]
    assert [group.settings for group in compare(runs).groups] == [
        {"data": dataset, "epochs": str(epochs)} for dataset in ("digits", "mnist") for epochs in (1, 5)
    ]


def test_ood_nodes_are_told_by_degree_rank_or_by_number(tmp_path):
    runs = [
        run(tmp_path, "first", "degree", 0.5, ood_nodes=[1]),
        run(tmp_path, "third", "degree", 0.5, ood_nodes=[0], ood_rank=3),
        run(tmp_path, "given", "degree", 0.5, ood_nodes=[2, 3], ood_node=[2, 3]),
    ]
    told = {group.settings["OOD nodes"] for group in compare(runs).groups}
    assert told == {"degree rank 1", "degree rank 3", "nodes 2, 3"}


def test_a_run_at_degree_rank_1_by_default_and_one_by_option_are_alike(tmp_path):
    runs = [run(tmp_path, "default", "degree", 0.5), run(tmp_path, "option", "degree", 0.5, seed=1, ood_rank=1)]
    assert [group.num_runs for group in compare(runs).groups] == [2]


def test_runs_without_ood_accuracy_do_not_count_in_means_and_improvement(tmp_path):
    oods = {"degree": (0.8, np.nan), "unweighted": (0.4, np.nan)}
    runs = [
        run(tmp_path, f"{strategy}-{seed}", strategy, ood, seed)
        for strategy, of_seeds in oods.items()
        for seed, ood in enumerate(of_seeds)
    ]
    found = compare(runs)
    assert [(group.num_runs, group.mean["ood_auc"]) for group in found.groups] == [(2, 0.8), (2, 0.4)]
    assert found.improvement == pytest.approx(1)


def test_a_strategy_counts_once_in_its_cell_however_many_seeds_it_has(tmp_path):
    oods = {"unweighted": [0.1, 0.1, 0.1], "random": [0.3], "degree": [0.6, 0.6], "betweenness": [0.2]}
    runs = [
        run(tmp_path, f"{strategy}-{seed}", strategy, ood, seed)
        for strategy, of_seeds in oods.items()
        for seed, ood in enumerate(of_seeds)
    ]
    assert compare(runs).improvement == pytest.approx(0.4 / 0.2 - 1)


def test_the_rank_correlation_is_the_median_over_runs_that_have_one(tmp_path):
    # W predicts less of node 0 the farther a node is from it: as measured, the other way round, and half of both.
    measured = [[0.9, 0.6, 0.3, 0.0], [0.0, 0.3, 0.6, 0.9], [0.9, 0.3, 0.6, 0.0], [0.5, 0.5, 0.5, 0.5]]
    runs = [
        load(write_log(tmp_path / f"{seed}.h5", ood=[accuracy] * 4, iid=[accuracy] * 4, seed=seed))
        for seed, accuracy in enumerate(measured)
    ]
    found = compare(runs)
    assert [each.rank_correlation for each in runs] == [*(pytest.approx(value) for value in (1, -1, 0.8)), NO_NUMBER]
    assert (found.rank_correlation, found.num_predicted) == (pytest.approx(0.8), 3)
    assert found.groups[0].rank_correlation == pytest.approx(0.8)


@pytest.mark.parametrize(
    "option, value, groups",
    [
        ("wire", "float32", [{}]),  # the default
        ("wire", "bfloat16", [{"wire": "bfloat16"}, {"wire": "float32"}]),
        ("betas", [0.9, 0.999], [{}]),
        ("transport", "device", [{}]),  # no result depends on it
        ("tinymem_examples", 9, [{}]),  # nor on this, with digits
        ("wings", 2, [{"wings": "2"}, {"wings": "–"}]),  # nobody knows
    ],
)
def test_an_option_that_only_newer_logs_have_parts_them_from_older_ones_if_it_is_not_the_default(
    tmp_path, option, value, groups
):
    runs = [run(tmp_path, "older", "degree", 0.5), run(tmp_path, "newer", "degree", 0.5, seed=1, **{option: value})]
    found = compare(runs)
    assert [group.settings for group in found.groups] == groups
    assert sum(group.num_runs for group in found.groups) == 2
    assert found.num_repeated == 0


@pytest.mark.parametrize(("option", "values"), [("betas", ([0.5, 0.9], [0.6, 0.9])), ("momentum", (0.5, 0.9))])
def test_an_option_tells_runs_apart_only_where_it_plays_a_part(tmp_path, option, values):
    for optimizer, parts in {"sgd": option == "momentum", "adam": option == "betas"}.items():
        runs = [
            run(tmp_path, f"{optimizer}-{seed}", "degree", 0.5, seed=seed, optimizer=optimizer, **{option: value})
            for seed, value in enumerate(values)
        ]
        assert len(compare(runs).groups) == 1 + parts


def test_what_plays_a_part_in_some_runs_alone_is_not_told_beside_what_tells_that(tmp_path):
    runs = [run(tmp_path, name, "degree", 0.5, optimizer=name) for name in ("sgd", "adam")]
    assert [group.settings for group in compare(runs).groups] == [{"optimizer": "adam"}, {"optimizer": "sgd"}]


def test_what_is_said_of_options_is_said_of_options_there_are():
    options = {each.name: each for each in dataclasses.fields(Config)}
    assert options.keys() >= FREE | ROUNDINGS | PART_OF.keys()
    assert not FREE & ROUNDINGS
    for other, values in PART_OF.values():
        choices = options[other].metadata.get("choices", OPTIMIZERS)
        assert values < set(choices)


def test_other_transport_does_not_hide_the_improvement(tmp_path):
    runs = [
        run(tmp_path, "unweighted", "unweighted", 0.4, transport="mpi"),
        run(tmp_path, "degree", "degree", 0.8, transport="device"),
    ]
    assert compare(runs).improvement == pytest.approx(1)


def test_what_json_holds_has_no_number_that_json_does_not_know(tmp_path):
    found = as_dict(compare([run(tmp_path, "run", "degree", np.nan, ood_nodes=[])]))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["improvement"] is None
    assert found["groups"][0]["ood_auc"] is None


def test_a_file_that_is_named_twice_is_one_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "x.h5")
    (tmp_path / "y.h5").symlink_to("x.h5")
    assert main(["compare", "x.h5", "./x.h5", str(tmp_path / "y.h5")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 run in 1 group,")
    assert "another" not in out


@pytest.mark.parametrize(
    "count, words",
    [
        (1, "1 of the runs is not complete: it counts as far as it has come"),
        (2, "2 of the runs are not complete: they count as far as they have come"),
    ],
)
def test_runs_that_are_not_complete_are_told_one_or_many(tmp_path, capsys, count, words):
    paths = [
        str(write_log(tmp_path / f"{number}.h5", seed=number, status="running" if number < count else "complete"))
        for number in range(3)
    ]
    assert main(["compare", *paths]) == 0
    assert words in capsys.readouterr().out.splitlines()
