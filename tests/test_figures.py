"""Figures show the numbers of the logs: bars, lines, colors and labels are looked at as matplotlib's objects."""

import json
import re
import sys
from pathlib import Path

import h5py
import networkx as nx
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import same_color, to_rgba
from matplotlib.patches import Rectangle, StepPatch

from mpisim.analysis import figure_style, figures
from mpisim.analysis.figure_bars import ood_auc_bars, relative_difference_bars
from mpisim.analysis.figure_curves import PART_COLORS, curves, time_split
from mpisim.analysis.figure_graphs import graphs, same_but_strategy
from mpisim.analysis.figure_influence import arrival_rounds, influence, mixing
from mpisim.analysis.figure_trends import TRENDS, trend
from mpisim.analysis.figures import OF_A_LOG, OF_RUNS, write_figures
from mpisim.analysis.measures import AWARE, UNAWARE
from mpisim.analysis.runs import best_placed, load_runs, settings
from mpisim.errors import InputError
from mpisim.graphs.generators import make_topology
from mpisim.graphs.strategies import STRATEGIES, mixing_matrix, neighborhoods
from mpisim.storage.log import Log
from mpisim.storage.variables import AGGREGATED, VARIABLES, logged_variables

NUM_RANKS = 2
NONE = np.nan


class Maker:
    """Writes logs whose accuracies are given; all else follows from the topology and the options."""

    def __init__(self, folder):
        self.folder = folder
        self.number = 0

    def log(
        self,
        iid=((0.5,),),
        ood=((0.5,),),
        /,
        *,
        topology="ring:n=4",
        strategy="unweighted",
        ood_rank=None,
        ood_node=None,
        status="complete",
        name=None,
        seconds=None,
        variables=None,
        by_epoch=None,
        **options,
    ):
        """Write a log; ``iid`` and ``ood`` are accuracies of rounds × nodes, or one for all nodes of a round."""
        made = make_topology(topology)
        nodes = list(ood_node or [made.nodes_by_degree()[(ood_rank or 1) - 1]])
        nodes = [] if options.get("ood") == "none" else nodes
        config = {"dataset": "digits", "topology": topology, "strategy": strategy, "seed": 0, "ood": "trigger"}
        config |= {"rounds": len(iid), "model": "mlp-small", "temperature": 0.1, "lr": 0.1}
        config |= {"ood_rank": ood_rank, "ood_node": ood_node} | options
        variables = variables or logged_variables(trained=True, aggregated=False, epochs=by_epoch is not None)
        sizes = {"node": made.num_nodes, "rank": NUM_RANKS, "label": 2, "epoch": 1 if by_epoch is None else 2}
        static = self._static(made, strategy, nodes, sizes)
        attributes = {"config": json.dumps(config), "data_kind": "image"}
        attributes["title"] = f"{strategy} on {topology}, digits, seed {config['seed']}"
        self.number += 1
        path = self.folder / (name or f"run{self.number}.h5")
        log = Log.create(path, sizes | {"link": len(static["link_weight"])}, static, attributes, variables=variables)
        for round, accuracies in enumerate(zip(iid, ood, strict=True), start=1):
            log.append(round, self._values(round, accuracies, variables, sizes, seconds, by_epoch))
        log.set_status(status)
        return path

    def _static(self, made, strategy, ood_nodes, sizes):
        if STRATEGIES[strategy].similarity:
            links = neighborhoods(made).tocoo()
            links.data[:] = np.nan
        else:
            links = mixing_matrix(made, strategy).tocoo()
        given = {
            "degree": made.degrees,
            "is_ood": np.isin(np.arange(made.num_nodes), ood_nodes).astype(int),
            "link_target": links.row,
            "link_source": links.col,
            "link_weight": links.data,
        }
        sizes = sizes | {"link": len(links.data)}
        shapes = {name: [sizes[dim] for dim in each.dims] for name, each in VARIABLES.items() if each.dims[0] in sizes}
        return {name: np.zeros(shape) for name, shape in shapes.items()} | given

    def _values(self, round, accuracies, variables, sizes, seconds, by_epoch):
        values = {
            name: np.zeros([sizes[dim] for dim in each.dims[1:]])
            for name, each in variables.items()
            if each.dims[0] == "round"
        }
        for kind, accuracy in zip(("iid", "ood"), accuracies, strict=True):
            for each in (f"{kind}_accuracy", f"{kind}_accuracy{AGGREGATED}"):
                if each in values:
                    values[each] = np.broadcast_to(np.asarray(accuracy, dtype=float), sizes["node"])
            if by_epoch is not None:
                values[f"{kind}_accuracy_by_epoch"] = np.asarray(by_epoch[round - 1], dtype=float)
        for part, of_rounds in (seconds or {}).items():
            values[f"{part}_seconds"] = of_rounds[round - 1]
        return values

    def run(self, *accuracies, **more):
        [run] = load_runs([self.log(*accuracies, **more)])
        return run

    def at(self, auc, **more):
        """Write a run whose OOD accuracy AUC is given, and return it."""
        return self.run([[0.5]], [[auc]], **more)


@pytest.fixture
def make(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    return Maker(folder)


def words(legend):
    return [text.get_text() for text in legend.get_texts()]


def bars(axes):
    """Return the bars of a panel as (x, height, color), from left to right."""
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return sorted((bar.get_x() + bar.get_width() / 2, bar.get_height(), bar.get_facecolor()) for bar in found)


def scatters(axes):
    return [artist for artist in axes.collections if isinstance(artist, PathCollection)]


def texts(figure):
    """Return the texts of a figure that a reader sees: titles, labels, ticks within their axes, and legends."""
    found = [figure._suptitle] if figure._suptitle is not None else []
    legends = list(figure.legends)
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label]
        legends += [axes.get_legend()] if axes.get_legend() else []
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = [tick for tick in axis.get_major_ticks() if min(limits) <= tick.get_loc() <= max(limits)]
            found += [label for tick in ticks for label in (tick.label1, tick.label2) if axes.axison]
    for legend in legends:
        found += [*legend.get_texts(), legend.get_title()]
    return [text for text in found if text.get_visible() and text.get_text()]


