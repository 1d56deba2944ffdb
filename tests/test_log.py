"""The log: what is written is read back with h5py and xarray, whole after every round; and where it came from."""

import errno
import importlib.metadata
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import pytest
import xarray

import mpisim.storage.image
import mpisim.storage.log
from mpisim.storage.log import Log
from mpisim.storage.provenance import git_commit, provenance
from mpisim.storage.variables import DIMENSIONS, VARIABLES, logged_variables

STATIC = [name for name in VARIABLES if VARIABLES[name].dims[0] != "round"]
FINAL = [name for name in STATIC if name.endswith("_final") or name == "peak_memory"]
GROWING = [name for name in VARIABLES if VARIABLES[name].dims[0] == "round"]


def expected(content, rounds, name):
    """Return what a variable of the log holds after these rounds."""
    variable = VARIABLES[name]
    if name in FINAL:
        return np.full(content.sizes[VARIABLES[name].dims[0]], np.nan)
    if name in STATIC:
        return content.static[name]
    shape = tuple(content.sizes[dim] for dim in variable.dims[1:])
    return np.array([values[name] for values in rounds], dtype=variable.dtype).reshape(len(rounds), *shape)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def check_rounds(path, content, rounds):
    """Check that a log is running and has these rounds, and these alone."""
    with h5py.File(path) as file:
        assert file.attrs["status"] == "running"
        assert file["round"][:].tolist() == list(range(1, len(rounds) + 1))
        for name in GROWING:
            np.testing.assert_array_equal(file[name], expected(content, rounds, name), err_msg=name)


@pytest.mark.parametrize("num_rounds", [0, 1, 3])
def test_h5py_reads_what_was_written(tmp_path, log_content, num_rounds):
    rounds = [log_content.round() for _ in range(num_rounds)]
    path = log_content.write(tmp_path / "run.h5", rounds, status="complete")
    with h5py.File(path) as file:
        for name, variable in VARIABLES.items():
            np.testing.assert_array_equal(file[name], expected(log_content, rounds, name), err_msg=name)
            assert file[name].dtype == variable.dtype
        np.testing.assert_array_equal(file["round"], np.arange(1, num_rounds + 1))
        assert sorted(file) == sorted([*VARIABLES, *DIMENSIONS])
        attributes = dict(file.attrs)
    created = attributes.pop("date_created")
    assert created.endswith("+00:00")
    of_its_own = {"schema": "mpisim-log", "schema_version": 1, "status": "complete", "checkpoint_round": 0}
    assert attributes == log_content.attributes | of_its_own


def test_the_log_says_from_its_next_change_on_of_which_round_a_checkpoint_is(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [log_content.round()])

    def said():
        with h5py.File(path) as file:
            return file.attrs["checkpoint_round"]

    log = Log(path)
    log.note_checkpoint(1)
    assert said() == 0
    log.set_status("interrupted")
    assert said() == 1
    Log(path).set_status("running")
    assert said() == 1


@pytest.mark.parametrize("num_rounds", [0, 2])
def test_xarray_reads_dimensions_units_and_meanings(tmp_path, log_content, num_rounds):
    rounds = [log_content.round() for _ in range(num_rounds)]
    path = log_content.write(tmp_path / "run.h5", rounds)
    with xarray.open_dataset(path, engine="h5netcdf") as dataset:
        assert dict(dataset.sizes) == log_content.sizes | {"round": num_rounds}
        assert {name: dataset[name].dims for name in dataset.data_vars} == {
            name: variable.dims for name, variable in VARIABLES.items()
        }
        for name, variable in VARIABLES.items():
            np.testing.assert_array_equal(dataset[name], expected(log_content, rounds, name), err_msg=name)
            assert dataset[name].attrs["long_name"] == variable.long_name
            assert dataset[name].attrs["units"] == variable.units
        for name, long_name in DIMENSIONS.items():
            first = 1 if name in ("round", "epoch") else 0
            np.testing.assert_array_equal(dataset.coords[name], np.arange(dataset.sizes[name]) + first)
            assert dataset.coords[name].attrs["long_name"] == long_name


