"""The bench of devices: what it says of what ranks found, all of it on two CPUs, and how it ends if a way fails."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import faulty_examination
import h5py
import numpy as np
import pytest
from mpi4py import MPI

from mpisim import Config, Simulation
from mpisim.bench.__main__ import main
from mpisim.bench.devices import report
from mpisim.bench.twins import differences, pairs

ON_CPUS, BY_TORCH = "on xpu and on CPUs", "on xpu, models by torch.distributed and by MPI, staged"
FOUND = {
    "places": [{"host": "h1", "device": "xpu:0 (Max 1550)"}, {"host": "h2", "device": "xpu:1 (Max 1550)"}],
    "kind": "xpu",
    "faults": {"staged": "", "buffers": "3 of 8 numbers from rank 1 were wrong on rank 0", "link": ""},
    "seconds": {"staged": [0.1, 0.2, 0.4], "buffers": [], "link": [0.05, 0.05, 0.1]},
    "differences": {
        ON_CPUS: {"train_loss": 2e-6, "iid_loss": 3.21e-5, "participated": 0.0},
        BY_TORCH: {"train_loss": 0.0, "iid_loss": 0.0, "participated": 0.0},
    },
}


def test_the_report_names_devices_faults_speeds_and_the_largest_difference():
    lines = report(FOUND, 10**9).as_text().splitlines()
    assert lines[1].split() == ["torch.distributed", "200", "ms", "50.0", "ms", "0.25", "0.25–0.50", "–"]
    assert lines[0].split()[:2] == ["MPI,", "staged"]
    assert lines[2:] == [
        "rank 0  h1  xpu:0 (Max 1550)",
        "rank 1  h2  xpu:1 (Max 1550)",
        "MPI, staged: self-test passed, 5.00 GB/s each way",
        "MPI, device buffers: self-test failed: 3 of 8 numbers from rank 1 were wrong on rank 0",
        "torch.distributed: self-test passed, 20.00 GB/s each way",
        "two rounds on xpu and on CPUs: the results in the logs differ by 3.2e-05 of the largest value at the most"
        " (iid_loss)",
        "two rounds on xpu, models by torch.distributed and by MPI, staged: the results in the logs are equal",
        "verdict: models can travel by way of MPI, and results are right",
    ]


def test_nothing_that_passed_is_a_table_without_rows():
    nothing = {"faults": dict.fromkeys(FOUND["faults"], "broken"), "seconds": {way: [] for way in FOUND["seconds"]}}
    told = report(FOUND | nothing | {"differences": {}}, 10**9)
    assert told.failed
    assert told.as_text().splitlines()[3:] == [
        "MPI, staged: self-test failed: broken",
        "MPI, device buffers: self-test failed: broken",
        "torch.distributed: self-test failed: broken",
        "verdict: MPI, staged is not to be trusted",
    ]


def test_the_verdict_is_about_losses_and_the_way_that_runs_take_by_themselves():
    far = {"train_loss": 1.1e-4, "iid_loss": 1e-4, "iid_accuracy": 0.02, "ood_loss": float("inf")}
    told = report(FOUND | {"differences": {ON_CPUS: far, BY_TORCH: {"iid_loss": 1e-3}}}, 10**9)
    assert told.failed
    assert told.notes[-1] == (
        f"verdict: train_loss, ood_loss differ by more than 0.0001 {ON_CPUS}; iid_loss differs by more than 0.0001"
        f" {BY_TORCH}"
    )
    assert not report(FOUND, 10**9).failed


@pytest.mark.parametrize(
    "kind, faults, compared",
    [
        ("cpu", {"host": "", "link": ""}, {"on cpu, models by torch.distributed and by MPI": ("link", "mpi")}),
        ("cpu", {"host": "", "link": "no gloo"}, {}),
        ("cpu", {}, {}),  # one rank
        ("cuda", {}, {"on cuda and on CPUs": ("mpi", "cpus")}),
        ("xpu", FOUND["faults"], {ON_CPUS: ("mpi", "cpus"), BY_TORCH: ("link", "mpi")}),
        ("xpu", {"staged": "wrong numbers", "buffers": "", "link": ""}, {}),  # no run would end well
    ],
)
def test_runs_are_compared_that_differ_in_device_or_transport(kind, faults, compared):
    assert pairs(kind, faults) == compared


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("logs") / "one.h5"
    size = {"topology": "ring:n=3", "rounds": 2, "epochs": 1, "train_samples": 60, "test_samples": 60}
    Simulation(Config(**size, threads=1, quiet=True, device="cpu", output=str(path)), MPI.COMM_SELF).run()
    return path


def test_differences_are_relative_to_the_largest_value(log, tmp_path):
    other = shutil.copy(log, tmp_path / "other.h5")
    with h5py.File(other, "r+") as file:
        largest = file["iid_loss"][:].max()
        file["iid_loss"][1, 2] += largest
        changed = file["iid_loss"][:].max()
        file["train_loss"][0, 1] = np.nan
        file["train_seconds"][0, 0] += 100
    found = differences(log, other)
    assert found.pop("iid_loss") == pytest.approx(largest / changed)
    assert found.pop("train_loss") == np.inf
    assert set(found.values()) == {0.0}
    assert {"ood_loss", "iid_accuracy", "consensus_distance", "iid_recall"} <= set(found)
    assert not {name for name in found if name.endswith("_seconds")} | ({"round", "bytes_sent"} & set(found))


@pytest.mark.parametrize(
    "launch, why",
    [
        ("nosuch -n 2", "nosuch is no command on PATH"),
        ("mpiexec -n '2", "No closing quotation"),
        (" ", "it is no command on PATH"),
    ],
)
def test_a_launcher_that_is_none_is_one_line(tmp_path, monkeypatch, capsys, launch, why):
    monkeypatch.chdir(tmp_path)
    assert main(["devices", "--launch", launch]) == 2
    assert capsys.readouterr().err == f"mpisim: --launch {launch!r}: {why}\n"
    assert list(tmp_path.iterdir()) == []


def test_ranks_are_counted_by_one_option(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["devices", "--ranks", "4", "--launch", "mpiexec -n 2"]) == 2
    said = "mpisim: --ranks 4: --launch says itself how many there are: leave one of them out\n"
    assert capsys.readouterr() == ("", said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_is_one_line_before_any_rank_starts(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir("/proc")
    started = tmp_path / "started"
    assert main(["devices", "--launch", f"touch {started}"]) == 2
    said, error = capfd.readouterr()
    assert (said, error.count("\n")) == ("", 1)
    assert error.startswith("mpisim: /proc: cannot be written: ")
    assert error.endswith(": go to another folder\n")
    assert not started.exists()


def test_a_launcher_that_starts_no_ranks_is_told(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["devices", "--launch", "echo hello"]) == 2
    said, error = capfd.readouterr()
    assert said == ""
    assert error.startswith("hello ")  # what it printed may say why
    assert error.endswith("mpisim: echo: no rank has told what it found: does it start the command behind it?\n")
    assert list(tmp_path.iterdir()) == []


# On two ranks of this machine. Those that wait for one that stands still do so for TIMEOUT seconds.

TIMEOUT = 4
SIZE = ["--device", "cpu", "--columns", str(faulty_examination.COLUMNS), "--rows", "2", "--repeats", "2"]
PLACES = ["devices: rank 0  HOST  cpu", "devices: rank 1  HOST  cpu"]
UNTIL_TORCH = [
    *PLACES,
    "devices: MPI: is tried",
    "devices: MPI: self-test passed",
    "devices: MPI: SPEED GB/s each way",
    "devices: torch.distributed: is tried",
]
STOPPED = "mpisim: stopped by {}: the lines above say what was found until then"
TWINS = "devices: two rounds on cpu, models by torch.distributed and by MPI"


def progress(error):
    """Return what ranks told while they were at it, without what differs from time to time."""
    lines = [line for line in error.splitlines() if line.startswith("devices: ")]
    return [re.sub(r"(rank \d  )\S+", r"\1HOST", re.sub(r"\d+\.\d\d GB", "SPEED GB", line)) for line in lines]


def launcher(fault):
    return shlex.join(["mpiexec", "-n", "2", sys.executable, faulty_examination.__file__, fault])


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Return a function that runs the bench with a fault; its folder must be left as it was, but for found.json."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(fault):
        options = [*SIZE, "--timeout", str(TIMEOUT), "--json", "found.json", "--launch", launcher(fault)]
        command = [sys.executable, "-m", "mpisim.bench", "devices", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert {path.name for path in tmp_path.iterdir()} <= {"found.json"}
        return done

    return run


def test_two_ranks_on_cpus_find_that_all_is_well(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["devices", *SIZE, "--json", "found.json"]) == 0, capfd.readouterr().err
    found = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert [place["device"] for place in found["places"]] == ["cpu", "cpu"]
    assert found["faults"] == {"host": "", "link": ""}
    assert [len(seconds) for seconds in found["seconds"].values()] == [2, 2]
    [differing] = found["differences"].values()
    assert differing["train_loss"] == 0.0
    assert set(differing.values()) == {0.0}
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    printed, error = capfd.readouterr()
    assert "two rounds on cpu, models by torch.distributed and by MPI: the results in the logs are equal\n" in printed
    assert progress(error) == [
        *UNTIL_TORCH,
        "devices: torch.distributed: self-test passed",
        "devices: torch.distributed: SPEED GB/s each way",
        f"{TWINS}: are played",
        f"{TWINS}: the results in the logs are equal",
    ]


def test_one_rank_on_a_cpu_says_that_there_is_nothing_to_compare(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["devices", *SIZE, "--ranks", "1"]) == 0, capfd.readouterr().err
    lines = capfd.readouterr().out.splitlines()
    assert lines[2:-1] == ["verdict: one rank on a CPU has nothing to be compared with"]
    assert list(tmp_path.iterdir()) == []


def test_models_that_one_way_gets_wrong_are_found_by_comparing_with_the_other(bench, tmp_path):
    done = bench("torch gets models wrong")
    assert done.returncode == 1
    verdict = done.stdout.splitlines()[-2]
    assert re.fullmatch(
        r"verdict: [a-z_, ]*iid_loss[a-z_, ]* differ by more than 0\.0001 on cpu, models by .*", verdict
    )
    assert json.loads((tmp_path / "found.json").read_text())["figures"]["faults"] == {"host": "", "link": ""}


def test_a_way_that_loses_messages_fails_in_half_of_the_timeout_and_makes_the_exit_code_1(bench, tmp_path):
    done = bench("MPI loses messages")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    late = f"MPI: self-test failed: rank 1 and rank 0 were not done with a message within {TIMEOUT / 2:g} s"
    assert late in lines
    assert lines[-2] == "verdict: MPI is not to be trusted"
    assert not [line for line in lines if line.startswith("two rounds")]
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["figures"]["differences"] == {}
    assert [each["what"] for each in written["comparisons"]] == []
    assert f"devices: {late}" in progress(done.stderr)


@pytest.mark.parametrize(
    "fault, words",
    [
        ("killed", ""),
        ("rank 1 stands still", f"TimeoutError: rank 1 did not answer for {TIMEOUT} s while this way was tried: torch"),
        ("all stand still", "in stand_still"),
    ],
)
def test_what_was_found_before_a_way_ends_or_hangs_is_told_and_which_way_that_was(bench, tmp_path, fault, words):
    done = bench(fault)
    assert (done.returncode, done.stdout) == (1, "")
    assert progress(done.stderr) == UNTIL_TORCH
    assert words in done.stderr
    last = r"mpisim: mpiexec ended with code \d+ before all was found: the lines above say what was, and .* tried last"
    assert re.fullmatch(last, done.stderr.splitlines()[-1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "fault, seen, refused",
    [
        ("no device", "--device cpu: torch finds none here", r"--device cpu: torch finds none here \(rank 1 on \S+\)"),
        (
            "another device",
            "cuda:0",
            r"rank 0 computes on cpu and rank 1, on \S+, on cuda: name one --device for all, .*",
        ),
    ],
)
def test_ranks_need_a_device_of_one_kind(bench, tmp_path, fault, seen, refused):
    done = bench(fault)
    assert (done.returncode, done.stdout) == (2, "")
    assert progress(done.stderr) == [PLACES[0], f"devices: rank 1  HOST  {seen}"]
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("devices: ")]
    assert re.fullmatch(f"mpisim: {refused}", line)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_the_ranks_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "mpisim.bench", "devices", *SIZE, "--launch", launcher("rank 1 stands still")]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert f"{UNTIL_TORCH[-1]}\n" in process.stderr  # reads until then
        [folder] = tmp_path.iterdir()
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()
    assert process.returncode == 1
    assert error.splitlines()[-1] == STOPPED.format("SIGINT")
    assert list(tmp_path.iterdir()) == []
    check_gone(str(folder))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_what_was_launched_too(tmp_path, monkeypatch, number):
    """The command sends it to the bench, then stands still, and does so until it is killed."""
    monkeypatch.setattr("mpisim.bench.processes.END_SECONDS", 0.2)
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(number)
    stubborn = f"trap '' TERM; kill -{int(number)} $PPID; while true; do sleep 0.1; done"
    with pytest.raises(SystemExit, match=f"^{STOPPED.format(number.name)}$"):
        main(["devices", "--launch", shlex.join(["sh", "-c", stubborn, str(tmp_path)])])
    assert list(tmp_path.iterdir()) == []
    check_gone(str(tmp_path))
    assert signal.getsignal(number) == before


def check_gone(argument):
    """Find out that there is no process with an argument on its command line, at once or a moment later."""
    until = time.monotonic() + 10
    while left := [process for process in Path("/proc").iterdir() if argument in command_line(process)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


def command_line(process):
    try:
        return (process / "cmdline").read_text() if process.name.isdigit() else ""
    except OSError:  # gone, or not ours to look into
        return ""