def assert_readable(figure):
    """Every text is whole, and none lies on another."""
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    width, height = figure.bbox.size
    for text, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, f"cut off: {text}"
    for number, (text, box) in enumerate(boxes):
        for other, beside in boxes[:number]:
            overlap_x = min(box.x1, beside.x1) - max(box.x0, beside.x0)
            overlap_y = min(box.y1, beside.y1) - max(box.y0, beside.y0)
            assert overlap_x <= 1 or overlap_y <= 1, f"{text!r} lies on {other!r}"


# Style


def test_every_strategy_has_a_style_of_its_own():
    assert set(figure_style.STRATEGIES) == set(STRATEGIES)
    styles = figure_style.STRATEGIES.values()
    assert (
        len({style.marker for style in styles}) == len({(style.color, style.hatch) for style in styles}) == len(styles)
    )
    of_the_paper = [figure_style.style_of(name).color for name in ("fl", *UNAWARE, *AWARE)]
    assert len(set(of_the_paper)) == 6


def test_strategies_stand_in_one_order_with_unknown_ones_last():
    assert figure_style.in_order({"degree", "xyz", "unweighted", "fl"}) == ["fl", "unweighted", "degree", "xyz"]
    assert figure_style.style_of("xyz").marker not in {style.marker for style in figure_style.STRATEGIES.values()}


def test_distances_have_a_color_each_and_what_is_out_of_reach_is_gray():
    colors, norm = figure_style.distance_colors(np.array([0.0, 1, 2, np.inf]))
    shown = colors(norm(np.array([0, 1, 2])))
    assert len({tuple(color) for color in shown}) == 3
    assert same_color(shown[0], figure_style.OOD_COLOR)
    assert same_color(colors(np.ma.masked_invalid([np.inf]))[0], figure_style.GRAY)


# Which runs stand together


def test_what_has_no_part_in_a_run_or_changes_no_result_makes_no_setting(make):
    runs = [make.run(tinymem_examples=count, transport=transport) for count, transport in ((9, "device"), (8, "mpi"))]
    runs += [make.run(ood="none"), make.run(trigger_label="zero", gpu_aware=True)]
    assert {label: len(members) for label, members in settings(runs).items()} == {"digits": 3, "digits, OOD none": 1}


def test_a_setting_tells_what_differs_from_most_runs_and_changes_results(make):
    runs = [make.run(seed=seed, strategy=strategy) for seed in range(2) for strategy in ("degree", "fl")]
    runs += [make.run(lr=0.5, threads=3), make.run(dataset="mnist", model="mlp")]
    assert {label: len(members) for label, members in settings(runs).items()} == {
        "digits": 4,
        "digits, lr 0.5": 1,
        "mnist": 1,
    }


def test_without_a_majority_every_value_is_told(make):
    runs = [make.run(lr=lr, shuffle=lr > 0.2) for lr in (0.1, 0.2, 0.3, 0.4)]
    assert list(settings(runs)) == [
        "digits, lr 0.1, no shuffle",
        "digits, lr 0.2, no shuffle",
        "digits, lr 0.3, shuffle",
        "digits, lr 0.4, shuffle",
    ]


def test_the_best_placement_is_that_of_the_highest_degrees(make):
    runs = [make.run(topology="star:n=5", ood_rank=rank) for rank in (4, None, 2)]
    assert best_placed(runs) == ("OOD at degree rank 1", [runs[1]])
    by_node = [make.run(topology="star:n=5", ood_node=[node]) for node in (3, 2)]
    assert best_placed(by_node) == ("OOD at node 2", [by_node[1]])


def test_a_log_that_is_given_twice_counts_once(make):
    path = make.log()
    assert len(load_runs([path, str(path), path.parent / "." / path.name])) == 1


# Bars


def test_a_bar_is_the_mean_over_seeds_of_a_strategy_on_a_topology(make):
    aucs = {("fl", 8): [0.1], ("unweighted", 8): [0.2, 0.4], ("degree", 8): [0.8, 0.9, 1.0], ("degree", 16): [0.7]}
    runs = [
        make.at(auc, topology=f"ba:n={n},m=2,seed={seed}", seed=seed, strategy=strategy)
        for (strategy, n), values in aucs.items()
        for seed, auc in enumerate(values)
    ]
    figure = ood_auc_bars(runs)
    [axes] = figure.axes
    found = bars(axes)
    assert [height for _, height, _ in found] == pytest.approx([0.1, 0.3, 0.9, 0.7])
    colors = [figure_style.style_of(name).color for name in ("fl", "unweighted", "degree", "degree")]
    assert [color for _, _, color in found] == [to_rgba(color) for color in colors]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ba n=8 m=2", "ba n=16 m=2"]
    assert [round(x) for x, _, _ in found] == [0, 0, 0, 1]
    # With two seeds, more than 2.5 % of the resamples have one value alone: the interval ends at both.
    intervals = [line.get_segments()[0][:, 1] for line in axes.collections if isinstance(line, LineCollection)]
    assert len(intervals) == 2
    assert intervals[0] == pytest.approx([0.2, 0.4])
    assert words(figure.legends[0]) == ["fl", "unweighted", "degree"]
    assert axes.get_ylim() == (0, 1)
    assert_readable(figure)