MOMENTS = {
    "trained": ({"trained": True, "aggregated": False, "epochs": False}, [""]),
    "aggregated": ({"trained": False, "aggregated": True, "epochs": False}, ["_aggregated"]),
    "epochs too": ({"trained": True, "aggregated": False, "epochs": True}, ["", "_by_epoch"]),
    "all": ({"trained": True, "aggregated": True, "epochs": True}, ["", "_by_epoch", "_aggregated"]),
}


@pytest.mark.parametrize("moments, suffixes", MOMENTS.values(), ids=MOMENTS)
def test_a_log_has_the_scores_of_the_moments_that_are_tested(tmp_path, log_content, moments, suffixes):
    variables = logged_variables(**moments)
    log = Log.create(tmp_path / "run.h5", log_content.sizes, log_content.static, {}, variables=variables)
    values = {name: value for name, value in log_content.round().items() if name in variables}
    log.append(1, values)
    with h5py.File(log.path) as file:
        found = {name for name in file if "accuracy" in name}
        assert found == {f"{kind}_accuracy{end}" for kind in ("iid", "ood", "own") for end in (*suffixes, "_final")}
        assert ("iid_recall" in file) == ("" in suffixes)
        assert ("epoch" in file) == ("_by_epoch" in suffixes)
        for name in found:
            expected_values = values.get(name, np.full(3, np.nan))
            np.testing.assert_array_equal(np.squeeze(file[name][:]), np.squeeze(expected_values))
    if suffixes == [""]:
        with pytest.raises(ValueError, match="iid_accuracy_aggregated"):
            log.append(2, log_content.round())


def test_a_complete_log_has_its_final_scores(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [log_content.round()])
    sizes = {name: log_content.sizes[VARIABLES[name].dims[0]] for name in FINAL}
    before = {name: np.arange(sizes[name]) / 7 + number for number, name in enumerate(FINAL)}
    with pytest.raises(ValueError, match="iid_accuracy_final"):
        Log(path).set_status("complete", {})
    Log(path).set_status("complete", before)
    with h5py.File(path) as file:
        assert file.attrs["status"] == "complete"
        for name, values in before.items():
            np.testing.assert_array_equal(file[name], values)
        assert len(file["round"]) == 1


def test_after_every_append_all_rounds_so_far_are_in_the_file(tmp_path, log_content):
    log = Log.create(tmp_path / "run.h5", log_content.sizes, log_content.static, log_content.attributes)
    rounds = []
    for round in range(1, 6):
        rounds.append(log_content.round())
        log.append(round, rounds[-1])
        copy = shutil.copy(log.path, tmp_path / "copy.h5")  # what whoever kills the run now would find
        check_rounds(copy, log_content, rounds)


@pytest.mark.parametrize("reader", ["h5py.File(path)", "xarray.open_dataset(path, engine='h5netcdf')"])
def test_a_reader_that_holds_the_log_open_does_not_stop_the_run(tmp_path, log_content, reader):
    log = Log.create(tmp_path / "run.h5", log_content.sizes, log_content.static, log_content.attributes)
    log.append(1, log_content.round())
    script = f"import sys, h5py, xarray; path = sys.argv[1]; held = {reader}; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(log.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        log.append(2, log_content.round())
    with h5py.File(log.path) as file:
        assert file["round"][:].tolist() == [1, 2]


def at_moment(number, act):
    """Return a trace function that acts at the log's moment of this number, counted from 0.

    A moment is each call of one of its functions, and each line when it is about to run for the first time.
    """
    moments, seen = itertools.count(), set()

    def trace(frame, event, _):
        if frame.f_code.co_filename not in (mpisim.storage.log.__file__, mpisim.storage.image.__file__):
            return None
        place = (frame.f_code, frame.f_lineno)
        if (event == "call" or (event == "line" and place not in seen)) and next(moments) == number:
            act()
        seen.add(place)
        return trace

    return trace


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import LogContent
from mpisim.storage.log import Log
from test_log import at_moment

