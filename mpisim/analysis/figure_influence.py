"""Who listens to whom in one run, what that predicts, and how far from the OOD node its knowledge is when."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.analysis.figure_style import (
    BLACK,
    BLUE,
    GRAY,
    LARGE,
    NUMBERED,
    OOD_COLOR,
    OOD_MARKER,
    below,
    distance_bar,
    distance_colors,
    new_figure,
    of_models,
    ood_mark,
    open_axes,
    title_of,
    weight_colors,
)
from mpisim.analysis.influence import THRESHOLD, compare_prediction, mixing_matrix
from mpisim.analysis.logs import is_aggregated, reading
from mpisim.analysis.topology import degree_rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def mixing(path: Path) -> Figure | None:
    """Return the mixing matrix of the first round, nodes in the order of their degrees; None if it has no weights.

    Of a large one, only the entries are drawn that are not zero.
    """
    from matplotlib.colors import Normalize

    with reading(path) as file:
        title, matrix, degrees = title_of(file), mixing_matrix(file), file["degree"][:]
    if not np.isfinite(matrix.data).all() or matrix.nnz == 0:
        return None
    num_nodes, order = len(degrees), np.argsort(degree_rank(degrees))
    ordered = matrix[order][:, order].tocoo()
    figure = new_figure(6.2, 5.4, title)
    axes = figure.subplots()
    colors, norm = weight_colors(), Normalize(0, float(ordered.data.max()))
    if num_nodes > LARGE:
        size = max(1.0, (260 / num_nodes) ** 2)
        drawn = axes.scatter(
            ordered.col, ordered.row, c=ordered.data, s=size, marker="s", linewidths=0, cmap=colors, norm=norm
        )
        drawn.set_rasterized(True)
        axes.set(xlim=(-0.5, num_nodes - 0.5), ylim=(num_nodes - 0.5, -0.5))
        figure.colorbar(drawn, ax=axes, label="weight")
    else:
        dense = ordered.toarray()
        image = axes.imshow(
            np.ma.masked_equal(dense, 0), cmap=colors, norm=norm, interpolation="nearest", aspect="auto"
        )
        figure.colorbar(image, ax=axes, label="weight")
    axes.set_xlabel("node that is listened to, in the order of degrees")
    axes.set_ylabel("node that listens, in the order of degrees")
    _number(axes, order)
    return figure


def _number(axes: Axes, order: np.ndarray) -> None:
    """Give the rows and columns of a matrix the numbers of their nodes, if there is room."""
    if len(order) <= NUMBERED:
        size = float(np.clip(200 / len(order), 5, 9))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(range(len(order)), [str(node) for node in order], fontsize=size)
        axes.tick_params(length=0)


def influence(path: Path) -> Figure | None:
    """Return the measured OOD accuracy AUC of each node against the influence that W predicts.

    None where there is no round, no OOD node, or no W that follows from the topology alone.
    """
    with reading(path) as file:
        title, found, aggregated = title_of(file), compare_prediction(file), is_aggregated(file)
    known = np.isfinite(found.measured)
    # All that is predicted of the first round is the OOD node's own model, whatever W is.
    if len(found.ood_nodes) == 0 or not known.any() or not np.isfinite(found.influence).all():
        return None
    figure = new_figure(6, 4.4, f"{title}\n{_in_words(found.rank_correlation, known.sum())}")
    axes = figure.subplots()
    colors, norm = distance_colors(found.distance)
    is_ood = np.zeros(len(known), dtype=bool)
    is_ood[found.ood_nodes] = True
    size = float(np.clip(3000 / len(known), 6, 60))
    for chosen, marker, edge in ((known & ~is_ood, "o", "none"), (known & is_ood, OOD_MARKER, OOD_COLOR)):
        axes.scatter(
            found.predicted[chosen],
            found.measured[chosen],
            s=size * (1.5 if edge == OOD_COLOR else 1),
            c=np.ma.masked_invalid(found.distance[chosen]),
            cmap=colors,
            norm=norm,
            marker=marker,
            edgecolors=edge,
            linewidths=1.5,
            plotnonfinite=True,
        )
    measured = of_models("measured: OOD accuracy AUC", aggregated)
    axes.set(xlabel="predicted: weight of the OOD node's model, mean over rounds", ylabel=measured)
    distance_bar(figure, axes, colors, norm)
    below(figure, [ood_mark()], 1)
    open_axes(axes)
    return figure


def arrival_rounds(path: Path) -> Figure | None:
    """Return the round in which OOD knowledge has come to stay at each node against its distance from the OOD node.

    A disc stands for the nodes of one distance and round, its area for how many they are; a line goes through the
    medians of those that have it. Nodes that do not have it stand above, as rings. None where there is no OOD node, no
    round, or no other node in its reach.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    with reading(path) as file:
        title, found, aggregated = title_of(file), compare_prediction(file), is_aggregated(file)
    reached = np.isfinite(found.distance)
    if not np.isfinite(found.measured).any() or not (found.distance[reached] > 0).any():
        return None
    away, arrived = found.distance[reached], found.arrival[reached]
    has = np.isfinite(arrived)
    last = np.max(arrived, where=has, initial=1)
    never = 1.15 * last + 1  # the height at which the others stand
    figure = new_figure(6, 4.4, f"{title}\n{_in_words(found.arrival_correlation, has.sum())}")
    axes = figure.subplots()
    _draw_discs(axes, away[has], arrived[has], len(away), BLUE)
    _draw_discs(axes, away[~has], np.full((~has).sum(), never), len(away), "none")
    hops = np.unique(away[has])
    axes.plot(hops, [np.median(arrived[has & (away == hop)]) for hop in hops], color=BLACK, linewidth=1.2, zorder=1)
    since = of_models("round from which OOD accuracy", aggregated)
    axes.set(xlabel="hops from the OOD node", ylabel=f"{since} stays ≥ {THRESHOLD:g}")
    open_axes(axes, whole_numbers=True)
    ticks = [tick for tick in MaxNLocator("auto", integer=True).tick_values(1, last) if 1 <= tick <= last]
    if has.all():
        axes.set_yticks(ticks)
    else:
        axes.set_yticks([*ticks, never], [*(f"{tick:.0f}" for tick in ticks), "not yet"])
        axes.axhline((last + never) / 2, color=GRAY, linewidth=0.8, linestyle=":")
    axes.margins(y=0.1)
    disc: dict[str, Any] = {"linestyle": "", "marker": "o", "markeredgecolor": BLUE}
    nodes = Line2D([], [], markerfacecolor=BLUE, label="nodes (area: how many)", **disc)
    below(figure, [nodes, Line2D([], [], color=BLACK, label="median of those that have it")], 2)
    return figure


def _in_words(correlation: float, num_nodes: int) -> str:
    if np.isnan(correlation):
        return "no rank correlation: too few nodes, or all alike"
    return f"rank correlation {correlation:.2f}, of {num_nodes:,} nodes"


def _draw_discs(axes: Axes, x: np.ndarray, y: np.ndarray, num_nodes: int, color: str) -> None:
    """Draw a disc for all nodes of one place, whose area is their share of all nodes."""
    places, counts = np.unique(np.stack([x, y]), axis=1, return_counts=True)
    axes.scatter(places[0], places[1], s=20 + 300 * counts / num_nodes, facecolors=color, edgecolors=BLUE, alpha=0.85)
