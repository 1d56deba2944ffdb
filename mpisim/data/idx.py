"""The idx format, which MNIST's files have: the type and the number of dimensions, the sizes, the values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

UINT8 = 0x08  # the format's code for unsigned bytes


def read_idx(path: Path, num_dimensions: int) -> np.ndarray:
    """Return the array in an idx file of unsigned bytes.

    Reads it here: importing torchvision for it would take a second and a half.

    Raises
    ------
    ValueError
        If the file is no such file, or shorter or longer than it says.
    OSError
        If it cannot be read.

    References
    ----------
    LeCun et al., "The MNIST database of handwritten digits", which describes the format.
    """
    content = path.read_bytes()
    if content[:4] != bytes([0, 0, UINT8, num_dimensions]):
        raise ValueError(f"{path.name} is no idx file of unsigned bytes in {num_dimensions} dimensions")
    start = 4 + 4 * num_dimensions
    if len(content) < start:
        raise ValueError(f"{path.name} ends in its header")
    sizes = np.frombuffer(content, dtype=">u4", count=num_dimensions, offset=4).tolist()
    wanted = int(np.prod(sizes, dtype=object))
    if len(content) - start != wanted:
        raise ValueError(f"{path.name} holds {len(content) - start} bytes where its header promises {wanted}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(sizes)
