"""Data sets: where they come from, and the recipe (model, optimizer, batch size) that belongs to each.

Only rank 0 loads. Images stay what the files hold, uint8; ranks normalise them (``Dataset.scale`` and ``offset``) after
they arrive.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import shutil
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpisim.errors import InputError
from mpisim.libraries import import_torchvision


@dataclass(frozen=True)
class Labeled:
    """Labeled samples, as the files hold them.

    Attributes
    ----------
    inputs : uint8, shape (num_samples, channels, height, width); tokens of text: (num_samples, context)
    labels : int64, shape (num_samples,)
    """

    inputs: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def take(self, samples: np.ndarray) -> Labeled:
        """Return some of the samples, in the order given."""
        return Labeled(self.inputs[samples], self.labels[samples])


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


RAW_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def _from_idx_files(class_name: str) -> Callable[[Path, bool], tuple[Labeled, Labeled]]:
    def load(data_dir: Path, download: bool) -> tuple[Labeled, Labeled]:
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
        train, test = (Labeled(part.data.numpy()[:, np.newaxis], part.targets.numpy()) for part in parts)
        return train, test

    return load


def _from_pickles(class_name: str) -> Callable[[Path, bool], tuple[Labeled, Labeled]]:
    """Return what loads CIFAR: files that are pickles, which may do anything when they are loaded.

    So none is loaded before its MD5 is the one that torchvision knows of it.
    """

    def load(data_dir: Path, download: bool) -> tuple[Labeled, Labeled]:
        kind = getattr(import_torchvision().datasets, class_name)
        folder, archive = data_dir / kind.base_folder, data_dir / kind.filename
        known = dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])
        missing = [name for name in known if not (folder / name).exists()]
        for name, md5 in known.items():
            if name not in missing:
                _check_md5(folder / name, md5, class_name)
        if missing:
            if not download and not archive.exists():
                raise InputError(
                    f"{class_name}: {folder} lacks {', '.join(missing)}:"
                    f" put it there, or {archive.name} into {data_dir}, or leave out --no-download"
                )
            with _nothing_left_on_failure(folder, archive):
                if not archive.exists():
                    _download(kind, data_dir)
                _check_md5(archive, kind.tgz_md5, class_name)
                _unpack(archive, folder, missing)
                for name in missing:
                    _check_md5(folder / name, known[name], class_name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy 2.4.0 to 2.4.4 find fault with the age of these pickles
            parts = [kind(root=data_dir, train=train) for train in (True, False)]
        train, test = (
            Labeled(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets, dtype=np.int64))
            for part in parts
        )
        return train, test

    return load


def _check_md5(path: Path, known: str, class_name: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if digest.hexdigest() != known:
        raise InputError(
            f"{path}: is damaged or not {class_name}'s (its MD5 is {digest.hexdigest()}, not {known}):"
            " replace it, or delete it to have it fetched again"
        )


def _download(kind: Any, data_dir: Path) -> None:
    utils = import_torchvision().datasets.utils
    try:
        utils.download_url(kind.url, data_dir, kind.filename, kind.tgz_md5)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise InputError(
            f"{kind.__name__} could not be downloaded: put {kind.filename} into {data_dir} ({_reason(error)})"
        ) from error


def _unpack(archive: Path, folder: Path, names: list[str]) -> None:
    """Write those files of an archive into a folder, wherever in the archive they say they belong."""
    try:
        folder.mkdir(exist_ok=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                source = tar.extractfile(member) if name in names else None
                if source is not None:
                    with source, (folder / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(f"{archive}: cannot be unpacked into {folder} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _nothing_left_on_failure(folder: Path, *files: Path) -> Iterator[None]:
    """If what is done inside fails, take away what it made: all in a folder, some files, and folders on the way."""

    def paths() -> list[Path]:
        return [*folder.glob("*"), *files, folder, *folder.parents]

    before = {path for path in paths() if path.exists()}
    try:
        yield
    except BaseException:
        for path in paths():
            if path not in before and path.exists():
                path.rmdir() if path.is_dir() else path.unlink()
        raise


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
    "cifar10": Dataset(_from_pickles("CIFAR10"), 127.5, 1.0, 10, (3, 32, 32), 4, VGG_RECIPE),  # (x/255 - .5) / .5
    "cifar100": Dataset(_from_pickles("CIFAR100"), 127.5, 1.0, 100, (3, 32, 32), 4, VGG_RECIPE),
    "digits": Dataset(
        load_digits, 16.0, 0.0, 10, (1, 8, 8), 2, Recipe(model="mlp-small", optimizer="sgd", lr=0.1, batch_size=16)
    ),
    "fmnist": Dataset(_from_idx_files("FashionMNIST"), 255.0, 0.0, 10, (1, 28, 28), 4, MLP_RECIPE),
    "mnist": Dataset(_from_idx_files("MNIST"), 255.0, 0.0, 10, (1, 28, 28), 4, MLP_RECIPE),
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
