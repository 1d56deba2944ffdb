"""Pictures to a file that shows one after the other: a GIF by Pillow, an MP4 by ffmpeg."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mpisim.errors import InputError

HOLD = 2000  # milliseconds that a GIF shows its last picture before it starts again


def write_gif(frames: Iterable[np.ndarray], out: Path, fps: float, colors: np.ndarray) -> None:
    """Write a GIF that starts again when it has ended.

    Parameters
    ----------
    frames : uint8 arrays, shape (height, width, 3)
    fps : float
        Frames a second; a GIF counts in hundredths of a second.
    colors : float array, shape (num_colors, 3), in [0, 1], at most 255 of them
        What the frames' colors are rounded to: the same for all, so that nothing flickers. One more is left for what a
        frame does not change.
    """
    from PIL import Image

    palette = Image.new("P", (1, 1))
    palette.putpalette((np.asarray(colors) * 255).round().astype(np.uint8).tobytes())
    first, *others = (Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [round(1000 / fps)] * len(others) + [max(HOLD, round(1000 / fps))]
    first.save(out, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)


def find_ffmpeg() -> str:
    """Return the path of ffmpeg: that on the PATH or, if there is none, that of the package imageio-ffmpeg.

    Raises
    ------
    InputError
        If there is neither.
    """
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ModuleNotFoundError, RuntimeError) as error:
        raise InputError(
            "an .mp4 needs ffmpeg: install it, or pip install imageio-ffmpeg, or write a .gif instead"
        ) from error


def write_mp4(frames: Iterable[np.ndarray], size: Sequence[int], out: Path, fps: float, ffmpeg: str) -> None:
    """Write an MP4 film.

    Parameters
    ----------
    frames : uint8 arrays, shape (height, width, 3)
    size : (int, int)
        Width and height, both even.
    fps : float
        Frames a second.
    ffmpeg : path of the program

    Raises
    ------
    InputError
        If ffmpeg fails.
    """
    given = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", "{}x{}".format(*size), "-framerate", str(fps)]
    wanted = ["-an", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", str(out)]
    command = [ffmpeg, "-loglevel", "error", "-y", *given, "-i", "-", *wanted]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            for frame in frames:
                process.stdin.write(frame.tobytes())
        except BrokenPipeError:  # it has ended, and says why
            pass
        except BaseException:
            process.kill()
            process.communicate()
            raise
        said = process.communicate()[1].decode(errors="replace").split("\n")
    if process.returncode:
        raise InputError(f"{out}: ffmpeg cannot write it: {said[0]}")
