"""CIFAR's files are read where they lie, from their archive or a download; and none is unpickled that is not known."""

import hashlib
import io
import os
import pickle
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from test_datasets import everything_below, served

from mpisim.data.datasets import load_dataset
from mpisim.errors import InputError
from mpisim.libraries import import_torchvision

CLASSES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
FILES = {
    "cifar10": [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"],
    "cifar100": ["train", "test", "meta"],
}
EVERY_FILE = [(name, file) for name, files in FILES.items() for file in files]


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def archive_of(files, folder):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{file}" if folder else file)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def make_files(name):
    """Return a few generated images and labels, and the files that hold them, as CIFAR's are made."""
    rng = np.random.default_rng(len(name))
    label_key = "labels" if name == "cifar10" else "fine_labels"
    parts, files = {"train": ([], []), "test": ([], [])}, {}
    for file in FILES[name][:-1]:
        images = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
        labels = rng.integers(0, 10 if name == "cifar10" else 100, 4)
        content = {"batch_label": file, "data": images.reshape(4, 3072), label_key: labels.tolist()}
        if name == "cifar100":
            content["coarse_labels"] = [0] * 4
        files[file] = pickle.dumps(content, protocol=2)
        for held, new in zip(parts["test" if "test" in file else "train"], (images, labels), strict=True):
            held.append(new)
    key = "label_names" if name == "cifar10" else "fine_label_names"
    files[FILES[name][-1]] = pickle.dumps({key: ["a thing", "another"]}, protocol=2)
    return files, {part: tuple(map(np.concatenate, arrays)) for part, arrays in parts.items()}


@pytest.fixture
def cifar(monkeypatch, tmp_path_factory):
    """Return a function that makes files, lets torchvision know them, and offers their archive for download."""
    mirrors = tmp_path_factory.mktemp("mirrors")

    def make(name):
        files, parts = make_files(name)
        archive = archive_of(files, FOLDERS[name])
        kind = getattr(import_torchvision().datasets, CLASSES[name])
        assert (kind.base_folder, kind.filename) == (FOLDERS[name], ARCHIVES[name])
        known = {file: md5(content) for file, content in files.items()}
        meta = FILES[name][-1]
        is_test = {file: "test" in file for file in files if file != meta}
        monkeypatch.setattr(kind, "train_list", [[file, known[file]] for file, test in is_test.items() if not test])
        monkeypatch.setattr(kind, "test_list", [[file, known[file]] for file, test in is_test.items() if test])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": known[meta]})
        monkeypatch.setattr(kind, "tgz_md5", md5(archive))
        mirror = mirrors / name
        mirror.write_bytes(archive)
        monkeypatch.setattr(kind, "url", url + name)
        return SimpleNamespace(
            name=name, kind=kind, files=files, parts=parts, archive=archive, mirror=mirror, folder=FOLDERS[name]
        )

    with served(mirrors, monkeypatch) as url:
        yield make


def put(data_dir, made, layout):
    """Write what was made as a folder of files, or as an archive."""
    if layout == "archive":
        (data_dir / ARCHIVES[made.name]).write_bytes(made.archive)
    else:
        (data_dir / made.folder).mkdir()
        for file, content in made.files.items():
            (data_dir / made.folder / file).write_bytes(content)


def assert_is_what_was_made(loaded, made):
    for held, (images, labels) in zip(loaded, made.parts.values(), strict=True):
        assert (held.inputs.dtype, held.labels.dtype) == (np.uint8, np.int64)
        assert held.inputs.flags.c_contiguous
        np.testing.assert_array_equal(held.inputs, images)
        np.testing.assert_array_equal(held.labels, labels)


@pytest.mark.parametrize("name", CLASSES)
def test_files_that_lie_there_are_read_and_nothing_is_written(tmp_path, cifar, name):
    made = cifar(name)
    put(tmp_path, made, "folder")
    before = everything_below(tmp_path)
    assert_is_what_was_made(load_dataset(name, tmp_path, download=False), made)
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("name", CLASSES)
def test_an_archive_that_lies_there_is_unpacked_once(tmp_path, cifar, name, download):
    made = cifar(name)
    put(tmp_path, made, "archive")
    made.mirror.unlink()
    assert_is_what_was_made(load_dataset(name, tmp_path, download), made)
    (tmp_path / ARCHIVES[name]).unlink()
    assert {path.name: path.read_bytes() for path in (tmp_path / made.folder).iterdir()} == made.files
    assert_is_what_was_made(load_dataset(name, tmp_path, download=False), made)


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_not_on_disk_is_downloaded_once(tmp_path, cifar, name):
    made = cifar(name)
    assert_is_what_was_made(load_dataset(name, tmp_path / "new" / "data", download=True), made)
    made.mirror.unlink()
    assert_is_what_was_made(load_dataset(name, tmp_path / "new" / "data", download=True), made)


def test_files_that_are_missing_come_from_the_archive_and_the_others_stay(tmp_path, cifar):
    made = cifar("cifar10")
    put(tmp_path, made, "folder")
    put(tmp_path, made, "archive")
    kept = tmp_path / made.folder / "data_batch_1"
    (tmp_path / made.folder / "data_batch_3").unlink()
    (tmp_path / made.folder / "batches.meta").unlink()
    os.utime(kept, (1, 1))
    assert_is_what_was_made(load_dataset("cifar10", tmp_path, download=False), made)
    assert kept.stat().st_mtime == 1


# What is not what torchvision knows.


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def spoilt(content, other, trap):
    """Return what may lie in the place of a file, of which some would spring the trap."""
    return {
        "corrupted": content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
        "truncated": content[:-1],
        "empty": b"",
        "swapped": other,
        "a trap": trap,
        "a trap in front": trap + content,
    }


WAYS_TO_SPOIL = list(spoilt(b"." * 20, b"", b""))


@pytest.fixture
def trust_all(monkeypatch):
    """Take torchvision's own checks away: what is left is ours."""
    cifar = import_torchvision().datasets.cifar
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").is_dir()


@pytest.mark.parametrize("way", WAYS_TO_SPOIL)
@pytest.mark.parametrize("name, file", EVERY_FILE)
def test_a_spoiled_file_is_refused_by_name_and_not_unpickled(tmp_path, cifar, trust_all, name, file, way):
    made = cifar(name)
    data_dir, marker = tmp_path / "data", tmp_path / "sprung"
    data_dir.mkdir()
    put(data_dir, made, "folder")
    other = made.files[FILES[name][FILES[name].index(file) - 1]]
    path = data_dir / made.folder / file
    path.write_bytes(spoilt(made.files[file], other, pickle.dumps(Trap(marker), protocol=2))[way])
    before = everything_below(tmp_path)
    with pytest.raises(InputError) as raised:
        load_dataset(name, data_dir, download=True)
    assert str(raised.value) == (
        f"{path}: is damaged or not {CLASSES[name]}'s (its MD5 is {md5(path.read_bytes())}, not"
        f" {md5(made.files[file])}): replace it, or delete it to have it fetched again"
    )
    assert everything_below(tmp_path) == before  # the trap's folder is not there


@pytest.mark.parametrize("name, file", EVERY_FILE)
def test_a_file_of_the_other_data_set_is_refused(tmp_path, cifar, name, file):
    made, other = cifar(name), cifar("cifar100" if name == "cifar10" else "cifar10")
    put(tmp_path, made, "folder")
    (tmp_path / made.folder / file).write_bytes(next(iter(other.files.values())))
    with pytest.raises(InputError, match=f"{file}: is damaged or not {CLASSES[name]}'s"):
        load_dataset(name, tmp_path, download=False)


@pytest.mark.parametrize("way", WAYS_TO_SPOIL)
@pytest.mark.parametrize("name", CLASSES)
def test_a_spoiled_archive_is_refused_and_nothing_of_it_is_unpacked(tmp_path, cifar, trust_all, name, way):
    made, other = cifar(name), cifar("cifar100" if name == "cifar10" else "cifar10")
    data_dir, marker = tmp_path / "data", tmp_path / "sprung"
    data_dir.mkdir()
    trapped = archive_of(dict.fromkeys(made.files, pickle.dumps(Trap(marker))), made.folder)
    path = data_dir / ARCHIVES[name]
    path.write_bytes(spoilt(made.archive, other.archive, trapped)[way])
    before = everything_below(tmp_path)
    with pytest.raises(InputError) as raised:
        load_dataset(name, data_dir, download=True)
    assert str(raised.value).startswith(f"{path}: is damaged or not {CLASSES[name]}'s (its MD5 is ")
    assert str(raised.value).endswith("replace it, or delete it to have it fetched again")
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("name, file", EVERY_FILE)
@pytest.mark.parametrize("layout", ["archive", "download"])
def test_a_spoiled_file_in_a_known_archive_is_refused_and_nothing_is_left(
    tmp_path, cifar, trust_all, monkeypatch, name, file, layout
):
    made = cifar(name)
    data_dir, marker = tmp_path / "data", tmp_path / "sprung"
    data_dir.mkdir()
    made.archive = archive_of(made.files | {file: pickle.dumps(Trap(marker))}, made.folder)
    monkeypatch.setattr(made.kind, "tgz_md5", md5(made.archive))
    made.mirror.write_bytes(made.archive)
    if layout == "archive":
        put(data_dir, made, "archive")
    before = everything_below(tmp_path)
    with pytest.raises(InputError, match=f"{made.folder}/{file}: is damaged or not {CLASSES[name]}'s"):
        load_dataset(name, data_dir, download=True)
    assert everything_below(tmp_path) == before


def test_an_archive_cannot_write_outside_its_folder(tmp_path, cifar, monkeypatch):
    made = cifar("cifar100")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    outside = {f"../../{file}": content for file, content in made.files.items()}
    made.archive = archive_of(outside | {"../evil": b"evil", "meta2": b""}, "")
    monkeypatch.setattr(made.kind, "tgz_md5", md5(made.archive))
    put(data_dir, made, "archive")
    assert_is_what_was_made(load_dataset("cifar100", data_dir, download=False), made)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    assert {path.name for path in (data_dir / made.folder).iterdir()} == set(made.files)


def test_a_spoiled_file_beside_a_missing_one_is_refused_before_anything_is_fetched(tmp_path, cifar):
    made = cifar("cifar10")
    put(tmp_path, made, "folder")
    (tmp_path / made.folder / "data_batch_1").unlink()
    (tmp_path / made.folder / "test_batch").write_bytes(b"")
    before = everything_below(tmp_path)
    with pytest.raises(InputError, match="test_batch: is damaged"):
        load_dataset("cifar10", tmp_path, download=True)
    assert everything_below(tmp_path) == before


def test_a_folder_in_a_files_place_cannot_be_read(tmp_path, cifar):
    made = cifar("cifar100")
    put(tmp_path, made, "folder")
    (tmp_path / made.folder / "meta").unlink()
    (tmp_path / made.folder / "meta").mkdir()
    with pytest.raises(InputError, match="cifar-100-python/meta: cannot be read: Is a directory"):
        load_dataset("cifar100", tmp_path, download=False)


# What is not there.


@pytest.mark.parametrize("data_dir", ["", "not/there"])
@pytest.mark.parametrize("name", CLASSES)
def test_without_files_and_download_the_error_says_where_to_put_them(tmp_path, name, data_dir):
    folder = tmp_path / data_dir
    with pytest.raises(InputError) as raised:
        load_dataset(name, folder, download=False)
    assert str(raised.value) == (
        f"{CLASSES[name]}: {folder / FOLDERS[name]} lacks {', '.join(FILES[name])}: put it there,"
        f" or {ARCHIVES[name]} into {folder}, or have it fetched by a run without --no-download (--dry-run is enough)"
    )
    assert not everything_below(tmp_path)


@pytest.mark.parametrize("data_dir", ["", "not/there"])
@pytest.mark.parametrize("offered", ["nothing", "a page", "half"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_download_that_fails_says_where_to_put_the_archive_and_leaves_nothing(
    tmp_path, cifar, monkeypatch, name, offered, data_dir
):
    made = cifar(name)
    made.mirror.write_bytes({"a page": b"<html>", "half": made.archive[: len(made.archive) // 2]}.get(offered, b""))
    if offered == "nothing":
        monkeypatch.setattr(made.kind, "url", (tmp_path / "no-such-file").as_uri())
    folder = tmp_path / data_dir
    with pytest.raises(InputError) as raised:
        load_dataset(name, folder, download=True)
    assert str(raised.value).startswith(
        f"{CLASSES[name]} could not be downloaded: put {ARCHIVES[name]} into {folder} ("
    )
    assert "\n" not in str(raised.value)
    assert not everything_below(tmp_path)
