"""An animation has a frame for each round, in which every node has the color of its logged value."""

import json
import re
import stat
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from plain_logs import write_log

from mpisim.analysis import animation, film
from mpisim.analysis.animation import HEIGHT, WIDTH, Frames, animate, read_scene
from mpisim.errors import InputError
from mpisim.storage.variables import logged_variables

TRAINED = logged_variables(trained=True, aggregated=False, epochs=False)
RING = {
    "link_target": [0, 0, 1, 1, 2],
    "link_source": [1, 2, 0, 2, 1],
    "degree": [2, 2, 2],
    "is_ood": [0, 1, 0],
}
ACCURACY = np.array([[0.0, 0.2, 1.0], [0.3, 0.9, 0.5], [0.7, 1.0, 0.05], [0.8, 0.4, 0.6]])
VERMILLION = (213, 94, 0)


@pytest.fixture
def content(log_content):
    log_content.static |= RING
    log_content.attributes = log_content.attributes | {"title": r"a ring for 5 $, or \frac"}  # no formula
    return log_content


@pytest.fixture
def log(tmp_path, content):
    rounds = [content.round(iid_accuracy=accuracy, ood_accuracy=1 - accuracy) for accuracy in ACCURACY]
    return content.write(tmp_path / "run.h5", rounds, "complete", TRAINED)


def within_nodes(log):
    """Return a pixel, (row, column), of each node: left of its number."""
    frames = Frames(read_scene(log, "iid_accuracy"))
    x, y = frames.axes.transData.transform(frames.scene.places).T
    return np.round(HEIGHT - y).astype(int), np.round(x - 9).astype(int)


def colors_of(values):
    return colormaps["cividis"](values)[..., :3] * 255


def test_in_each_frame_every_node_has_the_color_of_its_value_in_that_round(log):
    frames, pixels = Frames(read_scene(log, "iid_accuracy")), within_nodes(log)
    for frame, values in zip(frames, ACCURACY, strict=True):
        assert frame.shape == (HEIGHT, WIDTH, 3)
        np.testing.assert_allclose(frame[pixels], colors_of(values), atol=1)


@pytest.mark.parametrize("quantity", ["iid_accuracy", "ood_accuracy", "recall:2"])
def test_a_gif_has_a_frame_for_each_round_with_the_values_of_the_quantity(tmp_path, content, log, quantity):
    recall = np.zeros((3, 4))
    rounds = []
    for accuracy in ACCURACY:
        recall[:, 2] = accuracy[::-1]
        rounds.append(content.round(iid_accuracy=accuracy, ood_accuracy=1 - accuracy, iid_recall=recall.copy()))
    content.write(tmp_path / "other.h5", rounds, "complete", TRAINED)
    animate(tmp_path / "other.h5", tmp_path / "out" / "ring.gif", quantity, fps=5)
    wanted = {"iid_accuracy": ACCURACY, "ood_accuracy": 1 - ACCURACY, "recall:2": ACCURACY[:, ::-1]}[quantity]
    pixels = within_nodes(log)
    with Image.open(tmp_path / "out" / "ring.gif") as gif:
        assert (gif.format, gif.size, gif.n_frames, gif.info["loop"]) == ("GIF", (720, 640), 4, 0)
        for number, values in enumerate(wanted):
            gif.seek(number)
            assert gif.info["duration"] == (200 if number < 3 else 2000)  # the last one stays
            frame = np.array(gif.convert("RGB"))
            np.testing.assert_allclose(frame[pixels], colors_of(values), atol=6)
            assert tuple(frame[2, 2]) == (255, 255, 255)


def test_only_the_ood_node_is_a_diamond_with_a_bright_edge(log):
    frames = Frames(read_scene(log, "iid_accuracy"))
    frame = frames.frame(1)
    places = frames.axes.transData.transform(frames.scene.places)
    bright = np.abs(frame.astype(int) - VERMILLION).max(axis=2) < 30
    rows, columns = np.nonzero(bright[: HEIGHT - 100])  # not those of the legend
    from_center = np.abs(columns - places[1, 0]) + np.abs(HEIGHT - rows - places[1, 1])
    assert len(rows) > 50
    np.testing.assert_allclose(from_center, from_center.mean(), atol=4)  # a diamond: equally far in steps right and up