path, content, found = Path(sys.argv[1]), LogContent(), []
log = Log.create(path, content.sizes, content.static, content.attributes)
rounds = [content.round() for _ in range(3)]
for number in (1, 2):
    log.append(number, rounds[number - 1])
before, code = path.read_bytes(), 9
while code == 9:
    path.write_bytes(before)
    child = os.fork()
    if not child:
        sys.settrace(at_moment(len(found), lambda: os._exit(9)))
        log.append(3, rounds[2])
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found.append(path.read_bytes())
kinds = list(dict.fromkeys(found))
for number, kind in enumerate(kinds):
    path.with_name(f"{number}.h5").write_bytes(kind)
print(code, *(kinds.index(each) for each in found))
"""


def test_whoever_kills_an_append_at_whatever_moment_finds_all_of_its_round_or_nothing(tmp_path, log_content):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run.h5"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code, *found = map(int, done.stdout.split())
    assert code == 0  # of the append that nobody killed
    assert len(found) > len(GROWING)
    assert found == sorted(found)
    assert set(found) == {0, 1}
    rounds = [log_content.round() for _ in range(3)]
    check_rounds(tmp_path / "0.h5", log_content, rounds[:2])
    check_rounds(tmp_path / "1.h5", log_content, rounds)


def test_an_append_that_fails_at_whatever_moment_leaves_a_log_that_goes_on(tmp_path, log_content):
    path = tmp_path / "run.h5"
    log = Log.create(path, log_content.sizes, log_content.static, log_content.attributes)
    rounds = [log_content.round() for _ in range(2)]
    log.append(1, rounds[0])
    one_round = path.read_bytes()

    def fail():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    written = []
    for moment in itertools.count():
        path.write_bytes(one_round)
        log = Log(path)
        log.set_status("running")  # from here on it is in memory
        before = path.read_bytes()
        tracing = sys.gettrace()
        sys.settrace(at_moment(moment, fail))
        try:
            log.append(2, rounds[1])
        except OSError as error:
            assert error.errno == errno.ENOSPC
        else:
            break
        finally:
            sys.settrace(tracing)
        assert names_in(tmp_path) == ["run.h5"]
        written.append(path.read_bytes() != before)
        if not written[-1]:
            log.append(2, rounds[1])
        check_rounds(path, log_content, rounds)
    assert moment > len(GROWING)
    assert written == sorted(written)


@contextmanager
def room_for(size):
    """Let no file grow beyond this size."""
    _, most = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FAILURES = {
    "no room for a byte": lambda _: room_for(0),
    "room for half of it": lambda size: room_for(size // 2),
    "room for all but a byte": lambda size: room_for(size - 1),
    "full as it is synchronised": lambda _: patch("os.fsync", side_effect=FULL),
    "full as it is renamed": lambda _: patch("pathlib.Path.replace", side_effect=FULL),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_round_that_the_disk_does_not_take_is_no_round_of_the_log(tmp_path, log_content, failure):
    path = tmp_path / "run.h5"
    log = Log.create(path, log_content.sizes, log_content.static, log_content.attributes)
    rounds = [log_content.round() for _ in range(4)]
    for number in (1, 2):
        log.append(number, rounds[number - 1])
    before = path.read_bytes()
    for _ in range(2):
        with failure(len(before)), pytest.raises(OSError, match=r"No space left|File too large"):
            log.append(3, log_content.round())
        assert path.read_bytes() == before
        assert names_in(tmp_path) == ["run.h5"]
    for number in (3, 4):
        log.append(number, rounds[number - 1])
    check_rounds(path, log_content, rounds)


WRONG = {"too long": np.zeros(4), "too short": np.zeros(2), "of a dimension too many": np.zeros((3, 3))}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_a_value_of_another_shape_is_refused_and_its_round_no_round_of_the_log(tmp_path, log_content, value):
    log = Log.create(tmp_path / "run.h5", log_content.sizes, log_content.static, log_content.attributes)
    rounds = [log_content.round() for _ in range(2)]
    log.append(1, rounds[0])
    with pytest.raises(ValueError, match="could not broadcast"):
        log.append(2, log_content.round(train_loss=value))
    log.append(2, rounds[1])
    check_rounds(log.path, log_content, rounds)


ENDS = {
    "C's exit": ("ctypes.CDLL(None).exit(3)", 3),
    "an exception": ("raise SystemExit(4)", 4),
    "a reference that Python never drops": ("ctypes.pythonapi.Py_IncRef(ctypes.py_object(log))", 0),
}


@pytest.mark.parametrize("end, code", ENDS.values(), ids=ENDS)
def test_a_process_may_end_with_its_log_open(tmp_path, log_content, end, code):
    path = log_content.write(tmp_path / "run.h5", [log_content.round()])
    script = f"""
