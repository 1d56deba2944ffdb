"""The topology over the rounds, its nodes colored by how well each does: a GIF, or an MP4 film."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.analysis.figure_style import ACCURACIES, GRAY, OOD_COLOR, OOD_MARKER
from mpisim.analysis.film import find_ffmpeg, write_gif, write_mp4
from mpisim.analysis.logs import configuration, is_aggregated, reading, score, title_of
from mpisim.analysis.outputs import check_output, replacing
from mpisim.analysis.topology import edges_of, graph_of, positions
from mpisim.errors import InputError, unknown_name

if TYPE_CHECKING:
    import h5py
    from matplotlib.collections import PathCollection
    from matplotlib.textpath import TextPath

QUANTITIES = {"iid_accuracy": "IID accuracy", "ood_accuracy": "OOD accuracy"}
WIDTH, HEIGHT, DPI = 720, 640, 100  # pixels, even as films want them; and pixels an inch
MAX_FRAMES = 500  # of a GIF all are in memory, 0.5 MB each
FRAMES_A_SECOND = (0.1, 50.0)  # browsers slow down a GIF that is faster
NUMBERED = 40  # nodes, up to which each has its number
LIGHT = 0.6  # from which on a node is so light that its number is black
LARGE = 300  # nodes, from which on edges are thin
LONGEST_TITLE = 70  # characters


@dataclass(frozen=True)
class Scene:
    """What an animation shows.

    Attributes
    ----------
    title : str
        Of all frames.
    label : str
        What the colors stand for.
    values : float64, shape (num_rounds, num_nodes), from 0 to 1; NaN for a node that has none
    rounds : int64, shape (num_frames,)
        The round of each frame, from 1.
    places : float64, shape (num_nodes, 2), in [0, 1]
    edges : int64, shape (num_edges, 2)
    is_ood : bool, shape (num_nodes,)
    """

    title: str
    label: str
    values: np.ndarray
    rounds: np.ndarray
    places: np.ndarray
    edges: np.ndarray
    is_ood: np.ndarray


def animate(path: str | Path, out: str | Path, quantity: str = "iid_accuracy", fps: float = 4) -> None:
    """Write an animation of a run: a frame for each round, or 500 frames where it has more rounds.

    Parameters
    ----------
    out : path that ends in .gif or .mp4
        An existing file is replaced. An MP4 film needs ffmpeg.
    quantity : "iid_accuracy", "ood_accuracy" or "recall:LABEL"
        What the nodes are colored by, on the range from 0 to 1.
    fps : float
        Rounds a second.

    Raises
    ------
    InputError
        If the log is none, has no round yet or nothing to color by, or the file cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() not in (".gif", ".mp4"):
        raise InputError(f"{out}: an animation is a .gif or an .mp4: end its name in one of them")
    if not FRAMES_A_SECOND[0] <= fps <= FRAMES_A_SECOND[1]:
        raise InputError(f"{fps:g} rounds a second cannot be shown: choose from {FRAMES_A_SECOND[0]} to 50")
    check_output(out, [path])
    ffmpeg = find_ffmpeg() if out.suffix.lower() == ".mp4" else ""
    try:
        import matplotlib  # noqa: F401
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"an animation needs {error.name}: pip install 'mpisim[report]'") from error
    frames = Frames(read_scene(path, quantity))
    with replacing(out) as successor:
        if ffmpeg:
            write_mp4(frames, (WIDTH, HEIGHT), successor, fps, ffmpeg)
        else:
            write_gif(frames, successor, fps, frames.colors())