def test_bars_show_the_relative_difference_in_percent(make):
    runs = [
        make.run([[0.8]], [[0.4]], strategy="unweighted"),
        make.run([[0.5]], [[1.0]], strategy="degree"),
    ]
    figure = relative_difference_bars(runs)
    [axes] = figure.axes
    assert [height for _, height, _ in bars(axes)] == pytest.approx([200 * -0.4 / 1.2, 200 * 0.5 / 1.5])
    assert "%" in axes.get_ylabel()
    assert_readable(figure)


def test_bars_have_a_panel_for_each_data_set_and_setting_with_one_scale(make):
    runs = [make.at(0.1), make.at(0.9, dataset="mnist"), make.at(0.2, rounds=9), make.at(0.3, seed=1)]
    figure = ood_auc_bars(runs)
    assert [axes.get_title() for axes in figure.axes] == ["digits", "digits, rounds 9", "mnist"]
    assert [height for axes in figure.axes for _, height, _ in bars(axes)] == pytest.approx([0.2, 0.2, 0.9])
    assert len({axes.get_ylim() for axes in relative_difference_bars(runs).axes}) == 1
    assert_readable(figure)


def test_bars_are_of_the_best_placement_and_say_so(make):
    runs = [make.at(auc, topology="star:n=5", ood_rank=rank) for auc, rank in ((0.9, 1), (0.1, 4))]
    figure = ood_auc_bars([*runs, make.at(0.8, topology="star:n=5", status="interrupted", seed=1)])
    assert [height for _, height, _ in bars(figure.axes[0])] == pytest.approx([0.85])
    title = " ".join(figure._suptitle.get_text().split())
    assert "OOD at degree rank 1" in title
    assert "1 of 2 runs not complete" in title


def test_a_strategy_that_shares_a_color_has_a_hatch(make):
    figure = ood_auc_bars([make.at(0.5, strategy="degree"), make.at(0.5, strategy="degree-similarity")])
    plain, hatched = sorted(figure.axes[0].patches, key=lambda bar: bar.get_x())
    if plain.get_hatch():
        plain, hatched = hatched, plain
    assert same_color(plain.get_facecolor(), hatched.get_facecolor())
    assert (plain.get_hatch() or "", hatched.get_hatch()) == ("", "///")


def test_topologies_are_sorted_by_number_and_long_names_are_readable(make):
    specs = [f"sb:sizes={size}-{size},p_in=0.9,p_out=0.25,seed=0" for size in (12, 4, 8)]
    figure = ood_auc_bars([make.at(0.5, topology=spec) for spec in specs])
    labels = [label.get_text().split()[:2] for label in figure.axes[0].get_xticklabels()]
    assert labels == [["sb", "sizes=4-4"], ["sb", "sizes=8-8"], ["sb", "sizes=12-12"]]
    assert_readable(figure)


# Trends


def test_the_degree_rank_has_a_line_for_each_strategy_with_its_slope(make):
    runs = [
        make.at(auc, topology="ba:n=8,m=2,seed=0", ood_rank=rank, strategy=strategy)
        for strategy, values in {"degree": (0.9, 0.6, 0.3), "unweighted": (0.4, 0.5, 0.3), "fl": (0.1,)}.items()
        for rank, auc in enumerate(values, start=1)
    ]
    runs.append(make.at(0.5, topology="ring:n=6", strategy="degree"))  # at one rank: not in it
    figure = trend(runs, "degree_rank")
    [axes] = figure.axes
    points = {
        tuple(map(tuple, np.round(line.get_xydata(), 9))) for line in axes.lines if line.get_linestyle() == "None"
    }
    assert points == {
        ((1, 0.1),),
        ((1, 0.4), (2, 0.5), (3, 0.3)),
        ((1, 0.9), (2, 0.6), (3, 0.3)),
    }
    solid, dashed = ([line for line in axes.lines if line.get_linestyle() == style] for style in ("-", "--"))
    assert solid[0].get_xydata() == pytest.approx(np.array([[1, 0.9], [3, 0.3]]))
    assert same_color(solid[0].get_color(), figure_style.style_of("degree").color)
    # Least squares of (1, .4), (2, .5), (3, .3): the mean .4 at 2, the slope (.3 - .4) / 2.
    assert dashed[0].get_xydata() == pytest.approx(np.array([[1, 0.45], [3, 0.35]]))
    assert words(axes.get_legend()) == [
        "topology-aware",
        "degree −0.300",
        "topology-unaware",
        "unweighted −0.050",
        "others",
        "fl",
    ]
    assert axes.get_legend().get_title().get_text() == "slope per rank"
    assert_readable(figure)


@pytest.mark.parametrize(
    ("name", "specs", "title", "x", "per", "step"),
    [
        # BA(n, m) begins with a star of m + 1 nodes: m·(n - m) edges.
        ("total_degree", [f"ba:n=12,m={m},seed=0" for m in (1, 2, 3)], "ba, 12 nodes", [22, 40, 54], "100", 100),
        ("num_nodes", [f"ba:n={n},m=2,seed=0" for n in (8, 12, 16)], "ba m=2", [8, 12, 16], "10 nodes", 10),
    ],
)
def test_a_trend_is_over_topologies_of_one_kind(make, name, specs, title, x, per, step):
    runs = [make.at(0.2 + 0.1 * place, topology=spec) for place, spec in enumerate(specs)]
    runs += [make.at(0.9, topology=specs[1], ood_rank=3), make.at(0.9, topology="ring:n=12")]
    figure = trend(runs, name)
    [axes] = figure.axes
    assert axes.get_title() == f"digits · {title}"
    assert axes.lines[0].get_xydata() == pytest.approx(np.stack([x, [0.2, 0.3, 0.4]], axis=1))
    slope = np.cov(x, [0.2, 0.3, 0.4])[0, 1] / np.var(x, ddof=1)
    assert words(axes.get_legend()) == ["topology-unaware", f"unweighted +{slope * step:.3f}"]
    assert axes.get_legend().get_title().get_text() == f"slope per {per}"
    assert_readable(figure)