import ctypes, sys
from pathlib import Path
from mpisim.storage.log import Log
log = Log(Path(sys.argv[1]))
log.set_status("complete")
{end}
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    with h5py.File(path) as file:
        assert file.attrs["status"] == "complete"


@pytest.mark.parametrize("folder", ["", "new/deep"])
def test_a_log_is_alone_in_its_folder(tmp_path, log_content, folder):
    log_content.write(tmp_path / folder / "run.h5", [log_content.round()])
    assert names_in(tmp_path / folder) == ["run.h5"]


def test_what_a_killed_run_left_beside_its_log_is_removed_and_nothing_else(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [log_content.round()])
    for name in (".run.h5.1234", ".run.h5.lock", ".run-2.h5.77", ".run.h5.bak", "run.h5.99"):
        (tmp_path / name).write_bytes(b"")
    Log(path).tidy()
    assert names_in(tmp_path) == [".run-2.h5.77", ".run.h5.bak", ".run.h5.lock", "run.h5", "run.h5.99"]


def test_an_existing_file_is_refused_and_left_as_it_is(tmp_path, log_content):
    path = tmp_path / "run.h5"
    path.write_bytes(b"somebody's work")
    with pytest.raises(FileExistsError):
        log_content.write(path, [])
    assert path.read_bytes() == b"somebody's work"
    assert names_in(tmp_path) == ["run.h5"]


