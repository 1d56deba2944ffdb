"""Data sets of images in files: read if they are on disk, downloaded by torchvision if not."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mpisim.data.fetching import fetching
from mpisim.data.idx import read_idx
from mpisim.data.labeled import Labeled
from mpisim.errors import InputError
from mpisim.libraries import import_torchvision

FETCH = "have it fetched by a run without --no-download (--dry-run is enough)"
RAW_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def from_idx_files(class_name: str) -> Callable[[Path, bool], tuple[Labeled, Labeled]]:
    """Return what loads MNIST, or a data set in files like MNIST's, by torchvision's name for it."""

    def load(data_dir: Path, download: bool) -> tuple[Labeled, Labeled]:
        folder = data_dir / class_name / "raw"
        if (data_dir / RAW_FILES[0]).is_file():  # the folder itself holds the files
            folder = data_dir
        if missing := _missing(folder):
            if not download:
                raise InputError(f"{class_name}: {folder} lacks {', '.join(missing)}: put it there, or {FETCH}")
            with fetching(class_name, data_dir, folder) as place:
                _fetch_idx_files(class_name, place, folder)
        try:
            train, train_labels, test, test_labels = (
                read_idx(folder / name, num_dimensions)
                for name, num_dimensions in zip(RAW_FILES, (3, 1) * 2, strict=True)
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder}: a file is truncated or not {class_name}'s: replace the files ({_reason(error)})"
            ) from error
        return (
            Labeled(train[:, np.newaxis], train_labels.astype(np.int64)),
            Labeled(test[:, np.newaxis], test_labels.astype(np.int64)),
        )

    return load


def _missing(folder: Path) -> list[str]:
    return [name for name in RAW_FILES if not (folder / name).is_file()]


def _fetch_idx_files(class_name: str, place: Path, folder: Path) -> None:
    """Have torchvision download what a folder lacks, in another place on the same disk."""
    missing = _missing(folder)
    if not missing:  # while this run waited, another one has fetched them
        return
    kind = getattr(import_torchvision().datasets, class_name)
    try:
        for archive in (folder / f"{name}.gz" for name in RAW_FILES):
            if archive.is_file():  # torchvision takes those that it knows
                shutil.copy(archive, place)
        type(class_name, (kind,), {"raw_folder": str(place)})(root=place, download=True)
        for name in missing:
            (place / name).replace(folder / name)
    except (OSError, RuntimeError, EOFError, zlib.error) as error:
        raise InputError(
            f"{class_name} could not be downloaded: put {', '.join(missing)} into {folder} ({_reason(error)})"
        ) from error


def from_pickles(class_name: str) -> Callable[[Path, bool], tuple[Labeled, Labeled]]:
    """Return what loads CIFAR: files that are pickles, which may do anything when they are loaded.

    So none is loaded before its MD5 is the one that torchvision knows of it.
    """

    def load(data_dir: Path, download: bool) -> tuple[Labeled, Labeled]:
        kind = getattr(import_torchvision().datasets, class_name)
        folder, archive = data_dir / kind.base_folder, data_dir / kind.filename
        known = dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])
        if missing := _unknown(folder, known, class_name):
            if not download and not archive.exists():
                raise InputError(
                    f"{class_name}: {folder} lacks {', '.join(missing)}:"
                    f" put it there, or {archive.name} into {data_dir}, or {FETCH}"
                )
            with fetching(class_name, data_dir, folder) as place:
                _fetch_pickles(kind, place, archive, folder, known)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy 2.4.0 to 2.4.4 find fault with the age of these pickles
            parts = [kind(root=data_dir, train=train) for train in (True, False)]
        train, test = (
            Labeled(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets, dtype=np.int64))
            for part in parts
        )
        return train, test

    return load


def _unknown(folder: Path, known: Mapping[str, str], class_name: str) -> list[str]:
    """Return which files a folder lacks; those that it has are what they should be."""
    missing = [name for name in known if not (folder / name).exists()]
    for name, md5 in known.items():
        if name not in missing:
            _check_md5(folder / name, md5, class_name)
    return missing


def _fetch_pickles(kind: Any, place: Path, archive: Path, folder: Path, known: Mapping[str, str]) -> None:
    """Take what a folder lacks from an archive, which is downloaded if it is not there; in another place at first."""
    missing = _unknown(folder, known, kind.__name__)
    if not missing:  # while this run waited, another one has put them there
        return
    found = archive if archive.exists() else _download(kind, place, archive.parent)
    _check_md5(found, kind.tgz_md5, kind.__name__)
    unpacked = place / "unpacked"
    _unpack(found, unpacked, missing)
    for name in missing:
        _check_md5(unpacked / name, known[name], kind.__name__, shown=folder / name)
    try:
        if found != archive:
            shutil.move(found, archive)
        for name in missing:
            (unpacked / name).replace(folder / name)
    except OSError as error:
        raise InputError(f"{folder}: {kind.__name__} cannot be put there ({_reason(error)})") from error


def _check_md5(path: Path, known: str, class_name: str, shown: Path | None = None) -> None:
    """Raise the error of a file that is not the known one; of one that is to be elsewhere, say where."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{shown or path}: cannot be read: {error.strerror}") from error
    if digest.hexdigest() != known:
        raise InputError(
            f"{shown or path}: is damaged or not {class_name}'s (its MD5 is {digest.hexdigest()}, not {known}):"
            " replace it, or delete it to have it fetched again"
        )


def _download(kind: Any, place: Path, data_dir: Path) -> Path:
    utils = import_torchvision().datasets.utils
    try:
        utils.download_url(kind.url, place, kind.filename, kind.tgz_md5)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise InputError(
            f"{kind.__name__} could not be downloaded: put {kind.filename} into {data_dir} ({_reason(error)})"
        ) from error
    return place / str(kind.filename)


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
        raise InputError(f"{archive}: cannot be unpacked ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
