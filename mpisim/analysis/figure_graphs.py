"""The topology side by side under each strategy, its nodes colored by accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.analysis.figure_style import (
    ACCURACIES,
    GRAY,
    LARGE,
    NUMBERED,
    OOD_COLOR,
    OOD_MARKER,
    UNKNOWN_EDGE,
    below,
    in_order,
    new_figure,
    of_models,
    ood_mark,
    unknown_mark,
)
from mpisim.analysis.runs import Run, settings
from mpisim.analysis.summary import KINDS
from mpisim.analysis.topology import as_graph, positions

if TYPE_CHECKING:
    import networkx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 6  # graphs side by side
PANEL, LARGE_PANEL = 2.3, 3.6  # inches


def same_but_strategy(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Return the runs that differ in their strategy alone, with what they share; only those that have a round."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    order = in_order({run.strategy for run in runs})
    for setting, members in settings(runs).items():
        for run in sorted(members, key=lambda run: order.index(run.strategy)):
            if run.row["num_rounds"]:
                shared = f"{run.option('topology')}, {setting}, seed {run.option('seed')}\n{run.placement}"
                # A topology's file may have changed between two runs.
                graph = (run.row["num_nodes"], run.row["num_edges"], run.row["ood_nodes"])
                groups.setdefault((shared, *graph), []).append(run)
    return [(shared, members) for (shared, *_), members in groups.items()]


def graphs(runs: Sequence[Run], title: str = "") -> Figure | None:
    """Return the figure of runs on one topology: a column for each, IID accuracy above, OOD accuracy below.

    Parameters
    ----------
    runs : with one round at least, on one topology
        Their accuracies are those of the last round. Without any OOD accuracy, that row is left out.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    finals = [run.final for run in runs]
    kinds = [kind for kind in KINDS if any(np.isfinite(final[kind]).any() for final in finals)]
    if not kinds:
        return None
    # Kinds stand below each other, but for a single run beside each other.
    columns = min(len(runs), COLUMNS) if len(runs) > 1 else len(kinds)
    rows = -(-len(runs) // COLUMNS) * len(kinds) if len(runs) > 1 else 1
    panel = LARGE_PANEL if runs[0].row["num_nodes"] > LARGE else PANEL
    figure = new_figure(max(panel * columns + 1.2, 4.5), (panel + 0.4) * rows + 0.8, title)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    # Not all links tell the topology: modularity is that of those which do.
    known = max(runs, key=lambda run: run.row["modularity"] is not None)
    graph, is_ood = as_graph(len(known.is_ood), known.edges), known.is_ood
    places = positions(graph)
    for number, (run, final) in enumerate(zip(runs, finals, strict=True)):
        for row, kind in enumerate(kinds):
            where = (number // columns * len(kinds) + row, number % columns) if len(runs) > 1 else (0, row)
            axes = panels[where]
            draw_graph(axes, graph, places, final[kind], is_ood)
            heading = f"{_heading(run, runs)}\n" if row == 0 else ""
            measured = final[kind][np.isfinite(final[kind])]
            told = f"mean {measured.mean():.3f}" if len(measured) else "not measured"
            axes.set_title(f"{heading}{kind.upper()}, {told}", fontsize="small")
    mappable = ScalarMappable(Normalize(0, 1), colormaps[ACCURACIES])
    label = of_models("accuracy in the last round", any(run.is_aggregated for run in runs))
    figure.colorbar(mappable, ax=panels, label=label, shrink=min(1, 2 / rows))
    unknown = any(np.isnan(final[kind]).any() for final in finals for kind in kinds)
    marks = [*([ood_mark()] if is_ood.any() else []), *([unknown_mark()] if unknown else [])]
    if marks:
        below(figure, marks, len(marks))
    return figure


def draw_graph(axes: Axes, graph: networkx.Graph, places: np.ndarray, accuracy: np.ndarray, is_ood: np.ndarray) -> None:
    """Draw a graph, its nodes colored by their accuracy from 0 to 1, OOD nodes as diamonds with a bright edge.

    Parameters
    ----------
    places : float array, shape (num_nodes, 2)
    accuracy : float array, shape (num_nodes,)
        A node without one is white, with an outline.
    is_ood : bool array, shape (num_nodes,)
    """
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    num_nodes = len(places)
    large = num_nodes > LARGE
    segments = [(places[a], places[b]) for a, b in graph.edges]
    width, alpha = (0.25, 0.3) if large else (0.8, 0.5)
    axes.add_collection(
        LineCollection(segments, colors=GRAY, linewidths=width, alpha=alpha, zorder=1, rasterized=large)
    )
    size = float(np.clip(3200 / num_nodes, 8, 260))
    colors = colormaps[ACCURACIES].with_extremes(bad="white")
    for chosen, marker, edge, area in (
        (~is_ood, "o", "white", size),
        (is_ood, OOD_MARKER, OOD_COLOR, max(1.2 * size, 30)),
    ):
        unknown = np.isnan(accuracy[chosen]) & (edge == "white")
        axes.scatter(
            places[chosen, 0],
            places[chosen, 1],
            s=area,
            c=accuracy[chosen],
            cmap=colors,
            vmin=0,
            vmax=1,
            marker=marker,
            edgecolors=np.where(unknown, UNKNOWN_EDGE, edge).tolist(),
            linewidths=np.where(unknown, 0.6, 0.2).tolist() if large and edge == "white" else 1.2,
            plotnonfinite=True,
            clip_on=False,
            zorder=3 if edge == OOD_COLOR else 2,
        )
    if num_nodes <= NUMBERED:
        for node, (x, y) in enumerate(places):
            color = "white" if accuracy[node] <= 0.6 else "black"  # cividis is light from there on
            axes.text(x, y, str(node), color=color, fontsize=np.sqrt(size) * 0.5, ha="center", va="center", zorder=4)
    axes.set(xlim=(-0.08, 1.08), ylim=(-0.08, 1.08), aspect="equal")


def _heading(run: Run, runs: Sequence[Run]) -> str:
    """Return what is above a run's graphs: its strategy, with what else tells it from the others."""
    alone = sum(other.strategy == run.strategy for other in runs) == 1
    done, wanted = run.row["num_rounds"], run.row["wanted_rounds"]
    return (
        run.strategy
        + ("" if alone else f" ({run.path.stem})")
        + (f", round {done} of {wanted}" if done < wanted else "")
    )