def test_overwrite_puts_an_empty_log_in_the_old_ones_place(tmp_path, log_content):
    path = log_content.write(tmp_path / "run.h5", [log_content.round()], status="complete")
    Log.create(path, log_content.sizes, log_content.static, log_content.attributes, overwrite=True)
    with h5py.File(path) as file:
        assert len(file["round"]) == 0
        assert file.attrs["status"] == "running"
    assert names_in(tmp_path) == ["run.h5"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_log_that_cannot_be_made_leaves_nothing_but_the_old_one(tmp_path, log_content, overwrite):
    if overwrite:
        (tmp_path / "run.h5").write_bytes(b"the old one")
    del log_content.static["degree"]
    with pytest.raises(KeyError, match="degree"):
        Log.create(tmp_path / "run.h5", log_content.sizes, log_content.static, {}, overwrite)
    assert names_in(tmp_path) == (["run.h5"] if overwrite else [])
    if overwrite:
        assert (tmp_path / "run.h5").read_bytes() == b"the old one"


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
@pytest.mark.parametrize("overwrite", [False, True])
def test_permissions_follow_the_umask_and_leave_it_as_it_is(tmp_path, log_content, umask, mode, overwrite):
    before = os.umask(umask)
    try:
        Log.create(tmp_path / "run.h5", log_content.sizes, log_content.static, {}, overwrite)
    finally:
        after = os.umask(before)
    assert after == umask
    assert (tmp_path / "run.h5").stat().st_mode & 0o777 == mode


# Provenance


def test_provenance_is_text_that_says_how_the_log_was_made(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/mpisim/run.py", "--name", "my run"])
    monkeypatch.setenv("PBS_JOBID", "1234.aurora")
    monkeypatch.setattr("mpisim.storage.provenance.LIBRARIES", ("numpy", "h5py", "mpisim-has-no-such-library"))
    config = {"strategy": "degree", "topology": "ring:n=8", "dataset": "digits", "seed": 7, "rounds": 3}
    attributes = provenance(config, ["host-a", "host-b"], ["cpu", "xpu:0"], [1, 8], "MPICH 4.3")
    assert all(type(value) is str for value in attributes.values())
    assert attributes["title"] == "degree on ring:n=8, digits, seed 7"
    assert attributes["command"] == "python -m mpisim.run --name 'my run'"
    assert attributes["history"] == "made by python -m mpisim.run --name 'my run'"
    assert json.loads(attributes["config"]) == config
    assert attributes["mpisim_version"] == mpisim.__version__
    assert attributes["python_version"] == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(attributes["library_versions"]) == {
        "numpy": np.__version__,
        "h5py": importlib.metadata.version("h5py"),
        "mpisim-has-no-such-library": "unknown",
    }
    assert attributes["mpi_version"] == "MPICH 4.3"
    assert json.loads(attributes["hosts"]) == ["host-a", "host-b"]
    assert json.loads(attributes["devices"]) == ["cpu", "xpu:0"]
    assert json.loads(attributes["threads"]) == [1, 8]
    assert attributes["PBS_JOBID"] == "1234.aurora"


def git(folder, *arguments):
    """Run git on a repository, untouched by whoever's settings."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *identity, *arguments],
        cwd=folder,
        env=environment | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


GIT_STATES = {
    "on a branch": [],
    "on a branch with a slash": [["checkout", "-b", "topic/mixing"]],
    "detached": [["checkout", "--detach", "HEAD~1"]],
    "packed refs": [["pack-refs", "--all"]],
    "packed refs and a newer commit": [["pack-refs", "--all"], ["commit", "--allow-empty", "-m", "3"]],
    "packed refs of branches with one ending": [["branch", "a/main", "HEAD~1"], ["pack-refs", "--all"]],
    "packed annotated tags": [["tag", "-a", "v1", "-m", "v1"], ["pack-refs", "--all"]],
}


@pytest.fixture
def repository(tmp_path):
    """Return a repository with two commits on the branch main."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "symbolic-ref", "HEAD", "refs/heads/main")
    for message in ("1", "2"):
        git(folder, "commit", "--allow-empty", "-m", message)
    return folder


@pytest.mark.parametrize("commands", GIT_STATES.values(), ids=GIT_STATES)
def test_the_commit_of_a_checkout_is_the_one_that_git_says(repository, commands):
    for command in commands:
        git(repository, *command)
    assert git_commit(repository) == git(repository, "rev-parse", "HEAD")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("how", [["-b", "topic"], ["--detach"]])
def test_the_commit_of_a_worktree_is_its_own(repository, packed, how):
    worktree = repository.parent / "worktree"
    git(repository, "worktree", "add", *how, str(worktree), "HEAD~1")
    if packed:
        git(repository, "pack-refs", "--all")
    commit = git_commit(worktree)
    assert commit == git(worktree, "rev-parse", "HEAD")
    assert commit != git_commit(repository)


def test_where_there_is_no_commit_there_is_none(repository, tmp_path):
    assert git_commit(tmp_path / "not there") is None
    (tmp_path / "plain").mkdir()
    assert git_commit(tmp_path / "plain") is None
    git(repository, "checkout", "--orphan", "unborn")
    assert git_commit(repository) is None
    git(repository, "pack-refs", "--all")
    assert git_commit(repository) is None


def test_the_log_names_the_commit_that_mpisim_is_at(repository, monkeypatch):
    (repository / "mpisim").mkdir()
    monkeypatch.setattr(mpisim, "__file__", str(repository / "mpisim" / "__init__.py"))
    config = {"strategy": "degree", "topology": "ring:n=8", "dataset": "digits", "seed": 7}
    assert provenance(config, [], [], [], "")["git_commit"] == git(repository, "rev-parse", "HEAD")
    shutil.rmtree(Path(repository) / ".git")
    assert provenance(config, [], [], [], "")["git_commit"] == ""