def read_scene(path: str | Path, quantity: str) -> Scene:
    """Return what is to be seen of a log.

    Raises
    ------
    InputError
        If the quantity is unknown, or the log has no value of it.
    """
    with reading(path) as file:
        values, label = _values(file, quantity)
        if len(values) == 0:
            raise InputError(f"{path}: has no round yet: there is nothing to animate")
        if not np.isfinite(values).any():
            raise InputError(f"{path}: has no {label} in any round: choose another quantity")
        title, status = title_of(file), str(file.attrs["status"])
        if len(title) > LONGEST_TITLE:
            title = f"{title[: LONGEST_TITLE // 2]}…{title[-LONGEST_TITLE // 2 :]}"
        if status != "complete":
            title += f" ({status}, {len(values)} of {configuration(file)['rounds']} rounds)"
        return Scene(
            title=title,
            label=f"{label}, aggregated models" if is_aggregated(file) else label,
            values=values,
            rounds=1
            + np.unique(np.linspace(0, len(values) - 1, min(len(values), MAX_FRAMES)).round().astype(np.int64)),
            places=positions(graph_of(file)),
            edges=edges_of(file),
            is_ood=file["is_ood"][:] > 0,
        )


def _values(file: h5py.File, quantity: str) -> tuple[np.ndarray, str]:
    """Return what nodes are colored by in each round, shape (num_rounds, num_nodes), and what it is called."""
    if quantity in QUANTITIES:
        return score(file, quantity), QUANTITIES[quantity]
    kind, _, label = quantity.partition(":")
    if kind != "recall":
        raise unknown_name("quantity", quantity, [*QUANTITIES, "recall:LABEL"])
    labels = [str(number) for number in file["label"][:]] if "label" in file else []
    if not labels:
        raise InputError(f"{file.filename}: has no recall of labels: choose another quantity")
    if label not in labels:
        raise InputError(f"{file.filename}: has no label {label!r}: choose from {labels[0]} to {labels[-1]}")
    return score(file, "iid_recall")[:, :, labels.index(label)], f"recall of label {label}"


