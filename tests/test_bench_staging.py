"""The bench of staging: what travels, what is told and traced, and how it is stopped. No time is."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from suite_device import on_gpu

from mpisim.bench.__main__ import main
from mpisim.bench.staged_round import StagedRound
from mpisim.bench.staging import copies_beside_kernels, report

CPU = torch.device("cpu")


FOUND = {
    "devices": ["cuda:0 (H200)", "cuda:1 (H200)"],
    "seconds": {"tests": [2.0, 4.0, 1.0], "exchange": [1.0, 1.0, 2.0], "both": [2.5, 4.0, 3.0]},
    "nodes": 8,
    "tests": 10_000,
    "bytes": 3 * 2**20,
}


def test_staging_says_how_much_is_hidden_in_the_median_turn_and_between_which():
    lines = report(FOUND, "mnist").as_text().splitlines()
    assert lines[1].split() == ["8", "models", "of", "mnist", "3.00", "s", "3.00", "s", "1.00", "0.80–1.00", "–"]
    assert lines[2:] == [
        "rank 0  cuda:0 (H200)",
        "rank 1  cuda:1 (H200)",
        "8 models of mnist, 3.0 MiB each way; 10,000 test images",
        "tests alone 2.00 s, exchange alone 1.00 s, both as in a round 3.00 s",
        "hidden: 50 % (0 to 100), (tests + exchange - both) / the shorter of tests and exchange",
    ]


def event(kind, stream, start, end):
    return {"ph": "X", "cat": kind, "ts": start, "dur": end - start, "args": {"stream": stream}}


def test_copies_beside_kernels_are_those_of_other_streams_while_any_kernel_runs():
    events = [
        {"ph": "M", "name": "process_name", "args": {}},
        event("kernel", 7, 100.0, 200.0),
        event("kernel", 7, 150.0, 250.0),
        event("kernel", 7, 300.0, 310.0),
        event("gpu_memcpy", 7, 0.0, 1000.0),  # results of tests, on the stream that computes
        event("gpu_memcpy", 13, 50.0, 120.0),  # 20 of 70
        event("gpu_memcpy", 13, 240.0, 320.0),  # 10 and 10 of 80
        event("cpu_op", 0, 0.0, 1000.0),
    ]
    assert copies_beside_kernels(events) == pytest.approx((150e-6, 40e-6))
    assert copies_beside_kernels(events[:1]) == (0.0, 0.0)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """Return the folder in which two ranks have staged three models each way and traced a round; and what was told."""
    folder = tmp_path_factory.mktemp("staging")
    size = ["--device", "cpu", "--model", "digits", "--nodes", "3", "--tests", "20", "--repeats", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        assert main(["staging", *size, "--trace", "round.json", "--json", "found.json"]) == 0
    return folder


def test_two_ranks_on_cpus_test_and_exchange_all_models(traced):
    found = json.loads((traced / "found.json").read_text())
    figures = found["figures"]
    assert figures["devices"] == ["cpu", "cpu"]
    assert {part: len(seconds) for part, seconds in figures["seconds"].items()} == dict.fromkeys(
        ("tests", "exchange", "both"), 2
    )
    assert (figures["nodes"], figures["tests"], figures["bytes"]) == (3, 20, 3 * 17_226 * 4)
    assert found["comparisons"][0]["against_seconds"] == pytest.approx(
        np.add(figures["seconds"]["tests"], figures["seconds"]["exchange"])
    )
    assert any("no side stream" in line for line in found["notes"])


def test_the_trace_is_of_one_round_in_its_order_with_its_copies(traced):
    assert sorted(path.name for path in traced.iterdir()) == ["found.json", "round.json"]
    events = json.loads((traced / "round.json").read_text())["traceEvents"]
    parts = {each["name"]: each for each in events if each.get("cat") == "user_annotation"}
    order = sorted((name for name in parts if name in ("send", "test", "wait")), key=lambda name: parts[name]["ts"])
    assert order == ["send", "test", "wait"]

    def within(name, part):
        start, end = parts[part]["ts"], parts[part]["ts"] + parts[part]["dur"]
        return sum(each.get("name") == name and start <= each["ts"] <= end for each in events)

    # Three rows into the buffer, and three out of it if the other rank's models are here by then.
    assert within("aten::copy_", "send") in (3, 6)
    assert within("aten::baddbmm", "test") == 3  # of the perceptron's layers, for all models at once
    assert within("aten::baddbmm", "send") + within("aten::baddbmm", "wait") == 0


def test_models_that_do_not_arrive_are_found():
    rank = object.__new__(StagedRound)
    sent = torch.arange(6.0).view(2, 3)

    class OtherRank:
        rank = 0

        def Irecv(self, buffer, _):
            buffer[:] = sent.view(torch.int32).sum(dim=1).numpy()

        def Isend(self, buffer, _):
            pass

    class Holds:
        def __init__(self, **names):
            vars(self).update(names)

    rank._comm, rank._waiting = OtherRank(), Holds(all=lambda _: None)
    rank.nodes, rank.exchange = Holds(parameters=sent + 1), Holds(remote=sent.clone())
    rank.check()
    rank.exchange.remote[1, 2] += 1e-6
    with pytest.raises(RuntimeError, match="what arrived is not what was sent"):
        rank.check()


@pytest.mark.skipif(on_gpu(), reason="there is a device")
def test_ranks_without_a_device_are_one_line(capsys):
    assert main(["staging", "--device", "cuda"]) == 2
    assert capsys.readouterr() == ("", "mpisim: --device cuda: torch finds none here: choose from auto, cpu\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_bench_with_a_line_and_leaves_nothing(tmp_path, number):
    size = ["--device", "cpu", "--model", "digits", "--nodes", "1", "--repeats", "100000"]
    command = [sys.executable, "-m", "mpisim.bench", "staging", *size]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not list(tmp_path.iterdir()):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert said == f"mpisim: stopped by {number.name}\n"
    assert list(tmp_path.iterdir()) == []