def test_modularity_is_that_of_greedy_communities(make):
    specs = [f"sb:sizes=6-6,p_in=0.9,p_out={p},seed=0" for p in (0.1, 0.5)]
    figure = trend([make.at(0.5, topology=spec) for spec in specs], "modularity")
    expected = [
        nx.community.modularity(graph, nx.community.greedy_modularity_communities(graph))
        for graph in (nx.Graph(make_topology(spec).graph.edges) for spec in specs)
    ]
    assert sorted(figure.axes[0].lines[0].get_xdata()) == pytest.approx(sorted(expected))


def test_where_no_kind_has_two_topologies_three_of_several_kinds_are_compared(make):
    runs = [make.at(0.5, topology=spec) for spec in ("ring:n=8", "star:n=8")]
    assert trend(runs, "total_degree") is None
    figure = trend([*runs, make.at(0.7, topology="complete:n=8")], "total_degree")
    assert figure.axes[0].get_title() == "digits · several kinds, 8 nodes"
    assert sorted(figure.axes[0].lines[0].get_xdata()) == [14, 16, 56]


def test_topologies_that_differ_in_their_seed_alone_make_no_trend(make):
    runs = [make.at(0.5, topology=f"er:n=9,p=0.5,seed={seed}") for seed in range(3)]
    for name in TRENDS:
        assert trend(runs, name) is None


def test_topologies_of_files_have_their_kind_and_size_from_their_names(make, tmp_path):
    runs = []
    for n in (8, 12):
        path = tmp_path / f"ba-n{n}-m2-seed0.txt"
        np.savetxt(path, make_topology(f"ba:n={n},m=2,seed=0").adjacency.toarray(), fmt="%d")
        runs.append(make.at(n / 20, topology=str(path)))
    [axes] = trend(runs, "num_nodes").axes
    assert axes.get_title() == "digits · ba m2"
    assert axes.lines[0].get_xydata() == pytest.approx(np.array([[8, 0.4], [12, 0.6]]))


def test_a_trend_has_a_panel_for_each_setting_all_readable(make):
    runs = [
        make.at(0.5, topology=f"ba:n={n},m=2,seed=0", strategy=strategy, dataset=dataset, lr=lr)
        for n in (8, 16)
        for dataset, lr in (("cifar10", 0.5), ("digits", 0.25), ("digits", 1.125), ("mnist", 0.1))
        for strategy in (STRATEGIES if dataset == "cifar10" else ["degree"])
    ]
    figure = trend(runs, "num_nodes")
    assert len(figure.axes) == 4
    assert len(words(figure.axes[0].get_legend())) == 3 + len(STRATEGIES)
    assert_readable(figure)


# Graphs


def test_graphs_are_colored_by_the_accuracies_of_the_last_round(make):
    finals = {"degree": ([0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, 0.6]), "unweighted": ([0.5] * 4, [1.0, 0, 0, 0])}
    runs = [
        make.run([[0.0], iid], [[0.0], ood], strategy=strategy, ood_node=[2]) for strategy, (iid, ood) in finals.items()
    ]
    [(shared, members)] = same_but_strategy(runs)
    assert "ring:n=4" in shared and "OOD at node 2" in shared
    figure = graphs(members, shared)
    panels = figure.axes[:4]
    titles = [axes.get_title() for axes in panels]
    assert titles == ["unweighted\nIID, mean 0.500", "degree\nIID, mean 0.250", "OOD, mean 0.250", "OOD, mean 0.750"]
    shown = [finals["unweighted"][0], finals["degree"][0], finals["unweighted"][1], finals["degree"][1]]
    places = set()
    for axes, accuracy in zip(panels, shown, strict=True):
        plain, ood = scatters(axes)
        np.testing.assert_allclose(plain.get_array(), np.delete(accuracy, 2))
        np.testing.assert_allclose(ood.get_array(), [accuracy[2]])
        assert plain.get_clim() == ood.get_clim() == (0, 1)
        assert same_color(ood.get_edgecolor()[0], figure_style.OOD_COLOR)
        [edges] = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
        assert len(edges.get_segments()) == 4
        assert sorted(text.get_text() for text in axes.texts) == ["0", "1", "2", "3"]
        places.add(plain.get_offsets().data.tobytes())
    assert len(places) == 1  # the same node stands at the same place in each
    assert len(figure.axes) == 5  # one color bar for all
    assert figure.axes[4].get_ylabel() == "accuracy in the last round"
    assert words(figure.legends[0]) == ["OOD node"]
    assert_readable(figure)


def test_edges_end_at_the_nodes_they_join(make):
    run = make.run(topology="path:n=5", strategy="fl")  # whose links are those of the complete graph
    axes = graphs([run]).axes[0]
    numbers = {text.get_position(): int(text.get_text()) for text in axes.texts}
    [edges] = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    joined = {tuple(sorted(numbers[tuple(end)] for end in segment)) for segment in edges.get_segments()}
    assert joined == {(0, 1), (1, 2), (2, 3), (3, 4)}


def test_a_run_without_ood_has_one_graph_and_a_single_run_stands_side_by_side(make):
    figure = graphs([make.run(((0.25,),), ((NONE,),), ood="none")])
    assert [axes.get_title() for axes in figure.axes[:-1]] == ["unweighted\nIID, mean 0.250"]
    assert not figure.legends
    left, right = graphs([make.run()]).axes[:2]
    assert left.get_subplotspec().rowspan == right.get_subplotspec().rowspan


