"""The figure of weak scaling: the parts of a round over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpisim.analysis.figure_style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    below,
    new_figure,
    open_axes,
)
from mpisim.analysis.outputs import replacing
from mpisim.estimate.model import Estimate
from mpisim.estimate.weak_scaling import round_seconds

STYLES = {
    "train": (BLUE, "o"),
    "test": (SKY, "s"),
    "exchange": (VERMILLION, "^"),
    "mix": (ORANGE, "D"),
    "log": (PURPLE, "v"),
    "checkpoint": (GREEN, "P"),
}
SIZE = 6.5, 4.5  # inches


def draw_scaling(estimates: Sequence[Estimate], rounds: int, title: str, out: Path) -> None:
    """Write the figure to a file of any kind that matplotlib knows by its name.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    figure = new_figure(*SIZE, title)
    axes = figure.subplots()
    open_axes(axes)
    ranks = [each.ranks for each in estimates]
    lines = axes.plot(
        ranks, [round_seconds(each, rounds) for each in estimates], color=BLACK, marker="*", label="round"
    )
    for part, (color, marker) in STYLES.items():
        seconds = [each.seconds[part] / rounds for each in estimates]
        if any(seconds):
            lines += axes.plot(ranks, seconds, color=color, marker=marker, linewidth=1, label=part)
    axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="seconds of a round (estimate)")
    below(figure, lines, columns=4)
    with replacing(out) as successor:
        figure.savefig(successor)
