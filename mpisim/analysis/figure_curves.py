"""Over the rounds of one run: the accuracy of every node, and where the time went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.analysis.figure_style import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    LARGE,
    OOD_COLOR,
    ORANGE,
    PURPLE,
    below,
    distance_bar,
    distance_colors,
    new_figure,
    of_models,
    open_axes,
    title_of,
)
from mpisim.analysis.logs import is_aggregated, reading, score_curve
from mpisim.analysis.summary import KINDS, PARTS
from mpisim.analysis.topology import distances, graph_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Those of the page.
PART_COLORS = dict(zip(PARTS, (BLUE, ORANGE, GREEN, PURPLE, GRAY), strict=True))
MEAN: dict[str, Any] = {"color": BLACK, "linewidth": 2.6}
OOD: dict[str, Any] = {"color": OOD_COLOR, "linewidth": 1.8, "linestyle": "--"}


def curves(path: Path) -> Figure | None:
    """Return the accuracy curves of a run: a line for each node, colored by its distance from the OOD node.

    The mean over nodes is thick and black, OOD nodes are dashed and bright. None where there is no accuracy.
    """
    from matplotlib.lines import Line2D

    with reading(path) as file:
        title, num_rounds, is_ood = title_of(file), len(file["round"]), file["is_ood"][:] > 0
        away = distances(graph_of(file), np.flatnonzero(is_ood))
        accuracies = {kind: score_curve(file, f"{kind}_accuracy") for kind in KINDS}
        aggregated = is_aggregated(file)
    shown = {kind: accuracy for kind, accuracy in accuracies.items() if np.isfinite(accuracy).any()}
    if not shown:
        return None
    figure = new_figure(4.4 * len(shown) + 1.0, 4.2, title)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (kind, accuracy) in zip(panels, shown.items(), strict=True):
        rounds = np.arange(1, len(accuracy) + 1) * num_rounds / len(accuracy)
        _draw_curves(axes, rounds, accuracy, away, is_ood)
        axes.set_title(of_models(f"{kind.upper()} accuracy", aggregated), fontsize="medium")
        axes.set(xlabel="round", ylim=(-0.02, 1.02))
    panels[0].set_ylabel("accuracy")
    handles = [Line2D([], [], label="mean over nodes", **MEAN)]
    if is_ood.any():
        distance_bar(figure, panels, *distance_colors(away))
        handles.append(Line2D([], [], label="OOD node", **OOD))
    if not np.isfinite(away).all():
        handles.append(Line2D([], [], color=GRAY, label="out of the OOD node's reach" if is_ood.any() else "a node"))
    below(figure, handles, 3)
    return figure


def _draw_curves(axes: Axes, rounds: np.ndarray, accuracy: np.ndarray, away: np.ndarray, is_ood: np.ndarray) -> None:
    from matplotlib.collections import LineCollection

    colors, norm = distance_colors(away)
    large = accuracy.shape[1] > LARGE
    others = np.flatnonzero(~is_ood)
    lines = LineCollection(
        [np.column_stack([rounds, accuracy[:, node]]) for node in others],
        array=np.ma.masked_invalid(away[others]),
        cmap=colors,
        norm=norm,
        linewidths=0.5 if large else 0.9,
        alpha=0.4 if large else 0.8,
        rasterized=large,
    )
    axes.add_collection(lines)
    marker, room = "", 0.02 * rounds[-1]
    if len(rounds) == 1:  # a point, which no line would show
        marker, room = "o", 0.5
        away_of_others = np.ma.masked_invalid(away[others])
        axes.scatter(np.tile(rounds, len(others)), accuracy[0, others], c=away_of_others, cmap=colors, norm=norm, s=14)
    axes.plot(rounds, accuracy[:, is_ood], marker=marker, zorder=4, **OOD)
    axes.plot(rounds, accuracy.mean(axis=1), marker=marker, zorder=3, **MEAN)
    axes.set_xlim(min(1, rounds[0]) - room, rounds[-1] + room)
    open_axes(axes, whole_numbers=True)


def time_split(path: Path) -> Figure | None:
    """Return where the time of each round went: the parts of a round on top of each other, means over ranks."""
    with reading(path) as file:
        title, rounds = title_of(file), file["round"][:]
        seconds = {part: file[f"{part}_seconds"][:] for part in PARTS}
    if len(rounds) == 0:
        return None
    figure = new_figure(7, 3.8, title)
    axes = figure.subplots()
    edges, base = np.append(rounds - 0.5, rounds[-1] + 0.5), np.zeros(len(rounds))
    for part, of_ranks in seconds.items():
        # A run that was resumed on other ranks has figures of some ranks for some rounds only.
        top = base + np.nanmean(of_ranks, axis=1)
        axes.stairs(top, edges, baseline=base, fill=True, color=PART_COLORS[part], label=part)
        base = top
    axes.set(xlabel="round", ylabel="seconds (mean over ranks)", xlim=(edges[0], edges[-1]), ylim=(0, None))
    open_axes(axes, whole_numbers=True)
    handles, _ = axes.get_legend_handles_labels()
    axes.legend(
        handles=handles[::-1], loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, title="part of a round"
    )
    return figure
