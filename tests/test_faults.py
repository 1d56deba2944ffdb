"""Whatever fails, on whichever rank, at whichever step: the run ends soon, says why, and all on disk is whole."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faulty_run
import h5py
import numpy as np
import pytest
from chaos import descendants, kill, ranks_among
from suite_device import assert_same_results

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


def check_log(path: Path, at_least: int, status: str = "running") -> None:
    """Find out that a log opens and has whole rounds, from the first one on."""
    with h5py.File(path) as log:
        rounds = log["round"][:]
        assert len(rounds) >= at_least
        np.testing.assert_array_equal(rounds, np.arange(1, len(rounds) + 1))
        assert (log["iid_loss"][:] > 0).all()
        assert log.attrs["status"] == status


# A rank that fails.

# Every step of a round, each on one rank, in the second round.
STEPS_OF_A_ROUND = [
    ("post", 1),
    ("train", 2),
    ("send", 1),
    ("test", 0),
    ("wait", 2),
    ("mix", 1),
    ("gather", 2),
    ("append", 0),
    ("write_shard", 1),
    ("commit", 0),
]


@pytest.mark.parametrize(("step", "rank"), [("decide", 0), ("brief", 1), *STEPS_OF_A_ROUND])
def test_an_exception_on_one_rank_ends_all_and_is_told_once(tmp_path: Path, step: str, rank: int) -> None:
    in_a_round = (step, rank) in STEPS_OF_A_ROUND
    finished = faulty(tmp_path, 3, step, rank, 2 if in_a_round else 1, "raise")
    assert finished.returncode == 1, finished.stderr
    assert re.findall(r"^mpisim: rank (\d) of 3 on \S+ failed:$", finished.stderr, re.MULTILINE) == [str(rank)]
    assert finished.stderr.count(f"RuntimeError: {faulty_run.MESSAGE}") == 1
    assert re.search(r'File ".*faulty_run.py", line \d+, in fail', finished.stderr)
    if in_a_round:
        check_log(tmp_path / "disk/log.h5", at_least=1)
    else:
        assert step != "decide" or not (tmp_path / "disk").exists()


@pytest.mark.parametrize(("step", "rank"), STEPS_OF_A_ROUND)
def test_a_rank_that_is_gone_without_a_word_ends_all(tmp_path: Path, step: str, rank: int) -> None:
    finished = faulty(tmp_path, 3, step, rank, 2, "exit")
    assert finished.returncode not in (0, 1, 2, 3), finished.stderr  # 9, its own, or that of a launcher that kills
    check_log(tmp_path / "disk/log.h5", at_least=1)


NO_ANSWER = re.compile(r"^(?:TimeoutError|mpisim): (.+) did not answer for (\d+) s (.+) \(--timeout\)$", re.MULTILINE)


@pytest.mark.parametrize(("step", "rank"), STEPS_OF_A_ROUND)
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


def test_a_rank_that_stands_still_when_all_is_done_ends_all(tmp_path: Path) -> None:
    finished = faulty(tmp_path, 3, "end", 1, 1, "stop")
    assert finished.returncode not in (0, 2, 3)
    assert f"Timeout (0:00:0{TIMEOUT})!" in finished.stderr
    assert "in end" in finished.stderr
    with h5py.File(tmp_path / "disk/log.h5") as log:
        assert log.attrs["status"] == "complete"


def test_ranks_without_nodes_wait_longer_than_the_timeout_and_are_not_named(tmp_path: Path) -> None:
    finished = faulty(tmp_path, 5, "train", 1, 2, "stop", "--topology", "ring:n=3")
    assert finished.returncode == 1, finished.stderr
    assert set(NO_ANSWER.findall(finished.stderr)) == {("rank 1", str(TIMEOUT), "in round 2")}


# A round that does not fit into the walltime.


@pytest.mark.parametrize("rank", [0, 1])
def test_a_round_that_does_not_fit_is_abandoned_and_the_run_goes_on(
    tmp_path: Path, undisturbed: dict[str, Any], rank: int
) -> None:
    """No checkpoint was due, but so near its walltime a run has one of each round."""
    options = ("--checkpoint-every", "0", "--walltime", "20", "--timeout", "100")
    finished = faulty(tmp_path, 2, "train", rank, 3, "linger", *options)
    assert finished.returncode == 3, finished.stderr
    told = [line for line in finished.stderr.splitlines() if line.startswith("mpisim: ")]
    reason = "round 3 does not fit into --walltime 20.0: it is abandoned; --resume goes on, with more time"
    assert told == [f"mpisim: {reason}"]
    assert "Traceback" not in finished.stderr
    check_it_goes_on(tmp_path, undisturbed, 2, "interrupted")


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


def check_it_goes_on(folder: Path, undisturbed: dict[str, Any], num_logged: int, status: str = "running") -> None:
    """Find out that the log and a checkpoint are whole, and that the run goes on from there to the same bits."""
    check_log(folder / "disk/log.h5", at_least=num_logged, status=status)
    newest = checkpoints(folder / "disk/log.ckpt")[0]
    for shard in newest.shards:
        newest.verify(shard)
    finished = launch(folder, *RUN, *[word for word in KEPT if word != "--quiet"], "--resume")
    assert finished.returncode == 0, finished.stderr
    assert f"resumed       after round {newest.round}" in finished.stdout
    assert_same_results(results_of(folder / "disk/log.h5"), undisturbed)


KEPT_IN = {"append": "disk/log.h5", "write_shard": "disk/log.ckpt"}
AGAIN = "once that is mended, the same command with --resume goes on"


def check_told_in_one_line(finished: subprocess.CompletedProcess[str], who: str, where: str, why: str) -> None:
    assert finished.returncode == 1, finished.stdout + finished.stderr
    told = [line for line in finished.stderr.splitlines() if "mpisim" in line]
    assert len(told) == 1, finished.stderr
    assert re.fullmatch(rf"mpisim: {who}cannot write {where}: {why}: {AGAIN}", told[0])
    assert "Traceback" not in finished.stderr


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
    """Whichever rank is the first to find it full."""
    finished = faulty(tmp_path, 2, step, rank, 3, "full")
    check_told_in_one_line(finished, r"rank \d of 2 on \S+ ", r"disk/log\.(h5|ckpt)", "No space left on device")
    (tmp_path / "disk/ballast").unlink()
    check_it_goes_on(tmp_path, undisturbed, num_logged)


def test_a_disk_that_the_run_itself_fills_leaves_all_whole_and_the_run_goes_on(
    tmp_path: Path, small_disk: Callable[..., None], undisturbed: dict[str, Any]
) -> None:
    """It takes two checkpoints of six models, 413 kB each, and the log, 412 kB, but none of them once more."""
    small_disk("-o", "remount,size=1600000")
    finished = launch(tmp_path, "mpiexec", "-n", 3, *RUN, *KEPT)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert re.search(
        rf"^mpisim: rank .* cannot write disk/log.*: No space left on device: {AGAIN}$", finished.stderr, re.M
    )
    assert "Traceback" not in finished.stderr
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
    check_told_in_one_line(finished, r"rank 0 of 2 on \S+ ", "disk/log.h5", "Operation not permitted")
    check_it_goes_on(tmp_path, undisturbed, num_logged=2)


@pytest.mark.parametrize(("step", "rank", "num_logged"), [("append", 0, 2), ("write_shard", 1, 3)])
def test_a_quota_on_the_size_of_a_file_leaves_all_whole_and_the_run_goes_on(
    tmp_path: Path, undisturbed: dict[str, Any], step: str, rank: int, num_logged: int
) -> None:
    finished = faulty(tmp_path, 2, step, rank, 3, "limit")
    check_told_in_one_line(finished, rf"rank {rank} of 2 on \S+ ", KEPT_IN[step], "File too large")
    check_it_goes_on(tmp_path, undisturbed, num_logged)


@pytest.mark.parametrize(("step", "ranks", "who"), [("append", 2, r"rank 0 of 2 on \S+ "), ("write_shard", 1, "")])
def test_a_folder_that_vanishes_is_named_and_not_made_anew(tmp_path: Path, step: str, ranks: int, who: str) -> None:
    finished = faulty(tmp_path, ranks, step, 0, 3, "vanish")
    check_told_in_one_line(finished, who, KEPT_IN[step], "No such file or directory")
    assert not (tmp_path / "disk").exists()


@pytest.mark.parametrize("room", [0, 300_000], ids=["none", "for no more than the log"])
def test_a_disk_too_small_for_a_run_on_one_rank_is_told_in_one_line(
    tmp_path: Path, small_disk: Callable[..., None], undisturbed: dict[str, Any], room: int
) -> None:
    """The log takes 200 kB and more, a checkpoint 413 kB."""
    (tmp_path / "disk/ballast").write_bytes(bytes((4 << 20) - room))
    finished = launch(tmp_path, *RUN, *KEPT)
    check_told_in_one_line(finished, "", r"disk/log\.(h5|ckpt)", "No space left on device")
    (tmp_path / "disk/ballast").unlink()
    finished = launch(tmp_path, *RUN, *KEPT, "--resume")
    assert finished.returncode == 0, finished.stderr
    assert results_of(tmp_path / "disk/log.h5").keys() == undisturbed.keys()


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