def test_the_bar_below_grows_with_the_rounds(log):
    row = HEIGHT - round((0.03 + 0.004) * HEIGHT)
    dark = [int((frame[row, :600] < 120).all(axis=1).sum()) for frame in Frames(read_scene(log, "iid_accuracy"))]
    np.testing.assert_allclose(dark, 0.75 * WIDTH * np.array([0.25, 0.5, 0.75, 1]), atol=2)


def test_a_frame_does_not_depend_on_the_frames_before(log):
    scene = read_scene(log, "iid_accuracy")
    many = Frames(scene)
    many.frame(4)
    np.testing.assert_array_equal(many.frame(2), Frames(scene).frame(2))


@pytest.mark.parametrize("is_ood", [[0, 0, 0], [1, 1, 1]])
def test_where_no_node_or_every_node_is_ood_the_colors_hold_as_well(tmp_path, content, is_ood):
    content.static["is_ood"] = is_ood
    log = content.write(tmp_path / "run.h5", [content.round(iid_accuracy=ACCURACY[1])], variables=TRAINED)
    frame = Frames(read_scene(log, "iid_accuracy")).frame(1)
    np.testing.assert_allclose(frame[within_nodes(log)], colors_of(ACCURACY[1]), atol=1)


def test_a_node_without_a_value_is_white(tmp_path, content):
    log = content.write(tmp_path / "run.h5", [content.round(iid_accuracy=[0.5, 0.5, np.nan])], variables=TRAINED)
    frame = Frames(read_scene(log, "iid_accuracy")).frame(1)
    np.testing.assert_allclose(frame[within_nodes(log)], [*colors_of(np.array([0.5, 0.5])), [255] * 3], atol=1)


def test_where_only_aggregated_models_were_tested_those_are_shown_and_named(tmp_path, content):
    variables = logged_variables(trained=False, aggregated=True, epochs=False)
    rounds = [content.round(iid_accuracy_aggregated=accuracy) for accuracy in ACCURACY]
    scene = read_scene(content.write(tmp_path / "run.h5", rounds, variables=variables), "iid_accuracy")
    np.testing.assert_array_equal(scene.values, ACCURACY)
    assert scene.label == "IID accuracy, aggregated models"


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_a_run_that_is_not_complete_is_shown_as_far_as_it_goes_and_says_so(tmp_path, content, status):
    content.attributes |= {"config": json.dumps({"rounds": 40})}
    log = content.write(tmp_path / "run.h5", [content.round() for _ in range(3)], status, TRAINED)
    scene = read_scene(log, "ood_accuracy")
    assert scene.rounds.tolist() == [1, 2, 3]
    assert scene.title.endswith(f"({status}, 3 of 40 rounds)")


def test_of_very_many_rounds_some_are_shown_from_the_first_to_the_last(tmp_path, content, monkeypatch):
    monkeypatch.setattr(animation, "MAX_FRAMES", 3)
    log = content.write(tmp_path / "run.h5", [content.round() for _ in range(7)], variables=TRAINED)
    assert read_scene(log, "iid_accuracy").rounds.tolist() == [1, 4, 7]


def test_a_long_title_is_shortened_in_its_middle(tmp_path, content):
    content.attributes |= {"title": "degree on " + "x" * 200 + ".txt, digits, seed 0"}
    scene = read_scene(content.write(tmp_path / "run.h5", [content.round()], "complete", TRAINED), "iid_accuracy")
    assert scene.title == "degree on " + "x" * 25 + "…" + "x" * 15 + ".txt, digits, seed 0"


