"""Checkpoints: what is written is read back on any ranks, and whatever happens to the files, an older one is whole."""

import errno
import itertools
import json
import os
import pickle
import re
import resource
import shutil
import stat
import subprocess
import sys
import tracemalloc
import zlib
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import mpisim.storage.checkpoint
from mpisim.storage.checkpoint import (
    BadCheckpoint,
    Shard,
    checkpoint_folder,
    checkpoints,
    commit,
    remove,
    write_shard,
)

OPTIONS = {"strategy": "degree", "lr": 0.1, "seed": 0, "ood_node": None, "betas": [0.9, 0.999], "title": "größer"}
COLUMNS, PADDED = 21, 32
NODES = 6


def content(round, num_nodes=NODES):
    """Return the arrays of all nodes after a round: every number drawn, so that no two agree by chance."""
    rng = np.random.default_rng(round)
    return {
        "nodes": np.arange(num_nodes),
        "rows": rng.random((num_nodes, PADDED), np.float32)[:, :COLUMNS],
        "counters.0": rng.integers(0, 1 << 62, num_nodes),
        "momentum": rng.random((num_nodes, 3, 7), np.float32),
        "mask": rng.integers(0, 256, (num_nodes, 5), np.uint8),
        "nothing": np.empty((num_nodes, 0), np.float64),
    }


def write(folder, round, split=((0, 3, 5), (4, 1, 2)), num_nodes=NODES):
    """Write the files of a round; split: of each rank, its nodes."""
    whole = content(round, num_nodes)
    return [
        write_shard(folder, round, rank, {name: array[list(nodes)] for name, array in whole.items()})
        for rank, nodes in enumerate(split)
    ]


def keep(folder, round, **given):
    """Write the checkpoint of a round and commit it."""
    commit(folder, round, write(folder, round, **given), OPTIONS | {"round": round}, given.get("num_nodes", NODES))


def check_arrays(arrays, round, nodes):
    whole = content(round)
    assert arrays.keys() == whole.keys()
    for name, array in arrays.items():
        assert array.dtype == whole[name].dtype
        np.testing.assert_array_equal(array, whole[name][nodes], err_msg=name)


def check_whole(checkpoint, round):
    for shard in checkpoint.shards:
        checkpoint.verify(shard)
    assert (checkpoint.round, checkpoint.num_nodes) == (round, NODES)
    assert checkpoint.options == OPTIONS | {"round": round}
    check_arrays(checkpoint.read(np.arange(NODES)), round, np.arange(NODES))


def newest(folder):
    """Return the newest checkpoint all files of which are what was written."""
    for checkpoint in checkpoints(folder):
        try:
            for shard in checkpoint.shards:
                checkpoint.verify(shard)
        except BadCheckpoint:
            continue
        return checkpoint
    return None


def rounds_in(folder):
    return [checkpoint.round for checkpoint in checkpoints(folder)]


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def files_of(*rounds, ranks=2):
    names = ["manifest.json", *(f"rank-{rank:05d}.safetensors" for rank in range(ranks))]
    return [f"round-{round:06d}/{name}" for round in rounds for name in names]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run.ckpt"


SYNC = os.fsync


@pytest.fixture(scope="module", autouse=True)
def unsynchronised():
    """Do not wait for the disk: no test ends the system."""
    with patch("os.fsync", lambda _: None):
        yield


# What is written is read back.


@pytest.mark.parametrize(
    "log, name",
    [
        ("results/run.h5", "results/run.ckpt"),
        ("run-2.h5", "run-2.ckpt"),
        ("a/run.v1.h5", "a/run.v1.ckpt"),
        ("run.hdf5", "run.hdf5.ckpt"),
        ("run.ckpt", "run.ckpt.ckpt"),
    ],
)
def test_no_two_logs_of_a_folder_share_their_checkpoints(log, name):
    assert checkpoint_folder(Path(log)) == Path(name)


@st.composite
def splits(draw, num_nodes):
    """Draw who owns which nodes, in any order."""
    ranks = draw(st.integers(1, 5))
    owners = draw(st.lists(st.integers(0, ranks - 1), min_size=num_nodes, max_size=num_nodes))
    order = draw(st.permutations(range(num_nodes)))
    return [[node for node in order if owners[node] == rank] for rank in range(ranks)]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data(), num_nodes=st.integers(1, 9))
