"""Whatever fails, on whichever rank, at whichever step: the run ends soon, says why, and all on disk is whole."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faulty_run
import h5py
import networkx as nx
import numpy as np
import pytest
from chaos import descendants, kill, ranks_among
from conftest import LogContent
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpisim.analysis.logs import open_file
from mpisim.arguments import parse_config, read_toml
from mpisim.config import Config
from mpisim.data.idx import read_idx
from mpisim.errors import InputError
from mpisim.graphs.files import read_topology
from mpisim.graphs.generators import make_topology
from mpisim.graphs.topology import Topology
from mpisim.resuming import check_same_experiment
from mpisim.run import main
from mpisim.storage.checkpoint import checkpoints

SECONDS = 60  # that a run may take to its end, on a machine that does much else
TIMEOUT = 4
RUN = [sys.executable, "-m", "mpisim.run"]
SIZE = ["--topology", "ring:n=6", "--rounds", "4", "--epochs", "1", "--train-samples", "100", "--test-samples", "60"]
SHORT = [*SIZE, "--threads", "1", "--quiet"]
KEPT = [*SHORT, "--checkpoint-every", "1", "--output", "disk/log.h5"]


def launch(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; whatever of it is left is ended, and is an error."""
    try:
        return subprocess.run(
            list(map(str, command)),
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    finally:
        until = time.monotonic() + 10  # mpiexec returns a moment before the last of its processes is gone
        while left := pids_in(folder):
            if time.monotonic() > until:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                pytest.fail(f"processes {left} are left")
            time.sleep(0.05)


def pids_in(folder: Path) -> list[int]:
    """Return the processes that work in a folder, but for this one."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cwd").readlink() == folder.resolve():
                found.append(int(process.name))
        except OSError:  # not ours to look into, or gone
            continue
    return [pid for pid in found if pid != os.getpid()]


def faulty(
    folder: Path, ranks: int, step: str, rank: int, call: int, fault: str, *options: str
) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, faulty_run.__file__, step, rank, call, fault]
    return launch(folder, "mpiexec", "-n", ranks, *script, *KEPT, "--timeout", TIMEOUT, *options)


def check_log(path: Path, at_least: int) -> None:
    """Find out that a log opens and has whole rounds, from the first one on."""
    with h5py.File(path) as log:
        rounds = log["round"][:]
        assert len(rounds) >= at_least
        np.testing.assert_array_equal(rounds, np.arange(1, len(rounds) + 1))
        assert (log["iid_loss"][:] > 0).all()
        assert log.attrs["status"] == "running"


# A rank that fails.


@pytest.mark.parametrize(
    ("step", "rank", "call"),
    [
        ("decide", 0, 1),
        ("brief", 1, 1),
        ("train", 2, 2),
        ("wait", 0, 2),
        ("mix", 1, 2),
        ("gather", 2, 2),
        ("append", 0, 2),
        ("commit", 0, 2),
    ],
)
def test_an_exception_on_one_rank_ends_all_and_is_told_once(tmp_path: Path, step: str, rank: int, call: int) -> None:
    finished = faulty(tmp_path, 3, step, rank, call, "raise")
    assert finished.returncode == 1, finished.stderr
    assert re.findall(r"^mpisim: rank (\d) of 3 on \S+ failed:$", finished.stderr, re.MULTILINE) == [str(rank)]
    assert finished.stderr.count(f"RuntimeError: {faulty_run.MESSAGE}") == 1
    assert re.search(r'File ".*faulty_run.py", line \d+, in fail', finished.stderr)
    if call > 1:
        check_log(tmp_path / "disk/log.h5", at_least=1)
    else:
        assert step != "decide" or not (tmp_path / "disk").exists()


@pytest.mark.parametrize(("step", "rank"), [("send", 1), ("train", 0), ("write_shard", 2)])
def test_a_rank_that_is_gone_without_a_word_ends_all(tmp_path: Path, step: str, rank: int) -> None:
    finished = faulty(tmp_path, 3, step, rank, 2, "exit")
    assert finished.returncode != 0
    check_log(tmp_path / "disk/log.h5", at_least=1)


NO_ANSWER = re.compile(r"^(?:TimeoutError|mpisim): (.+) did not answer for (\d+) s (.+) \(--timeout\)$", re.MULTILINE)


@pytest.mark.parametrize(
    ("step", "rank"), [("train", 1), ("wait", 2), ("mix", 1), ("append", 0), ("write_shard", 2), ("commit", 0)]
)
def test_a_rank_that_stands_still_alone_is_named_and_ends_all(tmp_path: Path, step: str, rank: int) -> None:
    finished = faulty(tmp_path, 3, step, rank, 2, "stop")
    assert finished.returncode == 1, finished.stderr
    told = NO_ANSWER.findall(finished.stderr)
    assert {(who, seconds) for who, seconds, _ in told} == {(f"rank {rank}", str(TIMEOUT))}, finished.stderr
    assert {when for _, _, when in told} <= {"in round 2", "in round 3"}
    check_log(tmp_path / "disk/log.h5", at_least=1)


@pytest.mark.parametrize(
    ("step", "rank", "doing"),
    [
        ("options", 0, "while rank 0 read the options"),
        ("decide", 0, "while rank 0 prepared the experiment (if it downloads data, that counts)"),
        ("device", 2, "while each rank looked for its place and device"),
        ("open", 0, "while rank 0 opened the log"),
        ("split", 1, "while rank 0 told the others what is theirs"),
        ("nodes", 2, "while each rank made its nodes"),
        ("play", 1, "before the first round"),
        ("set_status", 0, "after the last round"),
    ],
)
def test_a_rank_that_stands_still_outside_of_the_rounds_is_named_with_what_was_done(
    tmp_path: Path, step: str, rank: int, doing: str
) -> None:
    finished = faulty(tmp_path, 3, step, rank, 1, "stop")
    assert finished.returncode == 1, finished.stderr
    assert set(NO_ANSWER.findall(finished.stderr)) == {(f"rank {rank}", str(TIMEOUT), doing)}, finished.stderr
    if step != "set_status":
        assert not list(tmp_path.glob("disk/log.ckpt/*"))


def test_a_rank_that_stands_still_as_a_checkpoint_is_read_is_named(tmp_path: Path) -> None:
    finished = launch(tmp_path, *RUN, *KEPT, "--rounds", "2")
    assert finished.returncode == 0, finished.stderr
    finished = faulty(tmp_path, 3, "restore", 2, 1, "stop", "--resume")
    assert finished.returncode == 1
    assert set(NO_ANSWER.findall(finished.stderr)) == {("rank 2", str(TIMEOUT), "while the ranks read a checkpoint")}
    with h5py.File(tmp_path / "disk/log.h5") as log:
        assert log["round"][:].tolist() == [1, 2]


def test_a_rank_that_stands_still_within_mpi_ends_all(tmp_path: Path) -> None:
    """Where the others are within MPI, too, and hear nothing: they cannot tell who it is."""
    finished = faulty(tmp_path, 3, "within MPI", 1, 1, "stop")
    assert finished.returncode not in (0, 2, 3)  # 1, or that of a rank which the launcher killed
    assert {(who, seconds) for who, seconds, _ in NO_ANSWER.findall(finished.stderr)} == {
        ("another rank", str(TIMEOUT))
    }


def test_ranks_without_nodes_wait_longer_than_the_timeout_and_are_not_named(tmp_path: Path) -> None:
    finished = faulty(tmp_path, 5, "train", 1, 2, "stop", "--topology", "ring:n=3")
    assert finished.returncode == 1, finished.stderr
    assert set(NO_ANSWER.findall(finished.stderr)) == {("rank 1", str(TIMEOUT), "in round 2")}


# A signal before the first round.


def check_stopped_before_the_first_round(code: int, errors: str, folder: Path, number: signal.Signals) -> None:
    assert code == 3, errors
    told = [line for line in errors.splitlines() if line.startswith("mpisim: ")]
    assert told == [f"mpisim: stopped by {number.name} before the first round"]
    assert "Traceback" not in errors
    assert {path.name for path in folder.iterdir()} <= {"lingers"}


@pytest.mark.parametrize(("step", "rank"), [("options", 0), ("device", 2)])
def test_a_signal_to_one_rank_before_there_is_a_log_ends_all_with_one_line(
    tmp_path: Path, step: str, rank: int
) -> None:
    finished = faulty(tmp_path, 3, step, rank, 1, "term")
    check_stopped_before_the_first_round(finished.returncode, finished.stderr, tmp_path, signal.SIGTERM)


SIGNALLED_AT_IMPORT = """
import os
import signal
import sys

class Signals:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1] and "1" in (os.environ.get("PMI_RANK"), os.environ.get("OMPI_COMM_WORLD_RANK")):
            os.kill(os.getpid(), signal.SIGTERM)

