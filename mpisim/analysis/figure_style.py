"""How figures look: a strategy has one color, hatch and marker everywhere, and hue alone tells nothing.

The colors of strategies are those of Okabe and Ito ("Color Universal Design", 2008), accuracies go through cividis, and
distances through viridis; all can be told apart by the color-blind, and the latter two in gray as well.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mpisim.analysis import logs
from mpisim.analysis.measures import AWARE, UNAWARE

if TYPE_CHECKING:
    import h5py
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import BoundaryNorm, Colormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GRAY = "#8C8C8C"
ACCURACIES, WEIGHTS, DISTANCES = "cividis", "Blues", "viridis"  # color maps
OOD_MARKER, OOD_COLOR = "D", VERMILLION
UNKNOWN_EDGE = "#595959"  # around a white node, which has no accuracy: a gray one would look like one in the middle
LARGE = 300  # nodes, from which on lines and points of nodes are drawn as pixels: as vectors they would be slow to show
NUMBERED = 40  # nodes, up to which there is room for their numbers
CHARACTERS = 12  # of a title in an inch
MOST_PANELS = 40  # in a figure: a picture can have so many pixels only
MAX_TICKS = 12  # of a color bar's numbers


@dataclass(frozen=True)
class StrategyStyle:
    """How a strategy is drawn: two that share a color differ in hatch and marker."""

    color: str
    marker: str
    hatch: str = ""


# In the order in which they stand in a figure: that of the paper, then all others.
STRATEGIES = {
    "fl": StrategyStyle(BLACK, "s"),
    "unweighted": StrategyStyle(SKY, "o"),
    "weighted": StrategyStyle(GREEN, "v"),
    "random": StrategyStyle(PURPLE, "^"),
    "betweenness": StrategyStyle(BLUE, "D"),
    "degree": StrategyStyle(VERMILLION, "P"),
    "closeness": StrategyStyle(ORANGE, "X"),
    "eigenvector": StrategyStyle(ORANGE, "<", "///"),
    "clustering": StrategyStyle(YELLOW, ">"),
    "metropolis": StrategyStyle(YELLOW, "p", "///"),
    "betweenness-similarity": StrategyStyle(BLUE, "d", "///"),
    "degree-similarity": StrategyStyle(VERMILLION, "h", "///"),
    "scale": StrategyStyle(GRAY, "8"),
    "none": StrategyStyle(GRAY, "*", "///"),
}
UNKNOWN = StrategyStyle(GRAY, "x", "...")
# The topology-aware ones are drawn solid, the unaware dashed, and those that the paper puts in neither group dotted.
GROUPS: dict[str, tuple[tuple[str, ...], Literal["-", "--", ":"]]] = {
    "topology-aware": (AWARE, "-"),
    "topology-unaware": (UNAWARE, "--"),
    "others": ((), ":"),
}


def style_of(strategy: str) -> StrategyStyle:
    """Return how a strategy is drawn."""
    return STRATEGIES.get(strategy, UNKNOWN)


def group_of(strategy: str) -> str:
    """Return the group of a strategy, a name in GROUPS."""
    return next((group for group, (members, _) in GROUPS.items() if strategy in members), "others")


def in_order(strategies: set[str]) -> list[str]:
    """Return strategies in the order in which they stand in a figure."""
    known = list(STRATEGIES)
    return sorted(strategies, key=lambda name: (known.index(name) if name in known else len(known), name))


def title_of(file: h5py.File) -> str:
    """Return the title of a run, with its status where it is not complete."""
    status = str(file.attrs["status"])
    return logs.title_of(file) + ("" if status == "complete" else f" ({status})")


def of_models(quantity: str, is_aggregated: bool) -> str:
    """Return what a score is called: that of trained models, the usual one, by its name alone."""
    return f"{quantity}\nof aggregated models" if is_aggregated else quantity


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Return an empty figure, of a size in inches, that gives every label its place."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        # A dollar sign in a log's title is no formula.
        figure.suptitle(wrapped(title, width), fontsize="medium", parse_math=False)
    return figure


def wrapped(title: str, width: float) -> str:
    """Return a title in lines that are not wider than so many inches."""
    return "\n".join(textwrap.fill(line, int(width * CHARACTERS)) for line in title.splitlines())


def open_axes(axes: Axes, whole_numbers: bool = False) -> None:
    """Give a panel a light grid and no box, and, where its x axis counts something, ticks at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.grid(linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if whole_numbers:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def distance_colors(distance: np.ndarray) -> tuple[Colormap, BoundaryNorm]:
    """Return the color map, and the norm that goes with it, of distances in hops.

    Parameters
    ----------
    distance : float array, shape (num_nodes,)
        Infinite, or NaN, where there is no way; these get the map's color for bad values.
    """
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm, ListedColormap

    farthest = int(np.max(distance, where=np.isfinite(distance), initial=1))
    # viridis ends in a yellow that is hard to see on white.
    colors = colormaps[DISTANCES](np.linspace(0, 0.88, farthest))
    return ListedColormap([OOD_COLOR, *map(tuple, colors)]).with_extremes(bad=GRAY), BoundaryNorm(
        np.arange(farthest + 2) - 0.5, farthest + 1
    )


def weight_colors() -> Colormap:
    """Return the color map of weights: even the smallest can be told from white, which is no weight at all."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[WEIGHTS](np.linspace(0.25, 1, 256)))


def distance_bar(figure: Figure, axes: Any, colors: Colormap, norm: BoundaryNorm) -> Colorbar:
    """Add the color bar of distances to a figure, with whole numbers."""
    from matplotlib.cm import ScalarMappable

    step = -(-colors.N // MAX_TICKS)
    ticks = np.arange(0, colors.N, step)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, ticks=ticks, label="hops from the OOD node")
    bar.ax.minorticks_off()
    return bar


def below(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Put a legend below all panels."""
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize="small", frameon=False)


def ood_mark() -> Line2D:
    """Return the legend's entry of the marker of OOD nodes."""
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], linestyle="", marker=OOD_MARKER, markerfacecolor="none", markeredgecolor=OOD_COLOR, label="OOD node"
    )


def unknown_mark() -> Line2D:
    """Return the legend's entry of nodes that have no accuracy."""
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], linestyle="", marker="o", markerfacecolor="white", markeredgecolor=UNKNOWN_EDGE, label="no accuracy"
    )
