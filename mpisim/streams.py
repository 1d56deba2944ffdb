"""Random numbers by address: no draw depends on how many draws came before it, or on which rank makes it.

Each stream is keyed by (seed, purpose, node, round). The generator is Philox, whose state is a counter: the address
*is* the counter, so that a stream costs nothing to reach, two addresses never share a number (each has 2^128 of its
own), and a resumed run needs no saved generator.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for. The values are part of every result: never renumber them, only add."""

    PARTITION = 1
    OOD_SAMPLES = 2
    OOD_TEST = 3
    INITIAL_MODEL = 4
    DATA_ORDER = 5
    RANDOM_WEIGHTS = 6
    LINKS = 7
    PARTICIPATION = 8
    DROPOUT = 9
    AUGMENTATION = 10
    LOCAL_SPLIT = 11
    OOD_CHANGE = 12
    OOD_TEST_CHANGE = 13


def stream(seed: int, purpose: Purpose, *, node: int = 0, round: int = 0) -> np.random.Generator:
    """Return the generator at an address.

    Parameters
    ----------
    seed : int, 0 ≤ seed < 2^64
    purpose : Purpose
    node, round : int, 0 or more
        Zero where the purpose has no node or no round. Rounds count from 1.

    >>> first = stream(0, Purpose.DATA_ORDER, node=3, round=7).random(2)
    >>> again = stream(0, Purpose.DATA_ORDER, node=3, round=7).random(2)
    >>> bool((first == again).all())
    True
    """
    key, counter = np.array([seed, purpose], dtype=np.uint64), np.array([0, 0, node, round], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def torch_seed(seed: int, purpose: Purpose, *, node: int = 0, round: int = 0) -> int:
    """Return the seed of torch's own generator at an address, for what only torch can draw (a module's weights)."""
    return int(stream(seed, purpose, node=node, round=round).integers(2**63))
