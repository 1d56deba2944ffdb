"""The plan says which ranks share a device; a device without room for its ranks' models is refused before all else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_device import GIB, Devices

from mpisim import Config
from mpisim.errors import InputError
from mpisim.exchange.transport import Transport
from mpisim.experiment import decide
from mpisim.learning.parameters import row_stride
from mpisim.memory import models_memory
from mpisim.run import main
from mpisim.sharing import check_memory, described, named_devices, named_memory, sharing_ranks

CUDA = torch.device("cuda", 0)
NUM_COLUMNS = 17_226  # of mlp-small on the digits
ROW = row_stride(NUM_COLUMNS) * 4
NUM_NODES = 6


def place(device="cuda:0 (A100)", identity="0", host="x1", free=64 * GIB):
    return {"host": host, "threads": 1, "device": device, "identity": identity, "free": free}


def tiles(count, ranks, host="x1"):
    return [place(f"xpu:{rank % count} (Max 1550)", str(rank % count), host) for rank in range(ranks)]


CPU_PLACE = place("cpu", "cpu", free=0)
NAMED = {
    "CPUs": ([CPU_PLACE, CPU_PLACE], "cpu"),
    "one device": ([place()], "cuda:0 (A100)"),
    "a tile each": (tiles(12, 12), "xpu:0–11 (Max 1550)"),
    "a tile each, on two hosts": (tiles(12, 12) + tiles(12, 12, "x2"), "xpu:0–11 (Max 1550)"),
    "some tiles": ([tiles(12, 12)[rank] for rank in (0, 2, 10)], "xpu:0, 2, 10 (Max 1550)"),
    "one GPU for two": ([place(), place()], "cuda:0 (A100); 2 ranks share cuda:0"),
    "a mask for each": ([place(identity="2"), place(identity="3")], "cuda:0 (A100)"),
    "a mask for each two": (
        [place(identity=str(number // 2)) for number in range(4)],
        "cuda:0 (A100); 2 ranks share each of 2 devices",
    ),
    "two ranks a tile": (tiles(12, 24), "xpu:0–11 (Max 1550); 2 ranks share each of 12 devices"),
    "unequal": (tiles(2, 5), "xpu:0–1 (Max 1550); 2–3 ranks share each of 2 devices"),
    "two kinds": ([CPU_PLACE, place(host="x2")], "cpu, cuda:0 (A100)"),
    "two makes": ([place(), place("cuda:1 (H200)", "1")], "cuda:0 (A100), cuda:1 (H200)"),
}


@pytest.mark.parametrize("places, text", NAMED.values(), ids=NAMED)
def test_devices_are_named_briefly_and_shared_ones_said(places, text):
    assert named_devices(places) == text


def test_ranks_share_a_device_only_on_one_host():
    places = [place(), place(host="x2"), place(), CPU_PLACE, place(identity="1")]
    assert sharing_ranks(places) == [[0, 2], [1], [4]]


def test_a_device_is_described_with_what_is_free_on_it(monkeypatch):
    monkeypatch.setattr(torch, "cuda", Devices(2, free=7 * GIB))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert described(torch.device("cuda", 1)) == {"device": "cuda:1 (GPU 1)", "identity": "cuda  5", "free": 7 * GIB}
    assert described(torch.device("cpu")) == {"device": "cpu", "identity": "cpu", "free": 0}


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Return a function from a number of ranks, and options, to an experiment of six nodes on a ring."""
    monkeypatch.chdir(tmp_path)

    def make(num_ranks, **options):
        return decide(Config(topology=f"ring:n={NUM_NODES}", train_samples=120, test_samples=60, **options), num_ranks)

    return make