@pytest.mark.parametrize("topology", ["ring:n=4", "ring:n=400"])
def test_a_node_without_an_accuracy_is_white_with_an_outline_which_the_legend_tells(make, topology):
    accuracies = np.full(4 if topology == "ring:n=4" else 400, 0.5)
    accuracies[[1, 3]] = NONE, 0.9
    figure = graphs([make.run((accuracies,), ((1,),), topology=topology)])
    plain, _ = scatters(figure.axes[0])
    plain.update_scalarmappable()
    faces, edges = plain.get_facecolor(), plain.get_edgecolor()
    assert same_color(faces[0], "white")  # node 1: node 0 is the OOD node
    assert same_color(edges[0], figure_style.UNKNOWN_EDGE)
    assert plain.get_linewidths()[0] >= 0.6
    assert not same_color(faces[1], "white")
    assert same_color(edges[1], "white")
    mean = (accuracies[0] * (len(accuracies) - 2) + 0.9) / (len(accuracies) - 1)
    assert figure.axes[0].get_title().endswith(f"IID, mean {mean:.3f}")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["OOD node", "no accuracy"]
    numbers = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert numbers.get("1", "black") == "black"


def test_where_every_node_has_an_accuracy_the_legend_does_not_speak_of_others(make):
    figure = graphs([make.run(((0.25, 0.1, 0.5, 0.75),), ((1,),))])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["OOD node"]


def test_nodes_are_smaller_where_there_are_more_and_many_edges_are_pixels(make):
    sizes, rasterized, numbers = [], [], []
    for n in (8, 64, 1000):
        axes = graphs([make.run(topology=f"ba:n={n},m=2,seed=0")]).axes[0]
        sizes.append(scatters(axes)[0].get_sizes()[0])
        rasterized.append(axes.collections[0].get_rasterized())
        numbers.append(len(axes.texts))
    assert sizes[0] > sizes[1] > sizes[2] > 0
    assert rasterized == [False, False, True]
    assert numbers == [8, 0, 0]


def test_runs_with_one_strategy_and_unfinished_ones_say_which_they_are(make):
    runs = [make.run(name="first.h5"), make.run(name="second.h5", rounds=7, status="running")]
    runs.append(make.run((), (), name="third.h5", rounds=7))
    groups = same_but_strategy([runs[0], make.run(name="again.h5")])
    assert [axes.get_title().split("\n")[0] for axes in graphs(groups[0][1]).axes[:2]] == [
        "unweighted (first)",
        "unweighted (again)",
    ]
    found = {members[0].path.stem: members for _, members in same_but_strategy(runs)}
    assert {name: len(members) for name, members in found.items()} == {"first": 1, "second": 1}
    assert graphs(found["second"]).axes[0].get_title().startswith("unweighted, round 1 of 7\n")


def test_many_strategies_stand_in_several_rows(make):
    runs = [make.run(strategy=strategy) for strategy in STRATEGIES]
    [(_, members)] = same_but_strategy(runs)
    figure = graphs(members)
    drawn = [axes for axes in figure.axes if scatters(axes)]
    assert len(drawn) == 2 * len(STRATEGIES)
    assert [axes.get_title().split("\n")[0] for axes in drawn if "\n" in axes.get_title()] == list(
        figure_style.STRATEGIES
    )
    assert_readable(figure)


# Curves and time


def test_curves_have_a_line_for_each_node_colored_by_distance(make):
    iid = np.linspace(0.1, 0.7, 15).reshape(3, 5)
    ood = iid[::-1]
    figure = curves(make.log(iid, ood, topology="path:n=5", ood_node=[1]))
    colors, norm = figure_style.distance_colors(np.array([0, 3.0]))
    for axes, accuracy, title in zip(figure.axes, (iid, ood), ("IID accuracy", "OOD accuracy"), strict=False):
        assert axes.get_title() == title
        [lines] = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
        for node, segment in zip((0, 2, 3, 4), lines.get_segments(), strict=True):
            np.testing.assert_allclose(segment, np.stack([[1, 2, 3], accuracy[:, node]], axis=1))
        lines.update_scalarmappable()
        for color, hops in zip(lines.get_colors(), (1, 1, 2, 3), strict=True):
            assert same_color(color[:3], colors(norm(hops))[:3])
        own, mean = axes.lines
        np.testing.assert_allclose(own.get_ydata(), accuracy[:, 1])
        assert same_color(own.get_color(), figure_style.OOD_COLOR)
        np.testing.assert_allclose(mean.get_ydata(), accuracy.mean(axis=1))
        assert mean.get_linewidth() > max(lines.get_linewidths())
        assert axes.get_xlabel() == "round"
    assert words(figure.legends[0]) == ["mean over nodes", "OOD node"]
    assert figure.axes[2].get_ylabel() == "hops from the OOD node"
    assert_readable(figure)


def test_curves_by_epoch_have_a_point_for_each_epoch(make):
    by_epoch = [[[0.0] * 4, [0.2] * 4], [[0.4] * 4, [0.6] * 4]]
    figure = curves(make.log([[0.2], [0.6]], [[0.2], [0.6]], by_epoch=by_epoch))
    _, mean = figure.axes[0].lines
    np.testing.assert_allclose(mean.get_xydata(), [[0.5, 0], [1, 0.2], [1.5, 0.4], [2, 0.6]])


def test_curves_of_one_round_are_points(make):
    axes = curves(make.log([[0.1, 0.2, 0.3, 0.4]], [[0.5]])).axes[0]
    assert scatters(axes)[0].get_offsets().data.tolist() == [[1, 0.2], [1, 0.3], [1, 0.4]]
    assert [line.get_marker() for line in axes.lines] == ["o", "o"]
    assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]


def test_curves_of_aggregated_models_alone_and_without_ood(make):
    variables = logged_variables(trained=False, aggregated=True, epochs=False)
    path = make.log([[0.1], [0.3]], [[NONE], [NONE]], ood="none", variables=variables)
    figure = curves(path)
    assert [axes.get_title() for axes in figure.axes] == ["IID accuracy\nof aggregated models"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.1, 0.3])
    assert words(figure.legends[0]) == ["mean over nodes", "a node"]


