"""Runs that want the same data set at once: one of them fetches it, whatever becomes of the others."""

import errno
import fcntl
import functools
import gzip
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from test_cifar import ARCHIVES, FOLDERS, archive_of, make_files, md5
from test_datasets import ALL_FILES, PARTS, QuietHandler, everything_below, idx

from mpisim.data.datasets import load_dataset
from mpisim.libraries import import_torchvision

PATIENCE = 120.0  # seconds, for what takes some five
CLASSES = {"mnist": "MNIST", "cifar10": "CIFAR10"}

# A process that knows of this data set what the test tells it, and loads it.
LOADS = """
import json, sys
from pathlib import Path
from mpisim.data.datasets import load_dataset
from mpisim.errors import InputError
from mpisim.libraries import import_torchvision
name, class_name, known = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for attribute, value in known.items():
    setattr(getattr(import_torchvision().datasets, class_name), attribute, value)
try:
    print([part.inputs.sum().item() for part in load_dataset(name, Path("new/data"), True)])
except InputError as error:
    sys.exit(f"refused: {error}")
"""


class Mirror:
    """A server of this computer's, which can be held up at what it is asked for first.

    Attributes
    ----------
    asked : how many times each file was asked for
    first : set, once any was
    meanwhile : function
        Is called before the first answer.
    """

    def __init__(self, folder: Path):
        self.folder, self.asked, self.first = folder, Counter(), threading.Event()
        self.meanwhile = lambda: None
        mirror = self

        class Handler(QuietHandler):
            def do_GET(self):
                mirror.asked[self.path.lstrip("/")] += 1
                if not mirror.first.is_set():
                    mirror.first.set()
                    mirror.meanwhile()
                with suppress(ConnectionError):  # whoever asked has died
                    super().do_GET()

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def offer(self, name):
        """Put a data set there; return what torchvision is to know of it, and the sums of its images."""
        if name == "mnist":
            arrays = [array for part in PARTS.values() for array in part]
            contents = {f"{file}.gz": gzip.compress(idx(array)) for file, array in zip(ALL_FILES, arrays, strict=True)}
            known = {"mirrors": [self.url], "resources": [[file, md5(content)] for file, content in contents.items()]}
            sums = [int(images.astype(int).sum()) for images, _ in PARTS.values()]
        else:
            files, parts = make_files(name)
            contents = {ARCHIVES[name]: archive_of(files, FOLDERS[name])}
            *of_training, of_test, meta = ([file, md5(content)] for file, content in files.items())
            key = getattr(import_torchvision().datasets, CLASSES[name]).meta["key"]
            known = {"train_list": of_training, "test_list": [of_test]}
            known |= {"meta": {"filename": meta[0], "key": key, "md5": meta[1]}, "url": self.url + ARCHIVES[name]}
            known |= {"tgz_md5": md5(contents[ARCHIVES[name]])}
            sums = [int(images.astype(int).sum()) for images, _ in parts.values()]
        for file, content in contents.items():
            (self.folder / file).write_bytes(content)
        return known, sums


