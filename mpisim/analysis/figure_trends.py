"""OOD accuracy AUC against a property of the topology or of the OOD node, with a regression line for each strategy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mpisim.analysis.figure_style import (
    GROUPS,
    MOST_PANELS,
    group_of,
    in_order,
    new_figure,
    of_models,
    open_axes,
    style_of,
    wrapped,
)
from mpisim.analysis.runs import Family, Run, best_placed, natural, settings, unfinished

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_WIDTH, PANEL_HEIGHT, LEGEND, COLUMNS = 3.0, 2.9, 1.9, 3  # inches; panels side by side


@dataclass(frozen=True)
class Trend:
    """A property that runs may differ in.

    Attributes
    ----------
    quantity : str
        Its column in the table.
    label : str
    step : float
    per : str
        What the slope is given for: so many units, in words.
    series : function of a run to the topologies that it is compared with: what they have in common
    pooled : function of a run to the same, where no two topologies are of one kind
    """

    quantity: str
    label: str
    step: float
    per: str
    series: Callable[[Run], str]
    pooled: Callable[[Run], str] | None = None


def _size(run: Run) -> str:
    return f"{run.row['num_nodes']} nodes"


def _of_one_kind(run: Run) -> str:
    return f"{run.family.kind}, {_size(run)}"


def _of_several_kinds(run: Run) -> str:
    return f"several kinds, {_size(run)}"


TRENDS = {
    "degree_rank": Trend("ood_degree_rank", "degree rank of the OOD node", 1, "rank", lambda run: run.family.kind),
    "total_degree": Trend("total_degree", "total degree", 100, "100", _of_one_kind, _of_several_kinds),
    "modularity": Trend("modularity", "modularity", 0.1, "0.1", _of_one_kind, _of_several_kinds),
    "num_nodes": Trend("num_nodes", "number of nodes", 10, "10 nodes", lambda run: run.family.without_size().label),
}


def trend(runs: Sequence[Run], name: str) -> Figure | None:
    """Return the OOD accuracy AUC against a property, a name in TRENDS: a point for each run, a line for each strategy.

    A panel has the runs on one data set and on topologies of one kind that differ in the property; all but the degree
    rank compare topologies that differ in more than their seed, with the OOD node placed alike.
    """
    property = TRENDS[name]
    of_node = name == "degree_rank"
    runs = [run for run in runs if np.isfinite([run.number(property.quantity), run.number("ood_auc")]).all()]
    if not runs:
        return None
    placement, runs = ("", _at_several_ranks(runs)) if of_node else best_placed(runs)
    panels = {
        f"{setting} · {series}": members
        for setting, all_members in settings(runs).items()
        for series, members in _series(all_members, property).items()
        if len({run.number(property.quantity) for run in members}) > 1 and (of_node or _num_families(members) > 1)
    }
    if not panels:
        return None
    panels = dict(itertools.islice(panels.items(), MOST_PANELS))
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    note = unfinished([run for members in panels.values() for run in members])
    title = " · ".join(filter(None, [placement, note]))
    figure = new_figure((PANEL_WIDTH + LEGEND) * columns, PANEL_HEIGHT * rows + 0.5, title)
    for axes, item in zip(figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False):
        _draw_trend(axes, item[1], property)
        axes.set_title(wrapped(item[0], PANEL_WIDTH), fontsize="medium")
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    return figure


def _at_several_ranks(runs: Sequence[Run]) -> list[Run]:
    """Return the runs on topologies with OOD nodes of several degree ranks: others would bend the lines."""
    ranks: dict[Family, set[float]] = {}
    for run in runs:
        ranks.setdefault(run.family, set()).add(run.number("ood_degree_rank"))
    return [run for run in runs if len(ranks[run.family]) > 1]


def _series(runs: list[Run], property: Trend) -> dict[str, list[Run]]:
    """Return the runs by the topologies that they are compared with: of one kind or, where no kind has two, of all."""
    found = _grouped(runs, property.series)
    if property.pooled is not None and max(map(_num_families, found.values())) == 1:
        # Two topologies of two kinds differ in too much for a line between them to tell anything.
        pooled = _grouped(runs, property.pooled)
        found = {name: members for name, members in pooled.items() if _num_families(members) > 2}
    return {name: found[name] for name in sorted(found, key=natural)}


def _grouped(runs: list[Run], name_of: Callable[[Run], str]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(name_of(run), []).append(run)
    return found


def _num_families(runs: list[Run]) -> int:
    return len({run.family for run in runs})


def _signed(slope: float) -> str:
    return f"{slope:+.3f}".replace("-", "−")


def _draw_trend(axes: Axes, runs: list[Run], property: Trend) -> None:
    """Draw a panel: points, least-squares lines, and a legend with the slopes, group by group."""
    from matplotlib.lines import Line2D

    handles: dict[str, list[Line2D]] = {group: [] for group in GROUPS}
    for strategy in in_order({run.strategy for run in runs}):
        style, line = style_of(strategy), GROUPS[group_of(strategy)][1]
        members = [run for run in runs if run.strategy == strategy]
        x = np.array([run.number(property.quantity) for run in members])
        y = np.array([run.number("ood_auc") for run in members])
        axes.plot(x, y, linestyle="", marker=style.marker, color=style.color, markersize=5, markerfacecolor="none")
        label, drawn = strategy, False
        if np.ptp(x) > 0:
            slope, start = np.polyfit(x, y, 1)
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, start + slope * ends, color=style.color, linestyle=line, linewidth=1.5)
            label, drawn = f"{strategy} {_signed(slope * property.step)}", True
        handle = Line2D([], [], color=style.color, linestyle=line if drawn else "", marker=style.marker, markersize=5)
        handle.set_markerfacecolor("none")
        handle.set_label(label)
        handles[group_of(strategy)].append(handle)
    listed = []
    for group, lines in handles.items():
        if lines:
            listed += [Line2D([], [], linestyle="", label=group), *lines]
    legend = axes.legend(
        handles=listed,
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        fontsize="x-small",
        frameon=False,
        title=f"slope per {property.per}",
        title_fontsize="x-small",
        alignment="left",
        handlelength=3,
    )
    for text in legend.get_texts():
        text.set_fontweight("bold" if text.get_text() in GROUPS else "normal")
    label = of_models("OOD accuracy AUC", any(run.is_aggregated for run in runs))
    axes.set(xlabel=property.label, ylabel=label, ylim=(-0.02, 1.02))
    open_axes(axes, whole_numbers=property.quantity != "modularity")