def test_nodes_out_of_the_ood_nodes_reach_are_gray(make, tmp_path):
    (tmp_path / "two.txt").write_text("0 1 0 0\n1 0 0 0\n0 0 0 1\n0 0 1 0\n")
    figure = curves(make.log([[0.1], [0.2]], [[0.1], [0.2]], topology=str(tmp_path / "two.txt"), ood_node=[0]))
    [lines] = [artist for artist in figure.axes[0].collections if isinstance(artist, LineCollection)]
    lines.update_scalarmappable()
    assert [same_color(color[:3], figure_style.GRAY) for color in lines.get_colors()] == [False, True, True]
    assert "out of the OOD node's reach" in words(figure.legends[0])


def test_many_lines_are_pixels(make):
    path = make.log([[0.1], [0.2]], [[0.1], [0.2]], topology="ring:n=1000")
    figure = curves(path)
    assert figure.axes[0].collections[0].get_rasterized()
    assert len(figure.axes[0].collections[0].get_segments()) == 999
    ticks = [int(label.get_text()) for label in figure.axes[2].get_yticklabels()]
    assert ticks[0] == 0 and len(ticks) <= 12
    assert_readable(figure)


def test_the_parts_of_a_round_are_stacked_means_over_ranks(make):
    seconds = {
        "train": [[1, 3], [4, np.nan]],  # a rank that was not there in the second round
        "test": [[1, 1], [0, np.nan]],
        "exchange": [[0.5, 0.5], [1, np.nan]],
    }
    figure = time_split(make.log([[0.1], [0.2]], [[0.1], [0.2]], seconds=seconds))
    parts = [patch for patch in figure.axes[0].patches if isinstance(patch, StepPatch)]
    tops = [part.get_data().values for part in parts]
    np.testing.assert_allclose(tops, [[2, 4], [3, 4], [3.5, 5], [3.5, 5], [3.5, 5]])
    np.testing.assert_allclose([part.get_data().baseline for part in parts], [[0, 0], *tops[:-1]])
    np.testing.assert_allclose(parts[0].get_data().edges, [0.5, 1.5, 2.5])
    assert words(figure.axes[0].get_legend()) == ["log", "mix", "exchange", "test", "train"]
    assert len({part.get_facecolor() for part in parts}) == 5
    assert figure.axes[0].get_ylabel() == "seconds (mean over ranks)"
    assert_readable(figure)


def test_a_part_of_a_round_has_one_color_in_figures_and_on_the_page():
    style = Path(figures.__file__).with_name("page.css").read_text(encoding="utf-8").split("}")[0]
    assert {part: re.search(rf"--{part}: (#\w+);", style)[1].upper() for part in PART_COLORS} == PART_COLORS


# Mixing, influence, arrival


def test_the_mixing_matrix_is_ordered_by_degree(make):
    figure = mixing(make.log(topology="star:n=4", strategy="unweighted", ood_node=[1]))
    [image] = figure.axes[0].images
    hub, leaf = [1 / 4] * 4, 1 / 2
    expected = [hub, [leaf, leaf, 0, 0], [leaf, 0, leaf, 0], [leaf, 0, 0, leaf]]
    np.testing.assert_allclose(image.get_array().filled(0), expected)
    assert image.get_array().mask.sum() == 6  # what is not listened to is left white
    # In a path the ends, 0 and 2, have fewer neighbors than 1.
    figure = mixing(make.log(topology="path:n=3"))
    third, half = 1 / 3, 1 / 2
    order = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert order == ["1", "0", "2"]
    found = figure.axes[0].images[0].get_array().filled(0)
    np.testing.assert_allclose(found, [[third] * 3, [half, half, 0], [half, 0, half]])
    assert "listened to" in figure.axes[0].get_xlabel()
    assert_readable(figure)


def test_a_large_mixing_matrix_is_drawn_entry_by_entry(make):
    figure = mixing(make.log(topology="ring:n=400"))
    [drawn] = scatters(figure.axes[0])
    assert len(drawn.get_offsets()) == 1200
    np.testing.assert_allclose(drawn.get_array(), 1 / 3)
    steps = np.diff(drawn.get_offsets().data, axis=1) % 400  # degrees are equal: the order is that of the numbers
    assert sorted(set(steps.ravel())) == [0, 1, 399]
    assert drawn.get_rasterized()


def test_weights_that_follow_from_the_models_are_no_matrix(make):
    path = make.log(strategy="degree-similarity")
    assert mixing(path) is None
    assert influence(path) is None
    assert arrival_rounds(path) is not None


def test_influence_is_the_predicted_against_the_measured(make):
    # Two nodes that share equally: node 0's weight is 1, then 1/2, in itself, and 0, then 1/2, in node 1.
    path = make.log([[0.5], [0.5]], [[1.0, 0.2], [1.0, 0.6]], topology="path:n=2", ood_node=[0])
    figure = influence(path)
    plain, ood = scatters(figure.axes[0])
    np.testing.assert_allclose(plain.get_offsets().data, [[0.25, 0.4]])
    np.testing.assert_allclose(ood.get_offsets().data, [[0.75, 1.0]])
    assert "rank correlation 1.00, of 2 nodes" in figure._suptitle.get_text()
    assert figure.axes[0].get_ylabel() == "measured: OOD accuracy AUC"
    assert_readable(figure)


