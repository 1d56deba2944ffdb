"""What a run writes: its log, of which the first rounds are made in memory, and its checkpoints.

How long that takes is found out with a file that has no name, in the folder where the log would be.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpisim.config import Config
from mpisim.estimate.model import Disk
from mpisim.storage.image import Image, make_variables
from mpisim.storage.variables import logged_variables

FIRST_ROUNDS = 3  # that are made to see how large a log is
CHUNK_INDEX_BYTES = 60  # of a chunk in HDF5's trees
WRITTEN_BYTES = 2**23  # to find out how fast a disk is
HEADER_BYTES = 90  # of each array in a checkpoint's file, and of each file in its manifest


def count_disk(
    config: Config,
    sizes: Mapping[str, int],
    attributes: Mapping[str, str],
    node_bytes: int,
    num_arrays: int,
    speed: tuple[float, float],
    hosts: int = 1,
) -> Disk:
    """Return what a run writes, and how long that takes.

    Parameters
    ----------
    sizes : of the log's dimensions
    attributes : the log's
    node_bytes : of a node's arrays in a checkpoint
    num_arrays : how many these are
    speed : from ``write_speed``
    hosts : int
        Each of which writes its checkpoints at this speed.
    """
    log_bytes, mean_bytes, append = log_growth(config, sizes, attributes)
    latency, bandwidth = speed
    checkpoint = checkpoint_bytes(config, sizes["node"], sizes["rank"], node_bytes, num_arrays)
    return Disk(
        log_bytes=log_bytes,
        log_seconds=append + latency + mean_bytes / bandwidth,
        checkpoint_bytes=checkpoint,
        num_checkpoints=num_checkpoints(config),
        checkpoint_seconds=3 * latency
        + checkpoint / hosts / bandwidth,  # files, manifest, folders: one after the other
    )


def num_checkpoints(config: Config) -> int:
    """Return how many checkpoints a run writes.

    >>> [num_checkpoints(Config(rounds=20, checkpoint_every=every)) for every in (5, 6, 0)]
    [4, 4, 1]
    """
    every = config.checkpoint_every
    return len({config.rounds, *(range(every, config.rounds + 1, every) if every else ())})


def checkpoint_bytes(config: Config, num_nodes: int, num_ranks: int, node_bytes: int, num_arrays: int) -> int:
    """Return the bytes of one checkpoint: a file of each rank, and the manifest."""
    options = len(json.dumps(config.as_dict()))
    manifest = options + num_ranks * HEADER_BYTES + len(json.dumps(list(range(num_nodes))))
    return num_nodes * node_bytes + num_ranks * num_arrays * HEADER_BYTES + manifest


def log_growth(config: Config, sizes: Mapping[str, int], attributes: Mapping[str, str]) -> tuple[int, float, float]:
    """Return a log's bytes when the run is complete, its mean over the rounds, and the seconds to append one.

    A log is written whole each round. Its first rounds are made here; from then on it grows by whole chunks.
    """
    variables = logged_variables(**config.moments)
    shapes = {name: tuple(sizes[dim] for dim in each.dims if dim != "round") for name, each in variables.items()}
    fixed = {name: np.zeros(shapes[name]) for name, each in variables.items() if each.dims[0] != "round"}
    image = Image()
    image.file.attrs.update(attributes)
    make_variables(image.file, variables, dict(sizes) | {"round": 0}, fixed)
    values = {name: np.zeros(shapes[name]) for name in image.growing if name != "round"}
    started = time.perf_counter()
    for round in range(1, FIRST_ROUNDS + 1):
        for name, value in (("round", round), *values.items()):
            image.growing[name].append(value)
    append = (time.perf_counter() - started) / FIRST_ROUNDS
    rounds = np.arange(1, config.rounds + 1)
    lengths = np.full(len(rounds), float(_length(image)))
    for name in image.growing:
        dataset = image.file[name]
        chunk = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize + CHUNK_INDEX_BYTES
        lengths += chunk * (-(-rounds // dataset.chunks[0]) - -(-FIRST_ROUNDS // dataset.chunks[0]))
    return int(lengths[-1]), float(lengths.mean()), append


def _length(image: Image) -> int:
    with image.content() as content:
        return len(content)


def write_speed(folder: Path) -> tuple[float, float]:
    """Return the seconds until a small file is on disk, and the bytes per second, with their checksum, of a large one.

    Parameters
    ----------
    folder : Path
        If it is not there, the nearest above it that is.
    """
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    times = []
    for size in (1, WRITTEN_BYTES):
        content = np.arange(size, dtype=np.uint8).tobytes()
        with tempfile.TemporaryFile(dir=place) as file:
            started = time.perf_counter()
            zlib.crc32(content)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    latency, whole = times
    return latency, WRITTEN_BYTES / max(whole - latency, whole / 10)
