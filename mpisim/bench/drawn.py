"""Nodes as a rank of a run has them, with the recipes' models and drawn images: nothing is downloaded or read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mpisim.data.datasets import DATASETS
from mpisim.data.labeled import Labeled

if TYPE_CHECKING:
    import torch

    from mpisim.config import Config
    from mpisim.nodes import Nodes

# By the name of a case, the data set whose recipe and form of images it has.
CASES = {"digits": "digits", "mnist": "mnist", "vgg16": "cifar10"}


def drawn_images(dataset: str, count: int) -> Labeled:
    """Return some images of a data set's form, of drawn pixels and labels, the same each time."""
    form = DATASETS[dataset]
    white = round(form.scale * (1 + form.offset))  # the pixel that the model sees as 1
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, white + 1, (count, *form.input_shape), dtype=np.uint8)
    return Labeled(pixels, rng.integers(0, form.num_classes, count))


def drawn_nodes(config: Config, own: np.ndarray, device: torch.device, num_train: int, num_test: int) -> Nodes:
    """Return some nodes with drawn samples of their own, none of them out of distribution.

    Parameters
    ----------
    config : with ``ood`` "none"
    own : int64, shape (num_own,)
        The nodes, ascending.
    num_train : int
        Training samples of each.
    num_test : int
        Images of the test set.
    """
    from mpisim.data.ood import OodSplit
    from mpisim.data.shards import pack
    from mpisim.dealing import NOTHING
    from mpisim.nodes import Nodes

    train = drawn_images(config.dataset, len(own) * num_train)
    shards = [OodSplit(samples, NOTHING) for samples in np.split(np.arange(len(train)), len(own))]
    no_tests = [OodSplit(NOTHING, NOTHING) for _ in own]
    test = pack(drawn_images(config.dataset, num_test), [OodSplit(np.arange(num_test), NOTHING)])
    return Nodes(config, own, pack(train, shards), pack(train, no_tests), test, num_train, device)