def test_arrival_is_the_round_from_which_knowledge_stays(make):
    ood = [
        [1.0, 0.9, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.2, 0.1, 0.0, 0.0, 0.9],
        [1.0, 0.8, 0.7, 0.0, 0.4, 0.9],
        [1.0, 0.8, 0.7, 0.5, 0.4, 0.9],
    ]
    figure = arrival_rounds(make.log([[0.5]] * 4, ood, topology="ring:n=6", ood_node=[0]))
    axes = figure.axes[0]
    there, not_yet = scatters(axes)
    # Node 0 in round 1; 1 hop away, node 1 in round 3 and node 5 in round 2; 2 hops away, node 2 in round 3, and node 4
    # not yet; 3 hops away, node 3 in round 4.
    assert there.get_offsets().data.tolist() == [[0, 1], [1, 2], [1, 3], [2, 3], [3, 4]]
    assert len(set(there.get_sizes())) == 1
    [[hops, height]] = not_yet.get_offsets().data.tolist()
    assert hops == 2 and height > 4
    labels = dict(zip(axes.get_yticks(), [label.get_text() for label in axes.get_yticklabels()], strict=True))
    assert labels[height] == "not yet"
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0, 1], [1, 2.5], [2, 3], [3, 4]])
    assert_readable(figure)


def test_a_disc_is_as_large_as_its_nodes_are_many(make):
    figure = arrival_rounds(make.log([[0.5]], [[1.0]], topology="star:n=9", ood_node=[0]))
    hub, leaves = scatters(figure.axes[0])[0].get_sizes()
    floor = 20
    assert (leaves - floor) == pytest.approx(8 * (hub - floor))


# Aggregated models


OF_AGGREGATED = logged_variables(trained=False, aggregated=True, epochs=False)
OF_SCORES = {
    "ood_auc": lambda paths: ood_auc_bars(load_runs(paths)),
    "relative_difference": lambda paths: relative_difference_bars(load_runs(paths)),
    "degree_rank": lambda paths: trend(load_runs(paths), "degree_rank"),
    "graphs": lambda paths: graphs(load_runs(paths[:1])),
    "curves": lambda paths: curves(paths[0]),
    "influence": lambda paths: influence(paths[0]),
    "arrival": lambda paths: arrival_rounds(paths[0]),
}


@pytest.mark.parametrize("make_figure", OF_SCORES.values(), ids=OF_SCORES)
@pytest.mark.parametrize("aggregated", [True, False])
def test_a_figure_says_if_its_scores_are_those_of_aggregated_models(make, make_figure, aggregated):
    more = {"variables": OF_AGGREGATED, "evaluate_at": "aggregated"} if aggregated else {}
    scores = [[0.2, 0.3, 0.4, 0.5], [0.9, 0.8, 0.7, 0.6]]
    paths = [make.log(scores, scores, topology="star:n=4", ood_rank=rank, **more) for rank in (1, 2)]
    figure = make_figure(paths)
    said = [text.get_text() for text in texts(figure) if "of aggregated models" in " ".join(text.get_text().split())]
    assert len(said) == (2 if make_figure is OF_SCORES["curves"] else 1) * aggregated
    assert_readable(figure)


# What there is nothing for


@pytest.mark.parametrize("make_figure", [make_one for make_one, _ in OF_A_LOG.values()])
def test_an_empty_log_has_no_figure_but_its_matrix(make, make_figure):
    figure = make_figure(make.log((), (), status="running", rounds=3))
    assert (figure is not None) == (make_figure is mixing)


@pytest.mark.parametrize("make_figure", [make_many for make_many, _ in OF_RUNS.values()])
def test_runs_without_ood_or_without_rounds_have_no_figure_of_ood(make, make_figure):
    runs = [
        make.run(((0.5,),), ((NONE,),), ood="none", topology="ring:n=4"),
        make.run(((0.5,),), ((NONE,),), ood="none", topology="ring:n=8"),
        make.run((), (), rounds=3),
    ]
    assert make_figure(runs) is None
    assert make_figure([]) is None


@pytest.mark.parametrize("make_figure", [influence, arrival_rounds])
def test_a_run_without_ood_has_no_figure_of_where_it_went(make, make_figure):
    assert make_figure(make.log(((0.5,),), ((NONE,),), ood="none")) is None


@pytest.mark.parametrize("make_figure", [make_one for make_one, _ in OF_A_LOG.values()])
def test_a_lone_node_that_is_the_ood_node_can_be_drawn(make, make_figure):
    figure = make_figure(make.log([[0.5], [0.75]], [[1], [1]], topology="path:n=1", ood_node=[0]))
    assert (figure is None) == (make_figure is arrival_rounds)
    if figure is not None:
        assert_readable(figure)


# Files


def names(paths):
    return sorted(path.name for path in paths)


