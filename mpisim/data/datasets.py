"""Data sets: where they come from, and the recipe (model, optimizer, batch size) that belongs to each.

Only rank 0 loads. Images stay what the files hold, uint8; ranks normalise them (``Dataset.scale``) after they arrive.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpisim.errors import InputError


@dataclass(frozen=True)
class Images:
    """Labeled images.

    Attributes
    ----------
    images : uint8, shape (num_samples, channels, height, width)
    labels : int64, shape (num_samples,)
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def take(self, samples: np.ndarray) -> Images:
        """Return some of the samples, in the order given."""
        return Images(self.images[samples], self.labels[samples])


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
    scale : float
        A pixel divided by this is what the model sees.
    num_classes : int
    image_shape : (channels, height, width)
    trigger_size : int
        The edge of the square that marks an out-of-distribution image, in pixels.
    """

    load: Callable[[Path, bool], tuple[Images, Images]]
    scale: float
    num_classes: int
    image_shape: tuple[int, int, int]
    trigger_size: int
    recipe: Recipe


def load_digits(data_dir: Path, download: bool) -> tuple[Images, Images]:  # noqa: ARG001
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
    everything = Images(table[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8), table[:, -1])
    is_test = np.arange(len(everything)) % 5 == 4
    return everything.take(np.flatnonzero(~is_test)), everything.take(np.flatnonzero(is_test))


RAW_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def _from_torchvision(class_name: str) -> Callable[[Path, bool], tuple[Images, Images]]:
    def load(data_dir: Path, download: bool) -> tuple[Images, Images]:
        kind = getattr(import_torchvision().datasets, class_name)
        folder = data_dir / class_name / "raw"
        if (data_dir / RAW_FILES[0]).is_file():  # the folder itself holds the files
            folder = data_dir
            kind = type(class_name, (kind,), {"raw_folder": str(data_dir)})
        missing = ", ".join(name for name in RAW_FILES if not (folder / name).is_file())
        if missing:
            if not download:
                raise InputError(f"{class_name}: {folder} lacks {missing}: put it there, or leave out --no-download")
            with _nothing_left_on_failure(folder):
                try:
                    kind(root=data_dir, download=True)
                except (OSError, RuntimeError, EOFError, zlib.error) as error:
                    raise InputError(
                        f"{class_name} could not be downloaded: put {missing} into {folder} ({_reason(error)})"
                    ) from error
        try:
            parts = [kind(root=data_dir, train=train) for train in (True, False)]
        except (OSError, RuntimeError, ValueError, TypeError, AssertionError, LookupError, EOFError) as error:
            raise InputError(
                f"{folder}: a file is truncated or not {class_name}'s: replace the files ({_reason(error)})"
            ) from error
        train, test = (Images(part.data.numpy()[:, np.newaxis], part.targets.numpy()) for part in parts)
        return train, test

    return load


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _nothing_left_on_failure(folder: Path) -> Iterator[None]:
    """If what is done inside fails, take away every file and folder that it made below, or on the way to, a folder."""
    parents = [folder, *folder.parents]
    before = {path for path in (*parents, *folder.glob("*")) if path.exists()}
    try:
        yield
    except BaseException:
        for path in (*folder.glob("*"), *parents):
            if path not in before and path.exists():
                path.rmdir() if path.is_dir() else path.unlink()
        raise


def load_dataset(name: str, data_dir: Path, download: bool) -> tuple[Images, Images]:
    """Return the training and the test set of a data set in DATASETS.

    Raises
    ------
    InputError
        If it is not there and cannot be had, or what is there is not this data set.
    """
    dataset = DATASETS[name]
    train, test = dataset.load(data_dir, download)
    for part, held in (("training", train), ("test", test)):
        where = f"dataset {name!r}: its {part} set"
        if held.images.shape[1:] != dataset.image_shape:
            raise InputError(f"{where} has images of shape {held.images.shape[1:]}, not {dataset.image_shape}")
        if len(held.images) != len(held.labels):
            raise InputError(f"{where} has {len(held.images)} images but {len(held.labels)} labels")
        if len(held) == 0 or held.labels.min() < 0 or held.labels.max() >= dataset.num_classes:
            raise InputError(f"{where} is empty or has labels outside 0…{dataset.num_classes - 1}")
    return train, test


def import_torchvision() -> Any:
    """Return torchvision, also where its build does not fit torch's.

    A torchvision made for CUDA beside a CPU-only torch fails at import, because it registers shapes for two operators
    that its missing library would have declared. Declared first, it imports; the data sets need neither.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        # The declarations last as long as the object: torchvision keeps it.
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision._declared_operators = library
    return torchvision


MLP_RECIPE = Recipe(model="mlp", optimizer="sgd", lr=0.01, batch_size=64)

DATASETS: dict[str, Dataset] = {
    "digits": Dataset(
        load_digits, 16.0, 10, (1, 8, 8), 2, Recipe(model="mlp-small", optimizer="sgd", lr=0.1, batch_size=16)
    ),
    "fmnist": Dataset(_from_torchvision("FashionMNIST"), 255.0, 10, (1, 28, 28), 4, MLP_RECIPE),
    "mnist": Dataset(_from_torchvision("MNIST"), 255.0, 10, (1, 28, 28), 4, MLP_RECIPE),
}