# Of each rank's models: the rows of X, and those that train it beside them. With Adam, two moments and gradients.
COUNTED = {
    "SGD, one by one": ({"engine": "sequential"}, 3, [2 + 2, 1]),
    "SGD, written out": ({"engine": "batched"}, 3, [2 + 2, 2]),
    "SGD, rounded": ({"engine": "batched", "precision": "bfloat16"}, 3, [2 + 2, 4]),
    "Adam, stacked": ({"engine": "batched", "optimizer": "adam", "lr": 0.01}, 3, [2 + 2, 2 * 4]),
    "Adam, two at a time": ({"engine": "batched", "stack": 2, "optimizer": "adam", "lr": 0.01}, 1, [6, 2 * 4]),
    "Adam kept, one by one": (
        {"engine": "sequential", "optimizer": "adam", "lr": 0.01, "keep_optimizer_state": True},
        1,
        [6, 1 + 6 * 2],
    ),
    "a proximal term, one by one": ({"engine": "sequential", "proximal": 0.1}, 3, [2 + 2 + 2, 1]),
    "a proximal term, stacked": ({"engine": "batched", "proximal": 0.1}, 3, [2 + 2 + 2, 2 + 2 + 2]),
    "models compared as they travel": (
        {"engine": "sequential", "strategy": "degree-similarity", "wire": "bfloat16"},
        1,
        [6, 6 // 2],
    ),
    "no training": ({"engine": "sequential", "no_train": True}, 1, [6, 0]),
}


@pytest.mark.parametrize("options, num_ranks, rows", COUNTED.values(), ids=COUNTED)
def test_models_are_counted_in_rows(experiment, options, num_ranks, rows):
    found = models_memory(experiment(num_ranks, **options), torch.device("cpu"))
    assert found == [(rows[0] * ROW, rows[1] * ROW)] * num_ranks


@pytest.mark.parametrize("options, rows", [({}, 2), ({"gpu_aware": True}, 4)])
def test_what_is_heard_is_on_the_device_and_with_device_buffers_also_what_is_sent(experiment, options, rows):
    """On three ranks, each hears two nodes and sends both of its own; there are no gaps between these."""
    found = models_memory(experiment(3, engine="sequential", **options), CUDA)
    assert [always for always, _ in found] == [2 * ROW + rows * NUM_COLUMNS * 4] * 3


def needed(decided):
    return [sum(of_rank) for of_rank in models_memory(decided, CUDA)]


def refusal(decided, places):
    with pytest.raises(InputError) as raised:
        check_memory(decided, places, CUDA)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_device_with_room_for_its_models_to_the_byte_is_taken(experiment):
    decided = experiment(1, engine="sequential")
    [bytes_needed] = needed(decided)
    check_memory(decided, [place(free=bytes_needed)], CUDA)
    assert refusal(decided, [place(free=bytes_needed - 1)]).startswith("the node models of rank 0 need 471.2 KiB, ")


def test_the_line_says_how_much_where_and_what_to_do(experiment):
    decided = experiment(1, engine="batched")
    line = refusal(decided, [place(free=100 * 2**10)])
    number = r"[0-9.]+ KiB"
    assert re.fullmatch(
        f"the node models of rank 0 need {number}, cuda:0 on x1 has 100.0 KiB: use more ranks or a smaller --stack",
        line,
    )
    sequential = refusal(experiment(1, engine="sequential"), [place(free=100 * 2**10)])
    assert sequential.endswith("has 100.0 KiB: use more ranks")  # which has no stack to be smaller


def test_ranks_that_share_a_device_need_it_together(experiment):
    decided = experiment(2, engine="sequential")
    first, second = needed(decided)
    apart = [place(free=first + second - 1), place(identity="1", free=second)]
    check_memory(decided, apart, CUDA)
    together = [place(free=first + second), place(free=first + second)]
    check_memory(decided, together, CUDA)
    together[1] = place(free=first + second - 1)  # looked after the other rank had begun to take memory
    line = refusal(decided, together)
    assert line.startswith("the node models of ranks 0, 1 need ")
    assert line.endswith("use more devices")


def test_the_rank_without_room_is_named_and_ranks_without_nodes_need_none(experiment):
    decided = experiment(3, engine="sequential")
    bytes_needed = max(needed(decided))
    places = [place(identity=str(rank), free=bytes_needed) for rank in range(3)]
    places += [place(identity="2", free=bytes_needed)]  # idle, beside rank 2
    check_memory(decided, places, CUDA)
    places[1] = place("cuda:1 (A100)", "1", "x7", free=10)
    assert "of rank 1 need" in refusal(decided, places)
    assert "cuda:1 on x7 has 10 B" in refusal(decided, places)


def test_on_cpus_nothing_is_checked(experiment):
    check_memory(experiment(2), [CPU_PLACE, CPU_PLACE], torch.device("cpu"))


def test_the_plan_says_what_is_free_and_when_it_may_not_suffice(experiment):
    decided = experiment(2, engine="sequential")
    apart = [place(), place(identity="1", free=32 * GIB)]
    assert re.fullmatch(
        r"up to [0-9.]+ MiB of the device for each rank; 32.0 GiB are free", named_memory(decided, apart, CUDA)
    )
    tight = [place(free=2**20)] * 2
    assert named_memory(decided, tight, CUDA).endswith("; 1.0 MiB are free for 2 ranks, which may not suffice")
    assert re.fullmatch(r"up to [0-9.]+ [MG]iB a rank", named_memory(decided, [CPU_PLACE] * 2, torch.device("cpu")))


# Two rows a message: 137,808 bytes, to be rounded up to 2**18.
STAGED = {
    "one each way": (2, "staged", {}, "512.0 KiB"),
    "two each way, of one row": (3, "staged", {}, "512.0 KiB"),
    "half as wide": (2, "staged", {"wire": "bfloat16"}, "256.0 KiB"),
    "columns of two rows, there and back": (3, "staged", {"strategy": "fl"}, "512.0 KiB"),  # 46,080 bytes, eight times
    "nothing travels": (1, "staged", {}, ""),
    "device buffers": (2, "buffers", {"gpu_aware": True}, ""),
    "fallen back": (2, "staged", {"gpu_aware": True}, "512.0 KiB"),
}


@pytest.mark.parametrize("num_ranks, way, options, size", STAGED.values(), ids=STAGED)
def test_the_plan_says_what_messages_take_of_the_host(experiment, num_ranks, way, options, size):
    decided = experiment(num_ranks, **options)
    said = named_memory(decided, [place(identity=str(rank)) for rank in range(num_ranks)], CUDA, Transport(way))
    pinned = f"; up to {size} of pinned host memory for each rank" if size else ""
    assert said.endswith(f"; 64.0 GiB are free{pinned}")


def test_a_run_that_cannot_fit_ends_with_one_line_and_leaves_no_trace(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "cuda", Devices(1, free=1000))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert main(["--device", "cuda", "--topology", "ring:n=4"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(
        r"mpisim: the node models of rank 0 need \d+\.\d KiB, cuda:0 on \S+ has 1000 B: use more ranks or a smaller"
        r" --stack\n",
        said.err,
    )
    assert list(tmp_path.iterdir()) == []


SHARED_BY_TWO = """
import sys
import torch
from test_device import Devices
torch.cuda = Devices(1, free=3_000_000)
from mpisim.run import main
sys.exit(main(["--device", "cuda"]))
"""


def test_the_needs_of_ranks_that_share_a_device_are_added_up_and_all_of_them_end(tmp_path):
    """Each needs about 2.3 MB."""
    command = ["mpiexec", "-n", "2", sys.executable, "-c", SHARED_BY_TWO]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert re.fullmatch(
        r"mpisim: the node models of ranks 0, 1 need 4\.\d MiB, cuda:0 on \S+ has 2\.9 MiB: use more devices or a"
        r" smaller --stack\n",
        done.stderr,
    )
    assert list(tmp_path.iterdir()) == []


def test_a_plan_on_devices_names_them(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "cuda", Devices(2, name="NVIDIA A100", free=40 * GIB))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert main(["--device", "cuda", "--dry-run", "--precision", "bfloat16", "--engine", "sequential"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"ranks +1 rank on 1 host, with 24 nodes and .* each, on cuda:0 \(NVIDIA A100 0\)\n", said)
    assert re.search(r"memory +up to [0-9.]+ MiB of the device for each rank; 40.0 GiB are free\n", said)
    assert re.search(r"model .*; sgd, lr 0.1, batch 16; factors of products as bfloat16\n", said)