@pytest.mark.parametrize(
    ("out", "quantity", "fps", "message"),
    [
        ("ring.webm", "iid_accuracy", 4, r"ring\.webm: an animation is a \.gif or an \.mp4"),
        ("ring.gif", "own_accuracy", 4, "unknown quantity 'own_accuracy': choose from iid_accuracy, ood_accuracy, rec"),
        ("ring.gif", "recall", 4, "has no label '': choose from 0 to 3"),
        ("ring.gif", "recall:4", 4, r"run\.h5: has no label '4': choose from 0 to 3"),
        ("ring.gif", "recall:two", 4, "has no label 'two': choose from 0 to 3"),
        ("ring.gif", "iid_accuracy", 0, "0 rounds a second cannot be shown: choose from 0.1 to 50"),
        ("ring.gif", "iid_accuracy", float("nan"), "nan rounds a second cannot be shown"),
        ("run.h5/ring.gif", "iid_accuracy", 4, r"run\.h5/ring\.gif: cannot be written"),
        ("folder.gif", "iid_accuracy", 4, r"folder\.gif: is a folder"),
        ("same.gif", "iid_accuracy", 4, r"same\.gif: is one of the logs"),
    ],
)
def test_what_cannot_be_made_is_told_in_one_line_and_nothing_is_written(tmp_path, log, out, quantity, fps, message):
    (tmp_path / "folder.gif").mkdir()
    (tmp_path / "same.gif").symlink_to(log)
    before, content = sorted(tmp_path.rglob("*")), log.read_bytes()
    with pytest.raises(InputError, match=message) as raised:
        animate(log, tmp_path / out, quantity, fps)
    assert "\n" not in str(raised.value)
    assert (sorted(tmp_path.rglob("*")), log.read_bytes()) == (before, content)


def test_a_log_without_a_round_or_without_ood_accuracy_has_nothing_to_animate(tmp_path, content):
    empty = content.write(tmp_path / "empty.h5", [], variables=TRAINED)
    with pytest.raises(InputError, match=r"empty\.h5: has no round yet"):
        animate(empty, tmp_path / "ring.gif")
    clean = content.write(tmp_path / "clean.h5", [content.round(ood_accuracy=[np.nan] * 3)], variables=TRAINED)
    with pytest.raises(InputError, match=r"clean\.h5: has no OOD accuracy in any round: choose another quantity"):
        animate(clean, tmp_path / "ring.gif", "ood_accuracy")


def test_a_missing_library_is_named(tmp_path, log, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"an animation needs matplotlib: pip install 'mpisim\[report\]'"):
        animate(log, tmp_path / "ring.gif")


def test_an_older_gif_gives_way(tmp_path, log):
    (tmp_path / "ring.gif").write_text("older")
    animate(log, tmp_path / "ring.gif")
    with Image.open(tmp_path / "ring.gif") as gif:
        assert gif.n_frames == 4
    assert {path.name for path in tmp_path.iterdir()} == {"run.h5", "ring.gif"}


def test_an_mp4_has_a_frame_for_each_round_and_its_colors(tmp_path, log):
    try:
        ffmpeg = film.find_ffmpeg()
    except InputError as error:
        pytest.skip(str(error))
    animate(log, tmp_path / "ring.mp4", fps=2.5)
    command = [ffmpeg, "-i", tmp_path / "ring.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run(command, capture_output=True, check=True)
    assert re.search(r"yuv420p.*, 720x640.*, 2\.50? fps", read.stderr.decode())
    frames = np.frombuffer(read.stdout, dtype=np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
    pixels = within_nodes(log)
    for frame, values in zip(frames, ACCURACY, strict=True):
        np.testing.assert_allclose(frame[pixels], colors_of(values), atol=20)  # films spare on colors


def test_without_any_ffmpeg_the_line_says_what_to_install(tmp_path, log, monkeypatch):
    monkeypatch.setattr(film.shutil, "which", lambda *_: None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"an \.mp4 needs ffmpeg: install it, or pip install imageio-ffmpeg, or write"):
        animate(log, tmp_path / "ring.mp4")


def test_what_the_ffmpeg_on_the_path_complains_of_is_told_and_the_older_film_stays(tmp_path, log, monkeypatch):
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor last in "$@"; do :; done\necho half > "$last"\necho "no encoder" >&2\nexit 1\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    (tmp_path / "ring.mp4").write_text("older")
    with pytest.raises(InputError, match="ffmpeg cannot write it: no encoder"):
        animate(log, tmp_path / "ring.mp4")
    assert (tmp_path / "ring.mp4").read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == {"run.h5", "ring.mp4", "bin"}


@pytest.mark.parametrize("missing, told", [(True, ["no value", "OOD node"]), (False, ["OOD node"])])
def test_the_legend_tells_what_a_white_node_is_where_there_is_one(tmp_path, missing, told):
    accuracies = [[0.25, np.nan if missing else 0.5, 0.75, 1]]
    frames = Frames(read_scene(write_log(tmp_path / "run.h5", iid=accuracies), "iid_accuracy"))
    assert [text.get_text() for text in frames.axes.figure.legends[0].get_texts()] == told