def test_one_log_gives_its_figures_in_both_formats_and_says_what_is_missing(make, tmp_path, capsys):
    said = []
    out = tmp_path / "new" / "figures"
    written = write_figures([make.log()], out, say=said.append)
    kept = ["arrival", "curves", "graphs", "influence", "mixing_matrix", "ood_auc", "relative_difference", "time"]
    assert names(written) == sorted(f"{name}.{ending}" for name in kept for ending in ("svg", "png"))
    assert names(out.iterdir()) == names(written)  # nothing else is left there
    assert [line.split(" (")[0] for line in said] == [
        "left out: degree_rank",
        "left out: total_degree",
        "left out: modularity",
        "left out: num_nodes",
    ]
    assert (out / "graphs.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (out / "graphs.svg").read_bytes()
    assert capsys.readouterr() == ("", "")


def test_what_is_left_out_is_told_on_stderr(make, tmp_path, capsys):
    write_figures([make.log((), (), rounds=2)], tmp_path / "out", ["svg"])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "left out: graphs (needs a round)" in printed.err.splitlines()
    assert "left out: curves (needs a round with accuracies)" in printed.err.splitlines()


def test_where_no_ood_accuracy_is_a_number_that_is_why_a_figure_is_left_out(make, tmp_path):
    said = []
    log = make.log([[0.5]], [[NONE]], topology="path:n=3", ood_node=[0])
    write_figures([log], tmp_path / "out", ["svg"], said.append)
    assert [line for line in said if "influence" in line or "arrival" in line] == [
        "left out: influence (needs an OOD node, OOD accuracies in a round, and weights that follow from the topology)",
        "left out: arrival (needs an OOD node, OOD accuracies in a round, and another node in its reach)",
    ]


def test_figures_of_one_log_have_its_name_where_several_are_given(make, tmp_path):
    (make.folder / "other").mkdir()
    logs = [make.log((), (), rounds=2, name=name) for name in ("a.h5", "b.h5", "other/a.h5")]
    logs.append(make.log((), (), rounds=2, name="c.h5", strategy="degree-similarity"))
    said = []
    assert names(write_figures(logs, tmp_path / "out", ["svg"], said.append)) == [
        "mixing_matrix-a-2.svg",
        "mixing_matrix-a.svg",
        "mixing_matrix-b.svg",
    ]
    assert "left out: curves of a, b, a-2, c (needs a round with accuracies)" in said
    assert any(line.startswith("left out: mixing_matrix of c (needs weights") for line in said)


def test_of_too_many_logs_none_has_figures_of_its_own(make, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MOST", 2)
    said = []
    logs = [make.log(seed=seed, topology="path:n=2") for seed in range(3)]
    assert names(write_figures(logs, tmp_path / "out", ["svg"], said.append)) == [
        "graphs-path-n2-digits-seed0-OOD-at-degree-rank-1.svg",
        "graphs-path-n2-digits-seed1-OOD-at-degree-rank-1.svg",
        "ood_auc.svg",
        "relative_difference.svg",
    ]
    assert "left out: 1 more figures of graphs (2 at most)" in said
    assert said[-1] == (
        "left out: curves, mixing_matrix, time, influence, arrival (each is of one run: give 2 logs at most, not 3)"
    )


@pytest.mark.parametrize(("num_rounds", "formats"), [(2, ["svg"]), (0, ["svg", "png", "pdf"])])
def test_the_same_logs_give_the_same_files(make, tmp_path, num_rounds, formats):
    log = make.log([[0.5]] * num_rounds, [[0.5]] * num_rounds)
    for name in ("first", "second"):
        assert write_figures([log], tmp_path / name, formats, lambda _: None)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_a_figure_that_is_there_is_replaced_and_other_files_stay(make, tmp_path):
    (tmp_path / "mixing_matrix.svg").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    write_figures([make.log((), (), rounds=2)], tmp_path, ["svg"], lambda _: None)
    assert "<svg" in (tmp_path / "mixing_matrix.svg").read_text(encoding="utf-8")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_log_is_never_replaced_by_a_figure(make, tmp_path):
    log = make.log(name="curves.svg")
    content = log.read_bytes()
    with pytest.raises(InputError, match=r"curves\.svg: is a log that a figure could replace: write .* another folder"):
        write_figures([log], log.parent)
    assert log.read_bytes() == content
    assert names(log.parent.iterdir()) == ["curves.svg"]


def test_wrong_input_is_one_line_and_writes_nothing(make, tmp_path, monkeypatch):
    log, out = make.log(), tmp_path / "out"
    (tmp_path / "file").write_text("")
    (tmp_path / "no.h5").write_text("no log")
    for arguments, message in {
        (): "figures need a log to show",
        (tmp_path / "none.h5",): r"none\.h5: no such log",
        (log, tmp_path / "no.h5"): r"no\.h5: cannot be read as HDF5",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            write_figures(arguments, out)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"file: is no folder"):
        write_figures([log], tmp_path / "file")
    with pytest.raises(InputError, match=r"file.*cannot be written"):
        write_figures([log], tmp_path / "file" / "below", say=lambda _: None)
    with pytest.raises(InputError, match="unknown format 'jpg': choose from pdf, png, svg"):
        write_figures([log], out, ["jpg"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"need matplotlib: pip install 'mpisim\[report\]'"):
        write_figures([log], out)
    assert not out.exists()


def test_a_title_is_text_whatever_is_in_it(make, tmp_path):
    log = make.log(strategy="degree", name="run.h5")
    with h5py.File(log, "r+") as file:
        file.attrs["title"] = "$x^{ costs $5 _and <b>more</b> " + "very " * 60 + "long"
        file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | {"topology": "a$b$c^{/../ d.txt"})
    written = write_figures([log], tmp_path / "out", ["svg"], lambda _: None)
    assert len(written) == 8
    assert all(path.parent == tmp_path / "out" for path in written)
    assert_readable(curves(log))


def test_the_title_tells_the_status_of_a_run_that_is_not_complete(make):
    for status, ending in (("complete", "seed 0"), ("running", "seed 0 (running)"), ("interrupted", "(interrupted)")):
        assert curves(make.log(status=status))._suptitle.get_text().endswith(ending)


@pytest.mark.parametrize("later", [{"rounds": 0}, {"rounds": 3}, {"rounds": 1, "topology": "ring:n=9"}])
def test_a_log_that_changes_while_figures_are_made_is_drawn_as_it_was_read(make, tmp_path, monkeypatch, later):
    path = make.log(((0.25,),), ((0.75,),), name="run")

    def read_and_change(paths):
        runs = load_runs(paths)
        path.unlink()
        make.log(((0.5,),) * later["rounds"], ((0.5,),) * later["rounds"], **later | {"name": "run"})
        return runs

    drawn = {}
    monkeypatch.setattr(figures, "load_runs", read_and_change)
    monkeypatch.setattr(figures, "_written", lambda figure, path, _: drawn.setdefault(path.stem, figure))
    write_figures([path], tmp_path / "figures", ["svg"], say=[].append)
    assert [axes.get_title() for axes in drawn["graphs"].axes[:-1]] == [
        "unweighted\nIID, mean 0.250",
        "OOD, mean 0.750",
    ]
    assert len(drawn["graphs"].axes[0].texts) == 4
    assert ("curves" in drawn) == (later["rounds"] > 0)