def test_any_ranks_read_what_any_other_ranks_wrote(data, num_nodes):
    written, read = data.draw(splits(num_nodes)), data.draw(splits(num_nodes))
    with TemporaryDirectory() as folder:
        keep(Path(folder), 5, split=written, num_nodes=num_nodes)
        [checkpoint] = checkpoints(Path(folder))
        whole = content(5, num_nodes)
        for nodes in read:
            arrays = checkpoint.read(np.array(nodes, np.int64))
            assert arrays.keys() == (whole.keys() if nodes else set())
            for name, array in arrays.items():
                assert array.dtype == whole[name].dtype
                np.testing.assert_array_equal(array, whole[name][nodes], err_msg=name)


@pytest.mark.parametrize("nodes", [[5, 0, 4], [2], [3, 3, 1], list(range(NODES))[::-1]])
def test_nodes_come_in_the_order_asked_for(folder, nodes):
    keep(folder, 5)
    check_arrays(checkpoints(folder)[0].read(np.array(nodes)), 5, nodes)


def test_only_files_that_hold_a_node_asked_for_are_read(folder):
    keep(folder, 5)
    (folder / "round-000005/rank-00001.safetensors").unlink()
    checkpoint = checkpoints(folder)[0]
    check_arrays(checkpoint.read(np.array([5, 0])), 5, [5, 0])
    with pytest.raises(BadCheckpoint, match=r"rank-00001\.safetensors: No such file"):
        checkpoint.read(np.array([5, 4]))


def test_a_node_that_there_is_not_is_refused(folder):
    keep(folder, 5)
    with pytest.raises(KeyError, match=str(NODES)):
        checkpoints(folder)[0].read(np.array([0, NODES]))


@pytest.mark.parametrize("gaps", [False, True], ids=["contiguous", "with gaps"])
def test_safetensors_reads_a_file_as_it_is(folder, gaps):
    arrays = {name: array if gaps else np.ascontiguousarray(array) for name, array in content(5).items()}
    assert arrays["rows"].flags.c_contiguous is not gaps
    shard = write_shard(folder, 5, 3, arrays)
    path = folder / "round-000005/rank-00003.safetensors"
    file = path.read_bytes()
    assert shard == Shard("rank-00003.safetensors", len(file), zlib.crc32(file), tuple(range(NODES)))
    check_arrays(load_file(path), 5, np.arange(NODES))


def test_of_rows_with_gaps_no_more_than_one_is_copied(folder):
    rows = np.ones((64, 1 << 16), np.float32)[:, : (1 << 16) - 16]
    tracemalloc.start()
    try:
        write_shard(folder, 5, 0, {"nodes": np.arange(64), "rows": rows})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * rows[0].nbytes < rows.nbytes / 10


def test_a_shard_travels_as_json():
    shard = Shard("rank-00007.safetensors", 1 << 40, 0xFFFFFFFF, (7, 3))
    assert Shard.from_dict(json.loads(json.dumps(shard.as_dict()))) == shard


def test_without_a_folder_there_is_no_checkpoint(folder):
    assert checkpoints(folder) == []
    remove(folder)
    assert not folder.exists()


def test_options_and_numbers_come_back(folder):
    keep(folder, 1_234_567)
    [checkpoint] = checkpoints(folder)
    assert checkpoint.folder == folder / "round-1234567"
    check_whole(checkpoint, 1_234_567)


SHARDS = {
    "twice": [Shard("rank-00000.safetensors", 9, 9, (0, 1)), Shard("rank-00001.safetensors", 9, 9, (1, 2))],
    "missing": [Shard("rank-00000.safetensors", 9, 9, (0, 2))],
    "too many": [Shard("rank-00000.safetensors", 9, 9, (0, 1, 2, 3))],
    "none": [],
}


@pytest.mark.parametrize("shards", SHARDS.values(), ids=SHARDS)
def test_a_checkpoint_without_each_node_once_is_not_committed(folder, shards):
    write(folder, 5)
    with pytest.raises(ValueError, match="does not have each node once"):
        commit(folder, 5, shards, OPTIONS, 3)
    assert checkpoints(folder) == []


UNFIT = {
    "too short": ("rows", np.zeros((2, 4), np.float32), r"rows, float32 of shape \(2, 4\)"),
    "a number": ("rows", np.zeros((), np.float32), r"rows, float32 of shape \(\)"),
    "objects": ("rows", np.zeros(3, object), "rows, object"),
    "of the other byte order": ("rows", np.zeros(3, ">f4"), "rows, >f4"),
    "a name that safetensors uses": ("__metadata__", np.zeros(3, np.float32), "__metadata__, float32"),
}


