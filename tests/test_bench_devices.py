"""The bench of devices: what it says of what ranks found, how far two logs differ, and all of it on two CPUs."""

import json
import shutil

import h5py
import numpy as np
import pytest
from mpi4py import MPI

from mpisim import Config, Simulation
from mpisim.bench.__main__ import main
from mpisim.bench.devices import differences, report

FOUND = {
    "places": [{"host": "h1", "device": "xpu:0 (Max 1550)"}, {"host": "h2", "device": "xpu:1 (Max 1550)"}],
    "kind": "xpu",
    "faults": {"staged": "", "buffers": "3 of 8 numbers from rank 1 were wrong on rank 0", "link": ""},
    "seconds": {"staged": [0.1, 0.2, 0.4], "buffers": [], "link": [0.05, 0.05, 0.1]},
    "differences": {"train_loss": 2e-6, "iid_loss": 3.21e-5, "participated": 0.0},
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
        "verdict: models can travel by way of MPI, and results are right",
    ]


def test_nothing_that_passed_is_a_table_without_rows():
    nothing = {"faults": dict.fromkeys(FOUND["faults"], "broken"), "seconds": {way: [] for way in FOUND["seconds"]}}
    lines = report(FOUND | nothing | {"differences": {"iid_loss": 0.0}}, 10**9).as_text().splitlines()
    assert lines[3:] == [
        "MPI, staged: self-test failed: broken",
        "MPI, device buffers: self-test failed: broken",
        "torch.distributed: self-test failed: broken",
        "two rounds on xpu and on CPUs: the results in the logs are equal",
        "verdict: MPI, staged is not to be trusted",
    ]


def test_the_verdict_is_about_losses_and_the_way_that_runs_take_by_themselves():
    far = {"train_loss": 1.1e-4, "iid_loss": 1e-4, "iid_accuracy": 0.02, "ood_loss": float("inf")}
    lines = report(FOUND | {"differences": far}, 10**9).as_text().splitlines()
    assert lines[-1] == "verdict: train_loss differs by more than 0.0001; ood_loss differs by more than 0.0001"


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


def test_two_ranks_on_cpus_find_that_all_is_well(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    size = ["--device", "cpu", "--columns", "1000", "--rows", "2", "--repeats", "2"]
    assert main(["devices", *size, "--json", "found.json"]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert [place["device"] for place in found["places"]] == ["cpu", "cpu"]
    assert found["faults"] == {"host": "", "link": ""}
    assert [len(seconds) for seconds in found["seconds"].values()] == [2, 2]
    assert found["differences"]["train_loss"] == 0.0
    assert set(found["differences"].values()) == {0.0}
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    printed = capsys.readouterr().out
    assert "two rounds on cpu and on CPUs: the results in the logs are equal\n" in printed
