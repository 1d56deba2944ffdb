"""Runs on a GPU: ranks that share it, every engine and every way to travel give what a CPU gives, but for rounding.

For ``pytest --device cuda`` (or xpu) alone; there, other modules too run on the GPU what they run on the CPU else.
"""

import os
import subprocess
import sys
from functools import cache

import chaos
import mpi_session
import numpy as np
import pytest
import torch
from chaos import results_of
from mpi4py import MPI
from mpi_experiments import EXPERIMENTS, ROUGHER, experiment_config, write_failing_links
from plain_experiment import TEXT
from suite_device import ROUNDING, assert_same_results, masks, on_gpu, suite_kind

from mpisim import Simulation
from mpisim.exchange.packed import StagedMessages
from mpisim.learning.device import choose_device
from mpisim.learning.parameters import allocate_rows
from mpisim.learning.replay import GraphRecorder
from mpisim.ranks.waiting import Waiting

pytestmark = pytest.mark.skipif(not on_gpu(), reason="needs a GPU: pytest --device cuda")

SIZES = (1, 2, 4)  # numbers of ranks
COMPARED = [name for name in EXPERIMENTS if name != "photos"]  # on a GPU its dropout draws other numbers
SHORT = [
    *("--topology", "ring:n=6", "--rounds", "4", "--epochs", "1", "--train-samples", "300", "--test-samples", "100"),
    *("--threads", "1", "--checkpoint-every", "2", "--output", "run.h5"),
]
PATIENCE = 600  # seconds that a launch may take


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    """Play all experiments on a number of ranks, once, and on the GPU unless another device is named."""

    @cache
    def play(size, kind=""):
        folder = tmp_path_factory.mktemp(f"{kind or suite_kind()}-{size}-")
        command = ["mpiexec", "-n", str(size), sys.executable, mpi_session.__file__, folder, "experiments_run"]
        environment = os.environ | (masks(kind) if kind else {})
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert '"experiments_run": []' in (folder / "results.json").read_text(), (folder / "results.json").read_text()
        return folder

    return play


def run(folder, size, *flags):
    """Play a short run in a folder; return what its log holds, and what it printed."""
    folder.mkdir(exist_ok=True)
    command = ["mpiexec", "-n", str(size), sys.executable, "-m", "mpisim.run", *SHORT, *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return results_of(folder / "run.h5"), done.stdout


def test_runs_take_the_gpu_by_themselves(tmp_path):
    _, said = run(tmp_path, 2)
    assert f"on {suite_kind()}:0" in said
    assert "through pinned host memory" in said


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", COMPARED)
def test_ranks_that_share_a_gpu_give_the_log_of_the_cpu(experiments, name, size):
    found, expected = (results_of(folder / f"{name}.h5") for folder in (experiments(size), experiments(1, "cpu")))
    assert_same_results(found, expected, ROUGHER.get(name, ROUNDING))


@pytest.mark.parametrize("engine", [{"engine": "sequential"}, {"engine": "batched", "stack": 1}, {"stack": 2}], ids=str)
@pytest.mark.parametrize("name", ["default", "everything", "text"])
def test_node_after_node_and_any_stack_give_the_log_of_the_cpu(experiments, tmp_path, name, engine):
    write_failing_links(tmp_path)
    Simulation(experiment_config(name, tmp_path, **engine), MPI.COMM_SELF).run()
    assert_same_results(results_of(tmp_path / f"{name}.h5"), results_of(experiments(1, "cpu") / f"{name}.h5"))


@pytest.mark.parametrize("flags", [(), ("--strategy", "fl", "--wire", "bfloat16")], ids=["rows", "columns"])
def test_device_memory_given_to_mpi_changes_no_result(tmp_path, flags):
    """Or host memory does it, with a word why."""
    found, said = run(tmp_path / "buffers", 3, "--gpu-aware", *flags)
    expected, _ = run(tmp_path / "cpu", 3, "--device", "cpu", *flags)
    assert_same_results(found, expected)
    assert ("from device memory by MPI" in said) != ("models travel through host memory instead: " in said)


@pytest.mark.parametrize("flags", [(), ("--strategy", "fl", "--wire", "bfloat16")], ids=["rows", "columns"])
def test_torch_carries_models_from_gpu_to_gpu(tmp_path, flags):
    count = getattr(torch, suite_kind()).device_count()
    if count < 2:
        pytest.skip("needs a GPU for each of two ranks")
    found, said = run(tmp_path / "link", 2, "--transport", "device", *flags)
    expected, _ = run(tmp_path / "cpu", 2, "--device", "cpu", *flags)
    assert_same_results(found, expected)
    assert "by torch.distributed" in said


DETERMINISTIC = {
    "stacked": "",
    "alone": "--engine sequential",
    "columns, rounded on the wire": "--strategy fl --wire bfloat16",
    "factors rounded": "--precision bfloat16",
    "adam, kept": "--optimizer adam --lr 0.01 --keep-optimizer-state --shuffle",
    "text": TEXT,
}


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("flags", DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_deterministic_runs_repeat_themselves_bit_for_bit(tmp_path, flags, size):
    """A run that goes on from a checkpoint, too, ends with the bits of one that nobody interrupted."""
    flags = [*flags.split(), "--deterministic"]
    first, _ = run(tmp_path / "first", size, *flags)
    again, _ = run(tmp_path / "again", size, *flags)
    run(tmp_path / "resumed", size, *flags, "--rounds", "2")
    resumed, _ = run(tmp_path / "resumed", size, *flags, "--resume")
    assert first["round"].tolist() == [1, 2, 3, 4]
    assert chaos.differences(again, first) == []
    assert chaos.differences(resumed, first) == []


def test_staging_buffers_are_pinned_and_rows_come_through_them():
    device = choose_device("auto", 0)
    rows, arrived = allocate_rows(3, 1000, device), allocate_rows(2, 1000, device)
    rows.copy_(torch.arange(3000.0).reshape(3, 1000))
    messages = StagedMessages(MPI.COMM_SELF, 7)
    messages.receive(arrived, 0)
    messages.send(rows, 0, np.array([2, 0]))
    messages.start_receives()
    messages.start_sends()
    Waiting(timeout=60).until(messages.progress, messages.missing)
    buffers = [parcel.buffer for parcel in (*messages._arriving, *messages._leaving)]
    messages.free()
    assert torch.equal(arrived.cpu(), rows.cpu()[[2, 0]])
    assert arrived.device.type == suite_kind()
    assert [(buffer.device.type, buffer.is_pinned()) for buffer in buffers] == [("cpu", True)] * 2


@pytest.mark.parametrize("name", ["default", "weighted", "text", "precision"])
def test_a_replayed_stack_gives_what_one_gives_whose_steps_are_made(tmp_path, monkeypatch, name):
    if suite_kind() != "cuda":
        pytest.skip("only CUDA has graphs")
    num_replayed = 0

    class Counting(GraphRecorder):
        def record(self, step):
            replay = super().record(step)

            def counted():
                nonlocal num_replayed
                num_replayed += 1
                replay()

            return counted

    found = []
    for kind, recorder in (("replayed", Counting), ("made", lambda _: None)):
        monkeypatch.setattr("mpisim.nodes.GraphRecorder", recorder)
        path = tmp_path / f"{kind}.h5"
        Simulation(experiment_config(name, tmp_path, engine="batched", output=str(path)), MPI.COMM_SELF).run()
        found.append(results_of(path))
    assert_same_results(*found, ROUGHER.get(name, ROUNDING))
    assert num_replayed > 0