@pytest.mark.parametrize("name, array, message", UNFIT.values(), ids=UNFIT)
def test_an_array_that_cannot_be_read_back_is_not_written(folder, name, array, message):
    with pytest.raises(ValueError, match=f"{message}.*, cannot be in a checkpoint"):
        write_shard(folder, 5, 0, {"nodes": np.arange(3), name: array})
    assert not folder.exists()


# Whatever happens while it is written.


def at_moment(number, act):
    """Return a trace function that acts at the moment of this number, counted from 0, of the checkpoint's module.

    A moment is each call of a function with a name, and each line when it is about to run for the first or second time.
    """
    moments, times = itertools.count(), Counter()

    def trace(frame, event, _):
        if frame.f_code.co_filename != mpisim.storage.checkpoint.__file__ or frame.f_code.co_name.startswith("<"):
            return None  # lambdas and comprehensions change nothing
        place = (frame.f_code, frame.f_lineno)
        times[place] += event == "line"
        if (event == "call" or (event == "line" and times[place] <= 2)) and next(moments) == number:
            act()
        return trace

    return trace


KILLED = """
import os, shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint import at_moment, check_whole, checkpoints, files_in, files_of, keep

os.fsync = lambda _: None  # the system lives on
start, folder = Path(sys.argv[1]) / "start", Path(sys.argv[1]) / "run.ckpt"
for round in (3, 5):
    keep(start, round)
found, states, code = [], {}, 9
while code == 9:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    child = os.fork()
    if not child:
        sys.settrace(at_moment(len(found), lambda: os._exit(9)))
        keep(folder, 8)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    state = tuple((name, (folder / name).read_bytes()) for name in files_in(folder))
    if state not in states:
        valid = checkpoints(folder)
        for checkpoint in valid:
            check_whole(checkpoint, checkpoint.round)
        states[state] = valid[0].round
        keep(folder, 8)
        check_whole(checkpoints(folder)[0], 8)
        assert files_in(folder) == files_of(5, 8), files_in(folder)
    found.append(states[state])
print(code, *found)
"""


