"""Data sets: where they come from, and the recipe (model, optimizer, batch size) that belongs to each.

Only rank 0 loads. Images stay what the files hold, uint8; ranks normalise them (``Dataset.scale`` and ``offset``) after
they arrive.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpisim.data.image_files import from_idx_files, from_pickles
from mpisim.data.labeled import Labeled
from mpisim.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """What the study trains on a data set, and how; each can be overridden by its option."""

    model: str
    optimizer: str
    lr: float
    batch_size: int


@dataclass(frozen=True)
class Dataset:
    """A data set that mpisim knows.

    Attributes
    ----------
    load : function of (data_dir, download) to (training set, test set)
    scale, offset : float
        The model sees pixel / scale - offset.
    num_classes : int
    input_shape : (channels, height, width) of images, (context,) of texts
    trigger_size : int
        The edge of the square that marks an out-of-distribution image, in pixels.
    kind : "image" or "text"
    vocabulary : int
        The number of tokens of a text.
    """

    load: Callable[[Path, bool], tuple[Labeled, Labeled]]
    scale: float
    offset: float
    num_classes: int
    input_shape: tuple[int, ...]
    trigger_size: int
    recipe: Recipe
    kind: str = "image"
    vocabulary: int = 0

    @property
    def num_outputs(self) -> int:
        """The number of things a model chooses from: classes, or the tokens of the vocabulary."""
        return self.vocabulary or self.num_classes


def load_digits(data_dir: Path, download: bool) -> tuple[Labeled, Labeled]:  # noqa: ARG001
    """Return scikit-learn's 1,797 real digits of 8×8 pixels from 0 to 16; every fifth one is for testing.

    Reads the file that scikit-learn holds: importing scikit-learn for it would take longer than five rounds.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise InputError("dataset 'digits' is in scikit-learn, which is missing: pip install scikit-learn")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.int64)  # 64 pixels and the label on each row
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"dataset 'digits': {path} is missing or broken: reinstall scikit-learn") from error
    everything = Labeled(table[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8), table[:, -1])
    is_test = np.arange(len(everything)) % 5 == 4
    return everything.take(np.flatnonzero(~is_test)), everything.take(np.flatnonzero(is_test))


def load_tinymem(data_dir: Path, download: bool) -> tuple[Labeled, Labeled]:  # noqa: ARG001
    """Return TinyMem as the study has it, made on the spot; ``data.tinymem`` makes others."""
    from mpisim.data.tinymem import TinyMem, make_tinymem

    return make_tinymem(TinyMem())


def load_dataset(name: str, data_dir: Path, download: bool, dataset: Dataset | None = None) -> tuple[Labeled, Labeled]:
    """Return the training and the test set of a data set.

    Parameters
    ----------
    name : a name in DATASETS
    dataset : Dataset, optional
        A variant of the one of that name.

    Raises
    ------
    InputError
        If it is not there and cannot be had, or what is there is not this data set.
    """
    dataset = dataset or DATASETS[name]
    train, test = dataset.load(data_dir, download)
    for part, held in (("training", train), ("test", test)):
        where = f"dataset {name!r}: its {part} set"
        if held.inputs.shape[1:] != dataset.input_shape:
            raise InputError(f"{where} has {dataset.kind}s of shape {held.inputs.shape[1:]}, not {dataset.input_shape}")
        if len(held.inputs) != len(held.labels):
            raise InputError(f"{where} has {len(held.inputs)} images but {len(held.labels)} labels")
        if len(held) == 0 or held.labels.min() < 0 or held.labels.max() >= dataset.num_classes:
            raise InputError(f"{where} is empty or has labels outside 0…{dataset.num_classes - 1}")
    return train, test


MLP_RECIPE = Recipe(model="mlp", optimizer="sgd", lr=0.01, batch_size=64)
VGG_RECIPE = Recipe(model="vgg16", optimizer="adam", lr=1e-4, batch_size=64)

DATASETS: dict[str, Dataset] = {
    "cifar10": Dataset(from_pickles("CIFAR10"), 127.5, 1.0, 10, (3, 32, 32), 4, VGG_RECIPE),  # (x/255 - .5) / .5
    "cifar100": Dataset(from_pickles("CIFAR100"), 127.5, 1.0, 100, (3, 32, 32), 4, VGG_RECIPE),
    "digits": Dataset(
        load_digits, 16.0, 0.0, 10, (1, 8, 8), 2, Recipe(model="mlp-small", optimizer="sgd", lr=0.1, batch_size=16)
    ),
    "fmnist": Dataset(from_idx_files("FashionMNIST"), 255.0, 0.0, 10, (1, 28, 28), 4, MLP_RECIPE),
    "mnist": Dataset(from_idx_files("MNIST"), 255.0, 0.0, 10, (1, 28, 28), 4, MLP_RECIPE),
    "tinymem": Dataset(
        load_tinymem,
        1.0,
        0.0,
        5,
        (150,),
        0,
        Recipe(model="gpt2", optimizer="adam", lr=1e-3, batch_size=64),
        kind="text",
        vocabulary=14,
    ),
}
