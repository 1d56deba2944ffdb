"""Bars over topologies, one for each strategy: how much of the OOD knowledge arrives."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mpisim.analysis.figure_style import (
    MOST_PANELS,
    below,
    in_order,
    new_figure,
    of_models,
    open_axes,
    style_of,
    wrapped,
)
from mpisim.analysis.measures import bootstrap_interval
from mpisim.analysis.runs import Run, best_placed, natural, settings, unfinished

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR, GAP, PANEL = 0.17, 0.3, 2.4  # inches: a bar, what is between groups of bars, the height of a panel
WIDEST = 80  # inches; of many topologies, bars become thin
LABEL = 14  # characters of a line below a group of bars


def ood_auc_bars(runs: Sequence[Run]) -> Figure | None:
    """Return the OOD accuracy AUC: topologies × strategies, a panel for each data set."""
    figure = _bars(runs, "ood_auc", "OOD accuracy AUC")
    for axes in figure.axes if figure else []:
        axes.set_ylim(0, 1)
    return figure


def relative_difference_bars(runs: Sequence[Run]) -> Figure | None:
    """Return the relative difference of OOD and IID accuracy AUC, 200·(OOD − IID)/(OOD + IID), likewise."""
    figure = _bars(runs, "relative_difference", "OOD and IID accuracy AUC,\nrelative difference in %")
    for axes in figure.axes if figure else []:
        axes.axhline(0, color="black", linewidth=0.8)
    return figure


def _bars(runs: Sequence[Run], quantity: str, label: str) -> Figure | None:
    """Return the figure of a quantity of the table: the mean over seeds, with its interval."""
    from matplotlib.patches import Patch

    runs = [run for run in runs if np.isfinite(run.number(quantity))]
    if not runs:
        return None
    placement, runs = best_placed(runs)
    strategies = in_order({run.strategy for run in runs})
    panels = dict(itertools.islice(settings(runs).items(), MOST_PANELS))
    families = [sorted({run.family.label for run in members}, key=natural) for members in panels.values()]
    width = max(len(labels) * (len(strategies) * BAR + GAP) for labels in families)
    width = min(max(width, max(map(len, families)) * 0.95, 4.5), WIDEST) + 1.2
    figure = new_figure(width, PANEL * len(panels) + 1.0)
    rows = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    repeated = False
    for axes, labels, (setting, members) in zip(rows, families, panels.items(), strict=True):
        shown = in_order({run.strategy for run in members})
        repeated |= _draw_bars(axes, members, labels, shown, quantity)
        # No bar is more than twice as wide as it has to be.
        room = max(len(labels) + 0.2, (width - 1.2) / (len(shown) * BAR + GAP) / 2)
        axes.set_xlim((len(labels) - 1 - room) / 2, (len(labels) - 1 + room) / 2)
        axes.set_title(wrapped(setting, width - 1.2), fontsize="medium")
        axes.set_ylabel(of_models(label, any(run.is_aggregated for run in members)), fontsize="small")
    styles = {name: style_of(name) for name in strategies}
    handles = [
        Patch(facecolor=style.color, hatch=style.hatch, edgecolor="black", linewidth=0.4, label=name)
        for name, style in styles.items()
    ]
    below(figure, handles, columns=min(len(strategies), int(width / 1.2)))
    notes = [placement, "mean over seeds with its 95 % bootstrap interval" if repeated else "", unfinished(runs)]
    figure.suptitle(wrapped(" · ".join(filter(None, notes)), width), fontsize="medium")
    return figure


def _draw_bars(axes: Axes, runs: list[Run], labels: list[str], strategies: list[str], quantity: str) -> bool:
    """Draw a panel; return whether any bar stands for more than one run."""
    bar = 1 / (len(strategies) + GAP / BAR)  # the width of a group is 1
    repeated = False
    for number, strategy in enumerate(strategies):
        style = style_of(strategy)
        for group, label in enumerate(labels):
            values = np.array(
                [run.number(quantity) for run in runs if (run.strategy, run.family.label) == (strategy, label)]
            )
            if len(values) == 0:
                continue
            x, mean = group + (number - (len(strategies) - 1) / 2) * bar, values.mean()
            axes.bar(x, mean, bar, color=style.color, hatch=style.hatch, edgecolor="black", linewidth=0.4)
            if len(values) > 1:
                repeated = True
                axes.vlines(x, *bootstrap_interval(values), color="black", linewidth=1.2)
    axes.set_xticks(
        range(len(labels)), [textwrap.fill(label, LABEL, break_on_hyphens=False) for label in labels], fontsize="small"
    )
    axes.tick_params(axis="x", length=0)
    open_axes(axes)
    axes.grid(visible=False, axis="x")
    return repeated
