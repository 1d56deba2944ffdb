"""What the plan says a rank will need is what the rank takes, within a fifth."""

import mmap
import re
import subprocess
import sys

import h5py
import pytest
import torch
from torch import nn

from mpisim.bench.images import write_mnist
from mpisim.memory import peak_memory, present_memory
from mpisim.models.activations import activation_sizes

RUNS = {
    "small models": "--rounds 2 --epochs 1",
    "small models one by one, Adam": "--rounds 2 --epochs 1 --engine sequential --optimizer adam",
    "models of 20 MB": "--dataset mnist --data-dir . --topology ring:n=6 --rounds 1 --epochs 1",
    "models of 20 MB, Adam kept": "--dataset mnist --data-dir . --topology ring:n=4 --rounds 1 --epochs 1"
    " --optimizer adam --lr 0.001 --keep-optimizer-state",
    "models of 20 MB, stacked, and a proximal term": "--dataset mnist --data-dir . --topology ring:n=6 --rounds 1"
    " --epochs 1 --engine batched --stack 3 --proximal 0.1",
    "a dense W": "--dataset mnist --data-dir . --topology ring:n=6 --rounds 1 --epochs 1 --strategy fl",
    "text": "--dataset tinymem --tinymem-examples 60 --tinymem-tests 20 --topology ring:n=4 --rounds 1 --epochs 1",
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_the_plan_predicts_the_peak_within_a_fifth(tmp_path, options):
    write_mnist(tmp_path, 240, 100)
    command = ["mpiexec", "-n", "2", sys.executable, "-m", "mpisim.run", *options.split(), "--output", "run.h5"]
    command += ["--device", "cpu"]  # GPUs have a memory of their own
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    number, unit = re.search(r"memory +up to ([0-9.]+) (MiB|GiB) a rank", done.stdout).groups()
    predicted = float(number) * {"MiB": 2**20, "GiB": 2**30}[unit]
    with h5py.File(tmp_path / "run.h5") as log:
        peak = log["peak_memory"][:]
    assert 2e8 < peak.min() <= peak.max()
    assert peak.max() / 1.2 <= predicted <= peak.max() * 1.2


def test_memory_that_is_taken_is_seen():
    before, peak_before = present_memory(), peak_memory()
    taken = mmap.mmap(-1, 50 * 2**20)  # memory that nobody had before
    taken.write(b"x" * len(taken))
    assert 45 * 2**20 < present_memory() - before < 160 * 2**20
    assert peak_memory() >= max(peak_before, present_memory() - 2**20)
    taken.close()


def test_activations_are_counted_layer_by_layer():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Linear(256, 5))
    sizes = activation_sizes(module.train(), (3, 8, 8), torch.device("cpu"))
    assert sizes == [4 * 64, 4 * 64, 4 * 64, 5]
    assert module.training
    assert not module[0]._forward_hooks