@pytest.fixture
def mirror(tmp_path_factory, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    made = Mirror(tmp_path_factory.mktemp("mirror"))
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def know(monkeypatch):
    """Return a function that tells torchvision, in this process, of a data set."""

    def tell(name, known):
        kind = getattr(import_torchvision().datasets, CLASSES[name])
        for attribute, value in known.items():
            monkeypatch.setattr(kind, attribute, value)

    return tell


def times_fetched(mirror, name):
    """Return how many times what was asked for is what one run asks for: torchvision may ask twice."""
    before = Counter(mirror.asked)
    load_dataset(name, Path("undisturbed"), True)
    [times] = {before[file] / count for file, count in (mirror.asked - before).items()}
    shutil.rmtree("undisturbed")
    return times


@pytest.fixture
def start():
    """Return a function that starts a process which loads a data set."""
    started = []

    def begin(name, known):
        command = [sys.executable, "-c", LOADS, name, CLASSES[name], json.dumps(known)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def files_of(name):
    """Return what is to be on disk in the end, and nothing else."""
    if name == "mnist":
        return {f"new/data/MNIST/raw/{file}" for file in ALL_FILES}
    return {f"new/data/{ARCHIVES[name]}", *(f"new/data/{FOLDERS[name]}/{file}" for file in make_files(name)[0])}


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("end", ["done", "killed", "refused"])
@pytest.mark.parametrize("name", CLASSES)
def test_the_second_of_two_runs_waits_for_the_first(tmp_path, mirror, know, start, name, end):
    """It takes the files that the first one has fetched, or fetches them itself if that came to a bad end."""
    known, sums = mirror.offer(name)
    go_on = threading.Event()
    mirror.meanwhile = lambda: go_on.wait(PATIENCE)
    wrong = {"mirrors": [f"{mirror.url}none/"], "url": f"{mirror.url}none"} if end == "refused" else {}
    first = start(name, known | {key: value for key, value in wrong.items() if key in known})
    assert mirror.first.wait(PATIENCE)
    second = start(name, known)
    line = second.stderr.readline()
    assert line == f"another run fetches {CLASSES[name]} into new/data: waiting for it\n"
    if end == "killed":
        first.kill()
        first.wait(PATIENCE)
    else:
        go_on.set()
    printed, errors = second.communicate(timeout=PATIENCE)
    go_on.set()
    assert (second.returncode, printed) == (0, f"{sums}\n"), errors
    printed, errors = first.communicate(timeout=PATIENCE)
    if end == "done":
        assert (first.returncode, printed) == (0, f"{sums}\n"), errors
        know(name, known)
        assert times_fetched(mirror, name) == 1
    elif end == "refused":
        assert first.returncode == 1
        assert f"refused: {CLASSES[name]} could not be downloaded: put " in errors
    left = files_below(tmp_path)
    if end == "killed":  # it could not tidy up what it had begun
        left = {file for file in left if f"/.{CLASSES[name]}-" not in file}
    assert left == files_of(name)


@pytest.mark.parametrize("name", CLASSES)
def test_without_locks_each_run_fetches_for_itself_and_harms_no_other(tmp_path, mirror, know, monkeypatch, name):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    known, sums = mirror.offer(name)
    know(name, known)
    loaded = []

    def load():
        loaded.append([int(part.inputs.astype(int).sum()) for part in load_dataset(name, Path("new/data"), True)])

    mirror.meanwhile = load  # a whole second run, while the first waits for an answer
    load()
    assert loaded == [sums] * 2
    assert times_fetched(mirror, name) == 2
    assert files_below(tmp_path) == files_of(name)


def test_a_run_that_fails_leaves_what_another_has_put_beside_it(tmp_path, mirror, know):
    known, _ = mirror.offer("mnist")
    know("mnist", known)
    (mirror.folder / f"{ALL_FILES[-1]}.gz").write_bytes(b"<html>please log in</html>")
    others = Path("new/data/MNIST/raw") / ALL_FILES[1]
    mirror.meanwhile = lambda: others.write_bytes(b"of another run")
    with pytest.raises(ValueError, match="MNIST could not be downloaded"):
        load_dataset("mnist", Path("new/data"), True)
    assert {path: content for path, content in everything_below(tmp_path).items() if content is not None} == {
        tmp_path / others: b"of another run"
    }


def test_archives_that_lie_there_are_not_fetched_again(tmp_path, mirror, know):
    known, sums = mirror.offer("mnist")
    know("mnist", known)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file, _ in known["resources"]:
        (mirror.folder / file).replace(folder / file)
    loaded = load_dataset("mnist", tmp_path, True)
    assert [int(part.inputs.astype(int).sum()) for part in loaded] == sums
    assert not mirror.asked
    np.testing.assert_array_equal(loaded[0].labels, PARTS["train"][1])


def test_a_folder_that_cannot_be_written_is_one_line(mirror):
    mirror.offer("mnist")
    with pytest.raises(ValueError, match=r"^/proc/data/MNIST/raw: cannot be written, to put MNIST there: \w") as raised:
        load_dataset("mnist", Path("/proc/data"), True)
    assert "\n" not in str(raised.value)
    assert not mirror.asked