def test_whoever_kills_it_at_whatever_moment_finds_a_whole_one_that_the_next_run_goes_on_from(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code, *found = map(int, done.stdout.split())
    assert code == 0  # of the one that nobody killed
    assert found == sorted(found)
    assert set(found) == {5, 8}


CALLS = ["os.open", "os.fsync", *(f"pathlib.Path.{name}" for name in ("mkdir", "open", "replace", "unlink", "rmdir"))]
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def failing(number):
    """Let the call of this number that changes something on disk, counted from 0, fail; give whether there was one."""
    calls = itertools.count()
    was_made = []

    def counted(call):
        def made(*args, **kwargs):
            if next(calls) == number:
                was_made.append(True)
                raise FULL
            return call(*args, **kwargs)

        return made

    with ExitStack() as stack:
        for name in CALLS:
            owner = os if name.startswith("os") else Path
            stack.enter_context(patch(name, counted(getattr(owner, name.rpartition(".")[2]))))
        yield was_made


def test_an_error_at_whatever_call_leaves_a_whole_one_and_nothing_half_done(folder):
    found = []
    for number in itertools.count():
        shutil.rmtree(folder, ignore_errors=True)
        for round in (3, 5):
            keep(folder, round)
        with failing(number) as was_made, suppress(OSError):
            keep(folder, 8)
        found.append(newest(folder).round)
        check_whole(newest(folder), found[-1])
        assert set(files_in(folder)) <= set(files_of(3, 5, 8))
        assert (folder / "round-000008/manifest.json").exists() == (found[-1] == 8)
        if not was_made:
            break
    assert found == sorted(found)
    assert set(found) == {5, 8}


@contextmanager
def room_for(size):
    """Let no file grow beyond this size."""
    _, most = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FAILURES = {
    "no room for a byte": lambda _: room_for(0),
    "room for half of it": lambda size: room_for(size // 2),
    "room for all but a byte": lambda size: room_for(size - 1),
    "full as it is synchronised": lambda _: patch("os.fsync", side_effect=FULL),
    "full as it is renamed": lambda _: patch("pathlib.Path.replace", side_effect=FULL),
}


FOLDER_FAILURES = {
    "full as the files' names are synchronised": lambda _: patch("os.fsync", side_effect=[FULL]),
    "full as the manifest's name is synchronised": lambda _: patch("os.fsync", side_effect=[None, None, FULL]),
    "full as the last folder is synchronised": lambda _: patch("os.fsync", side_effect=[None] * 4 + [FULL]),
}
ATTEMPTS = {f"{step}: {name}": (step, FAILURES[name]) for step in ("shard", "manifest") for name in FAILURES} | {
    f"manifest: {name}": ("manifest", failure) for name, failure in FOLDER_FAILURES.items()
}


@pytest.mark.parametrize("step, failure", ATTEMPTS.values(), ids=ATTEMPTS)
def test_a_checkpoint_that_the_disk_does_not_take_is_none_and_the_older_ones_are_whole(folder, step, failure):
    for round in (2, 5):
        keep(folder, round)
    shards = write(folder, 8) if step == "manifest" else []
    name = "rank-00000.safetensors" if step == "shard" else "manifest.json"
    before = files_in(folder)
    size = (folder / "round-000005" / name).stat().st_size
    with failure(size), pytest.raises(OSError, match=r"No space left|File too large"):
        commit(folder, 8, shards, OPTIONS | {"round": 8}, NODES) if shards else write(folder, 8)
    assert files_in(folder) == before
    check_whole(newest(folder), 5)
    check_whole(checkpoints(folder)[1], 2)
    keep(folder, 8)
    check_whole(newest(folder), 8)


def test_a_folder_that_the_file_system_cannot_synchronise_will_do(folder):
    def sync_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        SYNC(descriptor)

    with patch("os.fsync", sync_files):
        keep(folder, 5)
    check_whole(newest(folder), 5)


def test_each_file_is_on_disk_before_it_has_its_name_and_the_manifest_comes_last(folder):
    steps, replace = [], Path.replace

    def recorded_sync(descriptor):
        SYNC(descriptor)
        steps.append(("on disk", os.fstat(descriptor).st_ino))

    def recorded_replace(path, target):
        assert not target.exists()
        steps.append(("named", path.stat().st_ino, target.name))
        return replace(path, target)

    with patch("os.fsync", recorded_sync), patch("pathlib.Path.replace", recorded_replace):
        keep(folder, 5)
    place = folder / "round-000005"
    expected = []
    for name in ("rank-00000.safetensors", "rank-00001.safetensors", "manifest.json"):
        inode = (place / name).stat().st_ino
        if name == "manifest.json":
            expected.append(("on disk", place.stat().st_ino))  # the names of the files before it
        expected += [("on disk", inode), ("named", inode, name)]
    expected += [("on disk", path.stat().st_ino) for path in (place, folder, folder.parent)]
    assert steps == expected


# Whatever happens to it afterwards.


@pytest.fixture
def two(folder):
    """Return a folder with the checkpoints of rounds 5 and 8, the two files of each of one size."""
    for round in (5, 8):
        keep(folder, round)
    return folder


def check_damaged(folder, message, name="rank-00001.safetensors"):
    """Check that the file is found out, and the older checkpoint taken."""
    latest, older = checkpoints(folder)
    [shard] = (shard for shard in latest.shards if shard.name == name)
    with pytest.raises(BadCheckpoint, match=f"round-000008/{name}: {message}") as raised:
        latest.verify(shard)
    assert "\n" not in str(raised.value)
    assert newest(folder) == older
    check_whole(older, 5)


def test_no_flipped_bit_goes_unseen(two):
    path = two / "round-000008/rank-00001.safetensors"
    file = path.read_bytes()
    assert len(file) > 1000
    for position in {*range(0, 400, 10), *range(0, len(file), 50), len(file) - 1}:
        changed = bytearray(file)
        changed[position] ^= 1 << (position // 10 % 8)
        path.write_bytes(changed)
        check_damaged(two, "damaged, its checksum is")
    path.write_bytes(file)
    check_whole(newest(two), 8)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -500, -1])
def test_a_truncated_file_is_found_out(two, length):
    path = two / "round-000008/rank-00001.safetensors"
    file = path.read_bytes()
    path.write_bytes(file[:length])
    check_damaged(two, rf"has {len(file[:length])} bytes and not {len(file)}$")
    with pytest.raises(BadCheckpoint, match=r"rank-00001\.safetensors: has"):
        checkpoints(two)[0].read(np.arange(NODES))


def test_a_file_with_more_at_its_end_is_found_out(two):
    path = two / "round-000008/rank-00001.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    check_damaged(two, "has .* bytes and not")


def exchange(one, other):
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def test_swapped_files_are_found_out(two):
    exchange(*(two / "round-000008" / f"rank-0000{rank}.safetensors" for rank in range(2)))
    check_damaged(two, "damaged")
    with pytest.raises(BadCheckpoint, match=r"rank-0000[01]\.safetensors: 'nodes' is not what it should be"):
        checkpoints(two)[0].read(np.arange(NODES))


def test_a_file_of_another_round_is_found_out(two):
    shutil.copy(two / "round-000005/rank-00001.safetensors", two / "round-000008")
    check_damaged(two, "damaged")


REPLACED = {
    "nothing": (lambda _: None, "No such file or directory$"),
    "a folder": (Path.mkdir, "has .* bytes and not"),
    "a pipe, without waiting for its end": (os.mkfifo, "has 0 bytes and not"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "No such file or directory$"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links$"),
}


@pytest.mark.parametrize("put, message", REPLACED.values(), ids=REPLACED)
def test_what_is_there_in_place_of_a_file_is_found_out(two, put, message):
    path = two / "round-000008/rank-00001.safetensors"
    path.unlink()
    put(path)
    check_damaged(two, message)
    with pytest.raises(BadCheckpoint, match=message):
        checkpoints(two)[0].read(np.arange(NODES))


def sealed(manifest):
    """Return a manifest's text with its checksum."""
    return json.dumps(manifest | {"checksum": zlib.crc32(json.dumps(manifest).encode())})


def changed(**changes):
    """Return what changes fields of a manifest and makes its checksum right again."""

    def change(manifest):
        del manifest["checksum"]
        return sealed(manifest | changes)

    return change


def changed_file(**changes):
    """Return what changes fields of the manifest's last file."""

    def change(manifest):
        return changed(shards=[manifest["shards"][0], manifest["shards"][1] | changes])(manifest)

    return change


NO_MANIFEST = "is no manifest of this round's checkpoint, or of another version of mpisim$"
IMPOSSIBLE = "has names of files, or numbers, that cannot be$"
NODES_WRONG = "does not have each node once$"
MANIFESTS = {
    "empty": (lambda _: "", NO_MANIFEST),
    "no JSON": (lambda _: "round 8", "Expecting value"),
    "no text": (lambda _: b"\xff\xfe\x00\xd8", ""),
    "half a manifest": (lambda manifest: json.dumps(manifest)[:200], r"line 1 column \d+"),
    "a list": (lambda manifest: json.dumps([manifest]), NO_MANIFEST),
    "another program's": (lambda _: '{"name": "app", "icons": []}', NO_MANIFEST),
    "of another schema": (changed(schema="mpisim-log"), NO_MANIFEST),
    "of a newer version": (changed(schema_version=2), NO_MANIFEST),
    "of another round": (changed(round=5), NO_MANIFEST),
    "with a changed option": (
        lambda manifest: json.dumps(manifest | {"options": OPTIONS | {"seed": 1}}),
        "damaged, its checksum is another$",
    ),
    "nested without end": (lambda _: "[" * 200_000, "recursion"),
    "with a number without end": (lambda _: "9" * 10_000, "4300"),
    "without nodes": (changed(shards=[], num_nodes=0), NODES_WRONG),
    "with files that are none": (changed(shards=[1, 2]), "not subscriptable"),
    "with options that are none": (changed(options=7), "not iterable"),
    "with 10¹² nodes": (changed(num_nodes=10**12), NODES_WRONG),
    "with a node less": (changed(num_nodes=NODES - 1), NODES_WRONG),
    "with true for a number": (changed(num_nodes=True), IMPOSSIBLE),
    "with a fraction of a node": (changed(num_nodes=6.0), IMPOSSIBLE),
    "with a negative size": (changed_file(size=-1), IMPOSSIBLE),
    "with a text for a size": (changed_file(size="100"), IMPOSSIBLE),
    "with a node twice": (changed_file(nodes=[4, 1, 1]), NODES_WRONG),
    "with a node of another file": (changed_file(nodes=[4, 1, 3]), NODES_WRONG),
    "without a node": (changed_file(nodes=[4, 1]), NODES_WRONG),
    "with node 10³⁰": (changed_file(nodes=[4, 1, 10**30]), NODES_WRONG),
    "with a negative node": (changed_file(nodes=[4, 1, -2]), IMPOSSIBLE),
    "with a file twice": (changed_file(name="rank-00000.safetensors"), IMPOSSIBLE),
    "with a file above": (changed_file(name="../rank-00001.safetensors"), IMPOSSIBLE),
    "with a file of the system's": (changed_file(name="/etc/passwd"), IMPOSSIBLE),
    "with a file below": (changed_file(name="a/rank-00001.safetensors"), IMPOSSIBLE),
    "with a path that goes around": (changed_file(name="rank-00001.safetensors/../../x"), IMPOSSIBLE),
    "with a line in a name": (changed_file(name="rank-00001.safetensors\n"), IMPOSSIBLE),
    "with a file without name": (changed_file(name=None), "expected string"),
}


def check_refused(folder, message):
    """Check that the manifest of round 8 is passed over, with a line that says so."""
    lines = []
    [checkpoint] = checkpoints(folder, lines.append)
    check_whole(checkpoint, 5)
    [line] = lines
    start = f"{folder / 'round-000008' / 'manifest.json'}: "
    assert line.startswith(start)
    assert "\n" not in line
    assert re.search(message, line[len(start) :])


@pytest.mark.parametrize("change, message", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_makes_no_sense_is_passed_over(two, change, message):
    path = two / "round-000008/manifest.json"
    text = change(json.loads(path.read_text()))
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    check_refused(two, message)


@pytest.mark.parametrize("field", ["schema", "schema_version", "round", "num_nodes", "options", "shards", "checksum"])
def test_a_manifest_that_lacks_something_is_passed_over(two, field):
    path = two / "round-000008/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    whole = manifest.pop(field, None) is None
    path.write_text(json.dumps(manifest) if whole else sealed(manifest))
    check_refused(two, "damaged" if whole else f"{NO_MANIFEST}|'{field}'$")


@pytest.mark.parametrize("field", ["name", "size", "checksum", "nodes"])
def test_a_manifest_with_a_file_that_lacks_something_is_passed_over(two, field):
    path = two / "round-000008/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["checksum"], manifest["shards"][1][field]
    path.write_text(sealed(manifest))
    check_refused(two, f"'{field}'$")


def test_no_damage_to_a_manifest_gives_another_checkpoint(two):
    path = two / "round-000008/manifest.json"
    whole, older = checkpoints(two)
    file = path.read_bytes()
    for position in range(len(file)):
        flipped = bytearray(file)
        flipped[position] ^= 1 << (position % 7)
        path.write_bytes(flipped)
        assert checkpoints(two) in ([older], [whole, older])
        path.write_bytes(file[:position])
        check_refused(two, "")


def put_pipe(path):
    path.unlink()
    os.mkfifo(path)


def put_folder(path):
    path.unlink()
    path.mkdir()


def put_link_to_itself(path):
    path.unlink()
    path.symlink_to(path.name)


def put_terabyte(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    "put, message",
    [(put_pipe, NO_MANIFEST), (put_folder, ""), (put_link_to_itself, "symbolic links"), (put_terabyte, NO_MANIFEST)],
)
def test_what_is_there_in_place_of_a_manifest_is_passed_over(two, put, message):
    put(two / "round-000008/manifest.json")
    check_refused(two, message)


def test_a_checkpoint_that_was_not_finished_is_passed_over_with_a_line(folder):
    keep(folder, 5)
    write(folder, 8)
    lines = []
    assert [checkpoint.round for checkpoint in checkpoints(folder, lines.append)] == [5]
    assert lines == [f"{folder / 'round-000008'}: was not finished, it has no manifest"]


def replace_file(folder, file):
    """Put a file in place of rank 0's of round 8, and let the manifest vouch for it."""
    (folder / "round-000008/rank-00000.safetensors").write_bytes(file)
    path = folder / "round-000008/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    manifest["shards"][0] |= {"size": len(file), "checksum": zlib.crc32(file)}
    path.write_text(sealed(manifest))


def forged(data=b"", **entries):
    """Return a safetensors file: by name the type, shape and length of each array."""
    header, end = {}, 0
    for name, (dtype, shape, length) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + length]}
        end += length
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


OF_NODES = ("I64", [3], 24)
THREE_NODES = np.array([0, 3, 5]).tobytes()
FORGED = {
    "petabytes that are not there": forged(THREE_NODES, nodes=OF_NODES, rows=("F32", [3, 10**15], 12 * 10**15)),
    "petabytes in few bytes": forged(THREE_NODES, nodes=OF_NODES, rows=("F32", [3, 10**15], 0)),
    "rows without nodes": forged(THREE_NODES, nodes=OF_NODES, rows=("F32", [0, 10**15], 0)),
    "more than any number": forged(THREE_NODES, nodes=OF_NODES, rows=("F32", [3, 2**62, 2**62], 0)),
    "nothing, times 2⁶²": forged(THREE_NODES, nodes=OF_NODES, rows=("F32", [3, 0, 2**62], 0)),
    "nothing, times 2⁶⁴ - 1": forged(THREE_NODES, nodes=OF_NODES, rows=("F32", [3, 0, 2**64 - 1], 0)),
    "a hundred dimensions": forged(THREE_NODES, nodes=OF_NODES, rows=("F32", [3, *[1] * 100, 0], 0)),
    "a number": forged(THREE_NODES + bytes(4), nodes=OF_NODES, rows=("F32", [], 4)),
    "fewer nodes": forged(THREE_NODES + bytes(8), nodes=OF_NODES, rows=("F32", [2], 8)),
    "a type that numpy lacks": forged(THREE_NODES + bytes(6), nodes=OF_NODES, rows=("BF16", [3], 6)),
    "another such type": forged(THREE_NODES + bytes(3), nodes=OF_NODES, rows=("F8_E8M0", [3], 3)),
    "an unknown type": forged(THREE_NODES + bytes(3), nodes=OF_NODES, rows=("object", [3], 3)),
    "no nodes": forged(bytes(12), rows=("F32", [3], 12)),
    "other nodes": forged(bytes(24), nodes=OF_NODES),
    "nodes of two dimensions": forged(bytes(48), nodes=("I64", [3, 2], 48)),
    "a header of exabytes": (1 << 62).to_bytes(8, "little") + bytes(100),
    "a header of 90 MB": (90_000_000).to_bytes(8, "little") + bytes(100),
    "a header without end": (8).to_bytes(8, "little") + b"[" * 8,
    "no header": b"PK\3\4",
    "a pickle": pickle.dumps({"rows": np.zeros(3)}),
}


@pytest.mark.parametrize("file", FORGED.values(), ids=FORGED)
def test_a_file_that_promises_what_it_does_not_have_is_refused_before_memory_is_taken(two, file):
    replace_file(two, file)
    checkpoint = checkpoints(two)[0]
    checkpoint.verify(checkpoint.shards[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadCheckpoint, match=r"round-000008/rank-00000\.safetensors: ") as raised:
        checkpoint.read(np.array([3, 5]))
    assert "\n" not in str(raised.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


OTHER = {
    "another array": lambda arrays: arrays | {"velocity": arrays["rows"]},
    "an array less": lambda arrays: {name: array for name, array in arrays.items() if name != "momentum"},
    "longer rows": lambda arrays: arrays | {"rows": np.zeros((3, COLUMNS + 1), np.float32)},
    "rows of one number": lambda arrays: arrays | {"rows": np.zeros((3, 1), np.float32)},
    "rows of another type": lambda arrays: arrays | {"rows": arrays["rows"].astype(np.float64)},
}


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
@pytest.mark.parametrize("nodes", [[0, 4], [4, 0]])
def test_files_that_do_not_belong_together_are_not_read(folder, change, nodes):
    shards = write(folder, 8)
    arrays = change({name: array[[4, 1, 2]] for name, array in content(8).items()})
    shards[1] = write_shard(folder, 8, 1, arrays)
    commit(folder, 8, shards, OPTIONS, NODES)
    with pytest.raises(BadCheckpoint, match=r"rank-00001\.safetensors: (has not the arrays|'rows' is not what)"):
        checkpoints(folder)[0].read(np.array(nodes))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 400) | st.none(),
    more=st.binary(max_size=20),
)
def test_a_changed_file_gives_arrays_of_these_nodes_or_the_one_error(changes, cut, more):
    with TemporaryDirectory() as name:
        folder = Path(name)
        keep(folder, 8, split=[range(NODES)])
        file = bytearray((folder / "round-000008/rank-00000.safetensors").read_bytes())
        for position, value in changes:
            file[position] = value
        replace_file(folder, bytes(file[:cut]) + more)
        try:
            arrays = checkpoints(folder)[0].read(np.array([2, 1]))
        except BadCheckpoint as error:
            assert "rank-00000.safetensors: " in str(error)
        else:
            assert arrays["nodes"].tolist() == [2, 1]
            assert {len(array) for array in arrays.values()} == {2}


NO_MANIFESTS = st.dictionaries(st.sampled_from(["schema", "round", "shards", "checksum"]), st.integers() | st.text())


@settings(derandomize=True, deadline=None, max_examples=100)
@given(text=st.binary(max_size=60) | st.text() | (NO_MANIFESTS | st.lists(NO_MANIFESTS)).map(json.dumps))
def test_no_other_file_is_a_manifest(text):
    with TemporaryDirectory() as name:
        path = Path(name) / "round-000008/manifest.json"
        path.parent.mkdir()
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        lines = []
        assert checkpoints(Path(name), lines.append) == []
        assert len(lines) == 1
        assert lines[0].startswith(f"{path}: ")


def test_a_file_that_safetensors_wrote_is_read(two):
    arrays = {name: np.ascontiguousarray(array[[0, 3, 5]]) for name, array in content(8).items()}
    save_file(arrays, two / "other")
    replace_file(two, (two / "other").read_bytes())
    check_whole(newest(two), 8)


# What stays and what goes.


def test_the_newest_two_stay(folder):
    for round in (1, 2, 5, 9, 10):
        keep(folder, round)
    assert rounds_in(folder) == [10, 9]
    assert files_in(folder) == files_of(9, 10)
    assert sorted(path.name for path in folder.iterdir()) == ["round-000009", "round-000010"]
    check_whole(checkpoints(folder)[0], 10)
    check_whole(checkpoints(folder)[1], 9)


def test_rounds_are_ordered_as_numbers(folder):
    for round in (999_999, 1_000_000, 1_000_001):
        keep(folder, round)
    assert rounds_in(folder) == [1_000_001, 1_000_000]


def test_what_failed_attempts_left_goes_once_a_newer_one_is_whole(folder):
    keep(folder, 2)
    for round in (3, 8):
        write(folder, round, split=[[0], [1], [2], [3], [4, 5]])
        for name in (".rank-00009.safetensors.tmp", ".manifest.json.tmp"):
            (folder / f"round-{round:06d}" / name).write_text("half")
    (folder / "round-000004").mkdir()
    keep(folder, 5)
    assert files_in(folder)[: -5 - 2] == files_of(2, 5)
    assert [path.name for path in folder.iterdir() if path.name in ("round-000003", "round-000004")] == []
    keep(folder, 8)
    assert files_in(folder) == files_of(5, 8)


def test_an_attempt_that_others_may_be_writing_stays(folder):
    keep(folder, 5)
    shards = write(folder, 8)
    keep(folder, 6)
    commit(folder, 8, shards, OPTIONS | {"round": 8}, NODES)
    check_whole(newest(folder), 8)


def test_a_later_checkpoint_counts_for_none_of_the_two(folder):
    for round in (5, 10):
        keep(folder, round)
    damaged = folder / "round-000010/rank-00000.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for round in (6, 7):
        keep(folder, round)
    assert rounds_in(folder) == [10, 7, 6]
    check_whole(newest(folder), 7)
    keep(folder, 10)
    assert rounds_in(folder) == [10, 7]
    check_whole(newest(folder), 10)


def test_a_checkpoint_is_none_from_the_moment_it_is_written_anew(two):
    write(two, 8, split=[range(NODES)])
    assert rounds_in(two) == [5]
    keep(two, 8, split=[range(NODES)])
    assert files_in(two) == sorted([*files_of(5), *files_of(8, ranks=1)])
    check_whole(newest(two), 8)


STRANGE = [
    "notes.txt",
    "round-000001/notes.txt",
    "round-000001/rank-1.safetensors",
    "round-000001/my-rank-00000.safetensors",
    "round-000001/rank-00000.safetensors.bak",
    "round-000001/manifest.json.old",
    "round-000001/rank-00007.safetensors/inside",
    "round-000002/.hidden",
    "round-000005/deep/manifest.json",
    "round-5/rank-00000.safetensors",
    "round-000002.old/manifest.json",
    "old/round-000001/manifest.json",
]


def put_strangers(folder):
    for name in STRANGE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere/manifest.json").write_text("mine")
    (folder / "round-000003").symlink_to(folder.parent / "elsewhere")


def check_strangers(folder, own):
    assert files_in(folder) == sorted([*STRANGE, *own])
    assert {(folder / name).read_text() for name in STRANGE} == {"mine"}
    assert (folder / "round-000003/manifest.json").read_text() == "mine"


def test_files_of_others_stay_where_they_are(folder):
    put_strangers(folder)
    for round in (1, 2, 5, 8):
        keep(folder, round)
    check_strangers(folder, files_of(5, 8))
    check_whole(newest(folder), 8)
    remove(folder)
    check_strangers(folder, [])
    assert checkpoints(folder) == []


def test_a_manifest_of_another_version_and_its_files_stay(folder):
    keep(folder, 1)
    path = folder / "round-000001/manifest.json"
    path.write_text(changed(schema_version=2)(json.loads(path.read_text())))
    for round in (5, 8, 9):
        keep(folder, round)
    assert files_in(folder) == files_of(1, 8, 9)


def test_remove_leaves_nothing_of_ours(folder):
    for round in (5, 8):
        keep(folder, round)
    write(folder, 9)
    (folder / "round-000008/manifest.json").write_text("damaged")
    (folder / "round-000009/.rank-00002.safetensors.tmp").write_text("half")
    (folder.parent / "run.h5").write_text("the log")
    remove(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["run.h5"]