class Frames:
    """The frames of a scene. What no round changes is drawn once; a frame adds the rest to it.

    Iterating gives them in turn: uint8, shape (HEIGHT, WIDTH, 3), red, green and blue; the next one overwrites it.
    """

    def __init__(self, scene: Scene):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        self.scene = scene
        figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI)
        self._canvas: Any = FigureCanvasAgg(figure)  # whose methods have no types
        figure.text(0.03, 0.95, scene.title, fontsize=10, parse_math=False)
        self._heading = figure.text(0.03, 0.905, "", fontsize=12)
        self.axes = figure.add_axes((0.03, 0.08, 0.82, 0.8), xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), aspect="equal")
        self.axes.set_axis_off()
        self._draw_edges()
        self._nodes = [(chosen, self._scatter(chosen)) for chosen in (~scene.is_ood, scene.is_ood)]
        self._numbers = [self._make_numbers()] if len(scene.places) <= NUMBERED else []
        figure.colorbar(self._nodes[0][1], cax=figure.add_axes((0.88, 0.13, 0.025, 0.7)), label=scene.label)
        samples = []
        if np.isnan(scene.values).any():
            samples.append(Line2D([], [], marker="o", ls="", mfc="white", mec="black", label="no value"))
        if scene.is_ood.any():
            sample = Line2D([], [], marker=OOD_MARKER, ls="", mfc="none", mec=OOD_COLOR, mew=2, label="OOD node")
            samples.append(sample)
        if samples:
            figure.legend(handles=samples, loc="lower right", frameon=False)
        track = figure.add_axes((0.03, 0.03, 0.75, 0.008), xlim=(0, 1), xticks=[], yticks=[], facecolor="0.9")
        track.spines[:].set_visible(False)
        [self._progress] = track.barh(0, 0, color="0.4")
        self._changing = [*(nodes for _, nodes in self._nodes), *self._numbers, self._heading, self._progress]
        for artist in self._changing:
            artist.set_animated(True)
        self._still = self._draw_still()

    def __iter__(self) -> Iterator[np.ndarray]:
        for round in self.scene.rounds.tolist():
            yield self.frame(round)

    def frame(self, round: int) -> np.ndarray:
        """Return the frame of a round, counted from 1."""
        values, num_rounds = self.scene.values[round - 1], len(self.scene.values)
        for chosen, nodes in self._nodes:
            nodes.set_array(values[chosen])
        for numbers in self._numbers:
            numbers.set_facecolor(np.where(values < LIGHT, "white", "black").tolist())
        known = values[np.isfinite(values)]
        mean = f", mean {known.mean():.3f}" if len(known) else ""
        self._heading.set_text(f"round {round} of {num_rounds}: {self.scene.label}{mean}")
        self._progress.set_width(round / num_rounds)
        self._canvas.restore_region(self._still)
        for artist in self._changing:
            artist.draw(self._canvas.get_renderer())
        return np.asarray(self._canvas.buffer_rgba())[:, :, :3]

    def _draw_still(self) -> Any:
        """Draw what is not animated; return a copy of those pixels."""
        self._canvas.draw()
        return self._canvas.copy_from_bbox(self._canvas.figure.bbox)

    def _draw_edges(self) -> None:
        from matplotlib.collections import LineCollection

        many = len(self.scene.places) > LARGE
        width, alpha = (0.3, 0.4) if many else (1.0, 0.6)
        segments = self.scene.places[self.scene.edges]
        self.axes.add_collection(LineCollection(list(segments), colors=GRAY, linewidths=width, alpha=alpha))

    def _scatter(self, chosen: np.ndarray) -> PathCollection:
        """Make the nodes of one kind: the OOD nodes are diamonds with a bright edge, and a bit larger."""
        from matplotlib import colormaps

        of_ood = bool(self.scene.is_ood[chosen].any())
        many = len(self.scene.places) > LARGE
        x, y = self.scene.places[chosen].T
        return self.axes.scatter(
            x,
            y,
            s=float(np.clip(24_000 / len(self.scene.places), 9, 420)) * (1.4 if of_ood else 1),
            c=np.zeros(chosen.sum()),
            cmap=colormaps[ACCURACIES].with_extremes(bad="white"),
            vmin=0,
            vmax=1,
            marker=OOD_MARKER if of_ood else "o",
            edgecolors=OOD_COLOR if of_ood else "black",
            linewidths=2.0 if of_ood else 0.2 if many else 0.6,
            plotnonfinite=True,
        )

    def _make_numbers(self) -> PathCollection:
        """Make the nodes' numbers, as outlines in one artist: texts laid out anew would take most of a frame's time."""
        from matplotlib.collections import PathCollection
        from matplotlib.textpath import TextPath
        from matplotlib.transforms import Affine2D

        outlines = [TextPath((0, 0), str(node), size=8) for node in range(len(self.scene.places))]
        centered = [outline.transformed(Affine2D().translate(*-_middle(outline))) for outline in outlines]
        numbers = PathCollection(centered, offsets=self.scene.places, offset_transform=self.axes.transData)
        numbers.set_transform(Affine2D().scale(DPI / 72))  # from points to pixels
        self.axes.add_collection(numbers)
        return numbers

    @staticmethod
    def colors() -> np.ndarray:
        """Return 252 colors for all that a frame has: those of nodes, of lines and letters, of OOD nodes' edges.

        Returns
        -------
        float64, shape (num_colors, 3), in [0, 1]
        """
        from matplotlib import colormaps
        from matplotlib.colors import to_rgb

        share, edge = np.linspace(0, 1, 12)[:, np.newaxis], np.array(to_rgb(OOD_COLOR))
        grays = np.repeat(np.linspace(0, 1, 24)[:, np.newaxis], 3, axis=1)
        nodes = colormaps[ACCURACIES](np.linspace(0, 1, 204))[:, :3]
        return np.concatenate([nodes, grays, share * edge + 1 - share, share * edge])


def _middle(outline: TextPath) -> np.ndarray:
    return np.asarray(outline.get_extents().get_points().mean(axis=0))