from mpisim import run

sys.meta_path.insert(0, Signals())
sys.exit(run.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("module", ["mpi4py.MPI", "torch._C"])
def test_a_signal_to_one_rank_that_still_imports_ends_all_with_one_line(tmp_path: Path, module: str) -> None:
    """Before MPI has started, too, where the others would wait for a rank that ends, for ever."""
    finished = launch(tmp_path, "mpiexec", "-n", 2, sys.executable, "-c", SIGNALLED_AT_IMPORT, module, *KEPT)
    check_stopped_before_the_first_round(finished.returncode, finished.stderr, tmp_path, signal.SIGTERM)


@pytest.mark.parametrize(
    ("number", "whom"),
    [
        (signal.SIGTERM, "mpiexec"),
        (signal.SIGINT, "mpiexec"),
        (signal.SIGINT, "all, as a terminal does"),
        (signal.SIGTERM, "rank 0"),
        (signal.SIGINT, "rank 1"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_signal_ends_a_start_that_takes_long_soon(tmp_path: Path, number: signal.Signals, whom: str) -> None:
    script = [sys.executable, faulty_run.__file__, "decide", "0", "1", "linger", *KEPT]
    with subprocess.Popen(
        ["mpiexec", "-n", "3", *script],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            while not (tmp_path / "lingers").exists():
                assert process.poll() is None
                time.sleep(0.05)
            time.sleep(1)  # the others come to wait for rank 0
            if whom == "mpiexec":
                process.send_signal(number)
            elif whom.startswith("rank"):
                os.kill(ranks_among(descendants(process.pid))[int(whom[-1])], number)
            else:
                os.killpg(process.pid, number)
            _, errors = process.communicate(timeout=SECONDS)
        finally:
            kill([*descendants(process.pid), process.pid] if process.poll() is None else [])
    check_stopped_before_the_first_round(process.returncode, errors, tmp_path, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_the_start_of_one_rank_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mpisim.simulation.decide", lambda *_: os.kill(os.getpid(), number))
    code = main(KEPT)
    check_stopped_before_the_first_round(code, capsys.readouterr().err, tmp_path, number)


@pytest.mark.parametrize(("step", "rank"), [("open", 0), ("brief", 1)])
def test_a_signal_once_the_log_is_opened_ends_the_run_after_a_round(tmp_path: Path, step: str, rank: int) -> None:
    finished = faulty(tmp_path, 3, step, rank, 1, "term")
    assert finished.returncode == 3, finished.stderr
    assert finished.stderr == ""
    with h5py.File(tmp_path / "disk/log.h5") as log:
        assert log.attrs["status"] == "interrupted"
        assert log["round"][:].tolist() == [1]


# A disk that fails.


def results_of(path: Path) -> dict[str, Any]:
    """Return what a log holds that does not depend on the clock or the ranks."""
    of_ranks = {"rank", "rank_of_node", "bytes_sent", "peak_memory"}
    with h5py.File(path) as log:
        return {name: log[name][:] for name in log if name not in of_ranks and not name.endswith("_seconds")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = launch(folder, *RUN, *KEPT)
    assert finished.returncode == 0, finished.stderr
    return results_of(folder / "disk/log.h5")


def check_it_goes_on(folder: Path, undisturbed: dict[str, Any], num_logged: int) -> None:
    """Find out that the log and a checkpoint are whole, and that the run goes on from there to the same bits."""
    check_log(folder / "disk/log.h5", at_least=num_logged)
    newest = checkpoints(folder / "disk/log.ckpt")[0]
    for shard in newest.shards:
        newest.verify(shard)
    finished = launch(folder, *RUN, *[word for word in KEPT if word != "--quiet"], "--resume")
    assert finished.returncode == 0, finished.stderr
    assert f"resumed       after round {newest.round}" in finished.stdout
    found = results_of(folder / "disk/log.h5")
    assert found.keys() == undisturbed.keys()
    for name, values in undisturbed.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Give a function that mounts a small disk at tmp_path/disk, or mounts it anew with other options."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options: str) -> None:
        mounted = subprocess.run(["mount", *options, str(disk)], capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")

    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs")
    yield mount
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(("step", "rank", "num_logged"), [("append", 0, 2), ("write_shard", 1, 2)])
def test_a_full_disk_leaves_all_whole_and_the_run_goes_on(
    tmp_path: Path,
    small_disk: Callable[..., None],
    undisturbed: dict[str, Any],
    step: str,
    rank: int,
    num_logged: int,
) -> None:
    finished = faulty(tmp_path, 2, step, rank, 3, "full")
    assert finished.returncode == 1
    assert re.search(r"^OSError: .*No space left on device", finished.stderr, re.MULTILINE)
    (tmp_path / "disk/ballast").unlink()
    check_it_goes_on(tmp_path, undisturbed, num_logged)


def test_a_disk_that_the_run_itself_fills_leaves_all_whole_and_the_run_goes_on(
    tmp_path: Path, small_disk: Callable[..., None], undisturbed: dict[str, Any]
) -> None:
    """It takes two checkpoints of six models, 413 kB each, and the log, 412 kB, but none of them once more."""
    small_disk("-o", "remount,size=1600000")
    finished = launch(tmp_path, "mpiexec", "-n", 3, *RUN, *KEPT)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert re.search(r"^OSError: .*No space left on device", finished.stderr, re.MULTILINE)
    small_disk("-o", "remount,size=4m")
    check_it_goes_on(tmp_path, undisturbed, num_logged=2)


def test_a_folder_that_becomes_read_only_is_named_and_the_run_goes_on(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    (tmp_path / "disk").mkdir()
    for change in ("+i", "-i"):  # an attribute that binds root too
        changed = subprocess.run(["chattr", change, tmp_path / "disk"], capture_output=True, check=False)
        if changed.returncode != 0:
            pytest.skip("no folder can be made immutable here")
    try:
        finished = faulty(tmp_path, 2, "append", 0, 3, "read-only")
    finally:
        subprocess.run(["chattr", "-i", tmp_path / "disk"], check=True)
    assert finished.returncode == 1
    assert re.search(
        r"^PermissionError: .*Operation not permitted: 'disk/\.log\.h5\.\d+'", finished.stderr, re.MULTILINE
    )
    check_it_goes_on(tmp_path, undisturbed, num_logged=2)


@pytest.mark.parametrize(("step", "rank", "num_logged"), [("append", 0, 2), ("write_shard", 1, 3)])
def test_a_quota_on_the_size_of_a_file_leaves_all_whole_and_the_run_goes_on(
    tmp_path: Path, undisturbed: dict[str, Any], step: str, rank: int, num_logged: int
) -> None:
    finished = faulty(tmp_path, 2, step, rank, 3, "limit")
    assert finished.returncode == 1
    assert f"mpisim: rank {rank} of 2 on" in finished.stderr
    assert re.search(r"^OSError: .*File too large", finished.stderr, re.MULTILINE)
    check_it_goes_on(tmp_path, undisturbed, num_logged)


def test_a_folder_that_vanishes_is_named(tmp_path: Path) -> None:
    finished = faulty(tmp_path, 2, "append", 0, 3, "vanish")
    assert finished.returncode == 1
    assert re.search(r"^FileNotFoundError: .*No such file or directory: '?disk/", finished.stderr, re.MULTILINE)


def test_a_folder_that_cannot_be_written_at_the_start_is_wrong_input(
    tmp_path: Path, small_disk: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_disk("-o", "remount,ro")
    monkeypatch.chdir(tmp_path)
    assert main(KEPT) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"mpisim: the log's folder cannot be written: .*Read-only file system: '?.*disk.*\n", err)
    assert list((tmp_path / "disk").iterdir()) == []


# Numbers that go wrong.

DIVERGES = [*SHORT, "--lr", "1e30"]


def test_each_node_that_diverges_is_named_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*DIVERGES, "--output", "log.h5"]) == 0
    named = re.findall(
        r"^mpisim: the loss of node (\d) is not finite in round (\d): it goes on", capfd.readouterr().err, re.MULTILINE
    )
    with h5py.File("log.h5") as log:
        assert log.attrs["status"] == "complete"
        assert log["round"][:].tolist() == [1, 2, 3, 4]
        diverged = ~np.isfinite(log["train_loss"][:])
    assert diverged.any(axis=0).all()
    assert sorted(named) == [(str(node), str(1 + diverged[:, node].argmax())) for node in range(6)]


def test_a_run_that_stops_on_nan_logs_the_round_and_names_the_node(tmp_path: Path) -> None:
    finished = launch(tmp_path, "mpiexec", "-n", 2, *RUN, *DIVERGES, "--stop-on-nan", "--output", "log.h5")
    assert finished.returncode == 1
    [(node, round)] = re.findall(
        r"^FloatingPointError: the loss of node (\d) is not finite in round (\d) \(--stop-on-nan\)$",
        finished.stderr,
        re.MULTILINE,
    )
    with h5py.File(tmp_path / "log.h5") as log:
        loss = log["train_loss"][:]
    assert len(loss) == int(round)
    assert not np.isfinite(loss[-1, int(node)])
    assert np.isfinite(loss[:-1]).all()


# Files that are wrong: a valid object or the one-line error, whatever is in them.

FEW = settings(derandomize=True, deadline=None, max_examples=150)
ENDLESS = b"9" * 5000  # more digits than Python makes a number of


def damaged(wholes: Sequence[bytes], words: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return valid files in which up to four pieces are replaced, by a few bytes or by words that matter there."""

    @st.composite
    def strategy(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(wholes)))
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(0, len(content)))
            end = start + draw(st.integers(0, 8))
            content[start:end] = draw(st.binary(max_size=8) | st.sampled_from(words))
        return bytes(content)

    return strategy()


def check_reader(read: Callable[[Path], Any], name: str, content: bytes, error: type[Exception] = InputError) -> Any:
    """Return what a reader makes of a file, None after the one-line error, which names it if it is for a person."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return read(path)
        except error as raised:
            assert error is not InputError or path.name in str(raised)
            assert "\n" not in str(raised)
            return None


def npy(header: str, data: bytes) -> bytes:
    line = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + data


def npy_matrix(descr: str, shape: str, data: bytes) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", data)


def graphml(body: str, kind: str = "double", start: str = "") -> bytes:
    key = f'<key id="w" for="edge" attr.name="weight" attr.type="{kind}"/>'
    text = f'<graphml xmlns="http://graphml.graphdrawing.org/xmlns">{key}<graph edgedefault="undirected">{body}</graph>'
    return f"{start}{text}</graphml>".encode()


def edge(value: str) -> str:
    return f'<node id="0"/><node id="1"/><edge source="0" target="1"><data key="w">{value}</data></edge>'


TOPOLOGIES = {
    ".txt": (
        [b"0 1\n1 0\n", b"0, 1, .5 # a\n1, 0, 0\n.5, 0, 0\n"],
        [b"nan", b"1e999", b"0x1", b"\xef\xbb\xbf", ENDLESS],
    ),
    ".edgelist": ([b"0 1 0.5\n1 2\n", b"0 1 {}\n"], [b"-1", b"1e9", b"1_0", b"nan", b" 1000000000000", b"\r", ENDLESS]),
    ".graphml": (
        [
            graphml(edge("0.5")),
            graphml(edge("1"), "long"),
            graphml(edge("1"), "string"),
            graphml(edge("true"), "boolean"),
        ],
        [b"<", b"&#10;", b'"', b"&a;", b"<!DOCTYPE a>", b"<node/>", b"<edge/>", b"<graph/>", b"</graph>", ENDLESS],
    ),
    ".npy": (
        [
            npy_matrix(f"'{kind}'", "(2, 2)", np.array([[0, 1], [1, 0]], kind).tobytes())
            for kind in ("<f8", "|b1", ">i4")
        ]
        + [npy_matrix("[('a', '<f8')]", "(1, 1)", bytes(8))],
        [b"O", b"V0", b"U0", b"(1000000000000, 1000000000000)", b"-1", b"True", b"'", b"\n", b"[", ENDLESS],
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::SyntaxWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("suffix", TOPOLOGIES)
def test_any_topology_file_is_a_topology_or_the_one_line_error(suffix: str) -> None:
    wholes, words = TOPOLOGIES[suffix]

    @FEW
    @given(content=st.binary(max_size=200) | st.text().map(str.encode) | damaged(wholes, words))
    def check(content: bytes) -> None:
        topology = check_reader(read_topology, f"graph{suffix}", content)
        if topology is not None:
            matrix = topology.adjacency.toarray()
            assert isinstance(topology, Topology)
            np.testing.assert_array_equal(matrix, matrix.T)
            assert ((matrix >= 0) & (matrix <= 1)).all()

    check()


HOSTILE_GRAPHML = {
    "a number of a node without end": graphml(f'<node id="{"9" * 5000}"/>'),
    "a weight beyond all floats": graphml(edge("9" * 400), "long"),
    "a weight without end": graphml(edge("9" * 5000), "long"),
    "a weight on two lines": graphml(edge("o&#10;x")),
    "tags without end": b"<a>" * 50_000,
    "names on two lines": graphml('<node id="a&#10;b"/><hyperedge/>'),
}


@pytest.mark.parametrize("content", HOSTILE_GRAPHML.values(), ids=HOSTILE_GRAPHML)
def test_a_hostile_graphml_file_is_the_one_line_error(content: bytes) -> None:
    assert check_reader(read_topology, "graph.graphml", content) is None


LAUGHS = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
BILLION_LAUGHS = graphml(edge("&l9;"), start=f'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY l0 "lol">{LAUGHS}]>')
PROMISES = {
    "entities that expand": ("a.graphml", BILLION_LAUGHS),
    "entities that expand, in UTF-16": ("a.graphml", BILLION_LAUGHS.decode().encode("utf-16")),
    "a node of a large number": ("a.graphml", graphml('<node id="0"/><node id="1000000000000"/>')),
    "an edge to a large number": ("a.edgelist", b"0 1000000000000\n"),
    "10^12 nodes": ("a.npy", npy_matrix("'|b1'", "(1000000000000, 1000000000000)", bytes(64))),
    "10^12 nodes of no bytes": ("a.npy", npy_matrix("'|V0'", "(1000000000000, 1000000000000)", b"")),
    "10^12 empty rows": ("a.npy", npy_matrix("'<f8'", "(1000000000000, 0)", b"")),
}


@pytest.mark.parametrize(("name", "content"), PROMISES.values(), ids=PROMISES)
def test_no_memory_is_taken_for_what_a_topology_file_promises(name: str, content: bytes) -> None:
    nx.parse_graphml(graphml(edge("1")).decode())  # what it imports is not the file's
    tracemalloc.start()
    try:
        assert check_reader(read_topology, name, content) is None
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


GENERATE = """
import resource, sys
import networkx
from mpisim.errors import InputError
from mpisim.graphs.generators import make_topology
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.RLIM_INFINITY))
try:
    make_topology(sys.argv[1])
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("spec", ["ring:n=200000000", "ba:n=100000,m=50000", "ws:n=100000,k=99998,p=0.1"])
def test_a_generator_refuses_what_no_memory_holds(spec: str) -> None:
    """Graphs of which Python's objects would take 20 GB at the least, in a process that may take 2."""
    finished = subprocess.run(
        [sys.executable, "-c", GENERATE, spec],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert finished.stderr == ""
    assert re.fullmatch(f"topology '{spec}': .*too many.*\n", finished.stdout)


@FEW
@given(
    name=st.sampled_from(["ba", "er", "path", "powerlaw", "regular", "ring", "sb", "star", "torus", "ws", "blob"]),
    parameters=st.dictionaries(
        st.sampled_from(["n", "m", "k", "p", "seed", "sizes", "p_in", "p_out"]),
        st.integers(-1, 12).map(str)
        | st.sampled_from(["1000000000000", "9" * 5000, "1-2-3", "0.5", "nan", "-", "a\nb"]),
    ),
)
@example(name="ring", parameters={"n": "1000000000000"})
def test_any_generator_is_a_topology_or_the_one_line_error(name: str, parameters: dict[str, str]) -> None:
    spec = f"{name}:" + ",".join(f"{key}={value}" for key, value in parameters.items())
    try:
        assert make_topology(spec).num_nodes >= 1
    except InputError as error:
        assert "\n" not in str(error)


TOML = [b"rounds = 3\nlr = 0.1\nood_node = [1, 2]\nname = 'a'\n", b'quiet = true\nbetas = [0.9, 0.99]\n"seed" = 0x1f\n']
TOML_WORDS = [
    b"[",
    b"[[a]]",
    b"=",
    b"''",
    b'"""',
    b"{",
    b"1979-05-27",
    b"inf",
    b"\\u0000",
    b"\n",
    b"a.b=1",
    b"_",
    ENDLESS,
]


@FEW
@given(content=st.binary(max_size=100) | st.text().map(str.encode) | damaged(TOML, TOML_WORDS))
@example(content=b"name = '\xff'")
def test_any_toml_file_is_options_or_the_one_line_error(content: bytes) -> None:
    options = check_reader(read_toml, "options.toml", content)
    if options is not None:
        assert options.keys() <= vars(Config()).keys()
        try:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "options.toml"
                path.write_bytes(content)
                assert isinstance(parse_config(["--config", str(path)]), Config)
        except InputError as error:
            assert "\n" not in str(error)


HOSTILE_TOML = {
    "a number without end": b"seed = " + ENDLESS,
    "lists in lists without end": b"name = " + b"[" * 5000,
    "tables in tables without end": b"name = " + b"{a = " * 5000,
}


@pytest.mark.parametrize("content", HOSTILE_TOML.values(), ids=HOSTILE_TOML)
def test_a_hostile_toml_file_is_the_one_line_error(content: bytes) -> None:
    assert check_reader(read_toml, "options.toml", content) is None


def idx(sizes: Sequence[int], data: bytes) -> bytes:
    return bytes([0, 0, 8, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + data


HUGE = 2**32 - 1


@FEW
@given(
    content=st.binary(max_size=64)
    | damaged([idx([2, 2, 3], bytes(12)), idx([0, 28, 28], b"")], [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\x08\x03"]),
)
@example(content=idx([HUGE, HUGE, HUGE], bytes(12)))
@example(content=idx([HUGE, HUGE, 0], b""))
@example(content=idx([HUGE, 1, 0], b""))
def test_any_idx_file_is_an_array_or_the_one_line_error(content: bytes) -> None:
    def read(path: Path) -> np.ndarray:
        return read_idx(path, 3)

    array = check_reader(read, "train-images-idx3-ubyte", content, ValueError)
    if array is not None:
        assert content == idx(array.shape, array.tobytes())


def read_log(path: Path) -> str:
    with open_file(path) as file:
        return str(file.attrs["schema"])


def test_any_log_is_a_log_or_the_one_line_error(tmp_path: Path, log_content: LogContent) -> None:
    """Eight bytes anywhere in a log, its attributes among them, become others."""
    rng = np.random.default_rng(0)
    whole = np.frombuffer(log_content.write(tmp_path / "log.h5", [log_content.round()]).read_bytes(), dtype=np.uint8)
    starts = rng.choice(len(whole) // 8, 1_000, replace=False) * 8
    opened = 0
    for start in starts.tolist():
        content = whole.copy()
        content[start : start + 8] = rng.integers(0, 256, 8)
        schema = check_reader(read_log, "log.h5", content.tobytes())
        assert schema in (None, "mpisim-log")
        opened += schema is not None
    assert 0 < opened < len(starts)


@FEW
@given(content=st.binary(max_size=200), cut=st.integers(0, 3000))
def test_what_is_no_whole_hdf5_file_is_the_one_line_error(log_bytes: bytes, content: bytes, cut: int) -> None:
    assert check_reader(read_log, "log.h5", content) is None
    assert check_reader(read_log, "log.h5", log_bytes[: min(cut, len(log_bytes) // 2)] + content) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.floats() | st.text(max_size=4),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=5,
)


@FEW
@given(
    config=JSON.map(json.dumps) | st.text(st.characters(exclude_characters="\0"), max_size=9), size=st.integers(0, 3)
)
@example(config="[]", size=1)
@example(config="[" * 100_000, size=1)
def test_a_log_with_any_options_is_not_gone_on_with(config: str, size: int) -> None:
    def resume(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.attrs["schema"] = "mpisim-log"
            file["round"] = np.arange(size)
            file.attrs.create("config", config.encode(errors="replace")[:60_000])
        check_same_experiment(Config(), path)
        raise AssertionError("it would go on")

    assert check_reader(resume, "log.h5", b"") is None


MANIFEST: dict[str, Any] = {
    "schema": "mpisim-checkpoint",
    "schema_version": 1,
    "round": 8,
    "num_nodes": 2,
    "options": {"seed": 0},
    "shards": [{"name": "rank-00000.safetensors", "size": 100, "checksum": 1, "nodes": [0, 1]}],
}


@FEW
@given(field=st.sampled_from(sorted(MANIFEST)), of_shard=st.sampled_from(sorted(MANIFEST["shards"][0])), value=JSON)
@example(field="num_nodes", of_shard="nodes", value=10**12)
@example(field="round", of_shard="size", value=8.0)
def test_a_forged_manifest_is_a_checkpoint_of_its_nodes_or_passed_over(field: str, of_shard: str, value: Any) -> None:
    """Its checksum is right: who forges the one forges the other."""
    for forged in (
        MANIFEST | {field: value},
        MANIFEST | {"shards": [MANIFEST["shards"][0] | {of_shard: value}]},
    ):
        signed = json.dumps(forged | {"checksum": zlib.crc32(json.dumps(forged).encode())})
        with TemporaryDirectory() as folder:
            path = Path(folder) / "round-000008/manifest.json"
            path.parent.mkdir()
            path.write_text(signed)
            lines: list[str] = []
            found = checkpoints(Path(folder), lines.append)
            assert len(found) + len(lines) == 1
            assert "\n" not in "".join(lines)
            for checkpoint in found:
                assert (checkpoint.round, checkpoint.num_nodes) == (8, 2)
                assert type(checkpoint.round) is int
                assert [shard.nodes for shard in checkpoint.shards] == [(0, 1)]
