"""Which device a rank takes, whose else it is and what is free on it, with stand-ins for torch.xpu and torch.cuda."""

import importlib.metadata
import os
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from plain_experiment import SECONDS, TEXT, logged

import mpisim
from mpisim import run
from mpisim.errors import InputError
from mpisim.learning.device import (
    choose_device,
    compute_deterministically,
    device_identity,
    device_name,
    finish,
    free_memory,
)

GIB = 2**30
CPU = torch.device("cpu")


class Devices:
    """What torch.cuda, or torch.xpu, says of some devices."""

    def __init__(self, count, name="GPU", uuids=None, free=60 * GIB, counts_memory=True):
        self.count, self.name, self.uuids, self.free = count, name, uuids, free
        self.current = None
        if not counts_memory:
            self.free = RuntimeError("the device does not tell its free memory")

    def is_available(self):
        return self.count > 0

    def device_count(self):
        return self.count

    def set_device(self, device):
        self.current = device

    def get_device_name(self, device):
        return f"{self.name} {device.index}"

    def get_device_properties(self, device):
        known = {"total_memory": 64 * GIB}
        return SimpleNamespace(**known, **({"uuid": self.uuids[device.index]} if self.uuids else {}))

    def mem_get_info(self, _):
        if isinstance(self.free, Exception):
            raise self.free
        return self.free, 64 * GIB


@pytest.fixture(autouse=True)
def _a_host_of_our_own(monkeypatch):
    for variable in ("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)


@pytest.fixture
def host(monkeypatch):
    """Return a function that gives torch some devices."""

    def give(xpu=0, cuda=0, **facts):
        devices = SimpleNamespace(xpu=Devices(xpu, **facts), cuda=Devices(cuda, **facts))
        monkeypatch.setattr(torch, "xpu", devices.xpu)
        monkeypatch.setattr(torch, "cuda", devices.cuda)
        return devices

    return give


@pytest.mark.parametrize(
    "there, wanted, found",
    [
        ({"xpu": 2, "cuda": 2}, "auto", "xpu"),
        ({"cuda": 2}, "auto", "cuda"),
        ({}, "auto", "cpu"),
        ({"xpu": 2, "cuda": 2}, "cuda", "cuda"),
        ({"xpu": 2, "cuda": 2}, "cpu", "cpu"),
    ],
)
def test_auto_takes_a_tile_then_a_gpu_then_the_cpu(host, there, wanted, found):
    host(**there)
    assert choose_device(wanted, 0).type == found


@pytest.mark.parametrize("wanted, there", [("cuda", {"xpu": 1}), ("xpu", {"cuda": 1}), ("cuda", {}), ("xpu", {})])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(host, wanted, there):
    host(**there)
    has = ", ".join([*there, "cpu"])
    with pytest.raises(InputError, match=f"^--device {wanted}: torch finds none here: choose from auto, {has}$"):
        choose_device(wanted, 0)


def test_a_torch_without_the_module_of_a_kind_takes_another(host, monkeypatch):
    host(cuda=1)
    monkeypatch.delattr(torch, "xpu")
    assert choose_device("auto", 0).type == "cuda"


@pytest.mark.parametrize("kind", ["xpu", "cuda"])
@pytest.mark.parametrize("count, indices", [(12, [*range(12), 0, 1]), (6, [*range(6), 0, 1]), (1, [0, 0, 0])])
def test_ranks_of_a_host_take_the_devices_that_they_see_in_turn(host, kind, count, indices):
    """Twelve as FLAT shows Aurora's tiles, six as COMPOSITE shows its GPUs, one where each rank has a mask."""
    devices = host(**{kind: count})
    for local_rank, index in enumerate(indices):
        device = choose_device("auto", local_rank)
        assert device == torch.device(kind, index)
        assert getattr(devices, kind).current == device


def test_a_device_is_named_with_its_kind_and_index(host):
    host(cuda=3, name="NVIDIA A100")
    assert device_name(torch.device("cuda", 2)) == "cuda:2 (NVIDIA A100 2)"
    assert device_name(CPU) == "cpu"


def test_float32_is_float32_in_convolutions_and_products_and_in_sums_of_bfloat16(host):
    host(cuda=1)
    products = torch.backends.cuda.matmul
    products.allow_tf32 = products.allow_bf16_reduced_precision_reduction = True
    choose_device("cuda", 0)
    assert torch.backends.cudnn.allow_tf32 is False
    assert products.allow_tf32 is False
    assert products.allow_bf16_reduced_precision_reduction is False


@pytest.mark.parametrize("start", [run._start, lambda: mpisim.Simulation], ids=["command", "from Python"])
@pytest.mark.parametrize("chosen, disabled", [(None, True), ("0", False)])
def test_torch_is_kept_from_building_kernels_unless_the_user_wants_them(monkeypatch, start, chosen, disabled):
    monkeypatch.setenv("MPIR_CVAR_IALLREDUCE_INTRA_ALGORITHM", "auto")
    monkeypatch.delenv("TORCH_DISABLE_NATIVE_JIT", raising=False)
    if chosen is not None:
        monkeypatch.setenv("TORCH_DISABLE_NATIVE_JIT", chosen)
    start()
    heeds = pytest.importorskip("torch._native.common_utils", reason="this torch builds none").check_native_jit_disabled
    heeds.cache_clear()
    assert heeds() is disabled
    heeds.cache_clear()


# Of two ranks: the kind, the devices each sees, its own index and mask; and whether both have the same device.
PAIRS = {
    "no masks, other devices": ("xpu", 12, ((0, ""), (1, "")), False),
    "no masks, one device": ("xpu", 12, ((1, ""), (1, "")), True),
    "a tile each": ("xpu", 1, ((0, "0.0"), (0, "0.1")), False),
    "the same tile": ("xpu", 1, ((0, "3.1"), (0, "3.1")), True),
    "the same mask of two tiles": ("xpu", 2, ((0, "0.0,0.1"), (1, "0.0,0.1")), False),
    "a mask in another order": ("cuda", 2, ((0, "0,1"), (1, "1, 0")), True),
    "a GPU each": ("cuda", 1, ((0, "3"), (0, "2")), False),
    "a GPU that is two tiles": ("xpu", 2, ((0, "1"), (1, "1")), False),
}


@pytest.mark.parametrize("kind, count, ranks, same", PAIRS.values(), ids=PAIRS)
def test_masks_tell_which_ranks_have_the_same_device(host, kind, count, ranks, same):
    host(**{kind: count})
    variable = {"xpu": "ZE_AFFINITY_MASK", "cuda": "CUDA_VISIBLE_DEVICES"}[kind]
    first, second = (device_identity(torch.device(kind, index), {variable: mask}) for index, mask in ranks)
    assert (first == second) is same


def test_a_selector_of_devices_is_a_mask_too(host):
    host(xpu=1)
    first, second, third = (
        device_identity(torch.device("xpu", 0), {"ONEAPI_DEVICE_SELECTOR": selector})
        for selector in ("level_zero:0", "level_zero:1", "level_zero:1")
    )
    assert first != second == third


def test_masks_of_both_kinds_count(host):
    """As where all ranks have the host's tiles, and each a selector of its own."""
    host(xpu=1)
    identities = [
        device_identity(torch.device("xpu", 0), {"ZE_AFFINITY_MASK": "0,1", "ONEAPI_DEVICE_SELECTOR": selector})
        for selector in ("level_zero:0", "level_zero:1", "level_zero:1")
    ]
    assert identities[0] != identities[1] == identities[2]


def test_a_devices_own_number_tells_where_each_rank_is_shown_but_its_own(host):
    """As Slurm does by cgroups: each has device 0, and no mask, or the same."""
    identities = []
    for number in ("GPU-aa", "GPU-bb", "GPU-bb"):
        host(cuda=1, uuids=[number])
        identities.append(device_identity(torch.device("cuda", 0), {"CUDA_VISIBLE_DEVICES": "0"}))
    assert identities[0] != identities[1] == identities[2]


def test_tiles_of_one_number_are_told_apart(host):
    host(xpu=2, uuids=["GPU-aa", "GPU-aa"])
    assert device_identity(torch.device("xpu", 0)) != device_identity(torch.device("xpu", 1))


@pytest.mark.parametrize("kind", ["xpu", "cuda"])
def test_free_memory_is_what_the_driver_counts(host, kind):
    host(**{kind: 1}, free=10 * GIB)
    assert free_memory(torch.device(kind, 0)) == 10 * GIB


def test_all_memory_counts_as_free_where_the_driver_or_torch_cannot_count(host, monkeypatch):
    host(xpu=1, counts_memory=False)
    assert free_memory(torch.device("xpu", 0)) == 64 * GIB
    monkeypatch.delattr(Devices, "mem_get_info")
    assert free_memory(torch.device("xpu", 0)) == 64 * GIB


@pytest.mark.parametrize("kind", ["xpu", "cuda"])
def test_something_else_is_done_until_the_device_has_done_all_it_was_given(host, kind):
    devices, calls = getattr(host(**{kind: 2}), kind), []
    answers = iter([False, False, True])
    event = SimpleNamespace(record=calls.append, query=lambda: next(answers))
    devices.Event, devices.current_stream = lambda: event, lambda device: f"stream of {device}"
    finish(torch.device(kind, 1), lambda: calls.append("between"))
    assert calls == [f"stream of {kind}:1", "between", "between"]


def test_nobody_waits_for_a_cpu():
    finish(CPU, pytest.fail)


@pytest.fixture
def extension(monkeypatch):
    """Return a function that installs Intel's extension, of a version; it shows torch its tiles when it is imported."""
    imported = []

    def install(version, devices, *, broken=False):
        if version is None:
            return imported

        def find(name):
            assert name == "intel_extension_for_pytorch"
            return version

        def load(name):
            imported.append(name)
            if broken:
                raise OSError("libsycl.so: cannot open shared object file")
            devices.xpu.count = 2
            return ModuleType(name)

        monkeypatch.setattr(importlib.metadata, "version", find)
        monkeypatch.setattr(importlib, "import_module", load)
        return imported

    return install


@pytest.mark.parametrize(
    "torch_version, version, there, wanted, kind, imports",
    [
        ("2.7.1+xpu", "2.7.10+xpu", {}, "auto", "xpu", 1),
        ("2.7.1", "2.7.0", {}, "xpu", "xpu", 1),
        ("2.7.1", "2.7.0", {"cuda": 1}, "cuda", "cuda", 0),  # nobody asks for a tile
        ("2.7.1+xpu", "2.7.10+xpu", {"xpu": 1}, "auto", "xpu", 0),  # torch sees one by itself
        ("2.7.1", "2.8.0", {}, "auto", "cpu", 0),  # made for another torch
        ("2.7.1", None, {}, "auto", "cpu", 0),
        ("2.8.0", "2.8.0", {}, "auto", "cpu", 0),  # such a torch needs none
        ("2.10.0+xpu", "2.10.0", {"xpu": 1}, "auto", "xpu", 0),
    ],
)
def test_the_extension_is_imported_only_where_torch_needs_it(
    host, monkeypatch, extension, torch_version, version, there, wanted, kind, imports
):
    imported = extension(version, host(**there))
    monkeypatch.setattr(torch, "__version__", torch_version)
    assert choose_device(wanted, 0).type == kind
    assert len(imported) == imports


def test_an_extension_that_cannot_be_loaded_leaves_what_torch_has(host, monkeypatch, extension):
    imported = extension("2.7.0", host(cuda=1), broken=True)
    monkeypatch.setattr(torch, "__version__", "2.7.1")
    assert choose_device("auto", 0).type == "cuda"
    assert imported
    with pytest.raises(InputError, match="--device xpu: torch finds none here: choose from auto, cuda, cpu"):
        choose_device("xpu", 0)


@pytest.fixture
def _reset_determinism(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.mkldnn, "deterministic", False)
    yield
    torch.set_deterministic_debug_mode("default")
    torch.backends.cuda.enable_cudnn_sdp(True)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.usefixtures("_reset_determinism")
def test_deterministic_asks_torch_for_all_that_it_offers():
    compute_deterministically()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    assert torch.backends.mkldnn.deterministic
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.usefixtures("_reset_determinism")
@pytest.mark.parametrize("options", ["--engine sequential", "--engine batched", TEXT], ids=["alone", "stacked", "text"])
def test_on_a_cpu_deterministic_changes_no_bit(options, tmp_path, monkeypatch):
    """Though it fills memory that nobody has written to with NaN."""
    monkeypatch.chdir(tmp_path)
    usual, asked = (logged(f"--device cpu {options} {more}") for more in ("", "--deterministic --overwrite"))
    assert torch.are_deterministic_algorithms_enabled()
    for name in usual.keys() - SECONDS:
        np.testing.assert_array_equal(asked[name], usual[name])


@pytest.mark.usefixtures("_reset_determinism")
def test_a_workspace_that_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    compute_deterministically()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_deterministic_is_set_before_the_device_is_looked_for(monkeypatch, tmp_path):
    """CUDA reads it when it starts."""
    from mpisim import simulation
    from mpisim.run import main

    calls = []

    def look(*_):
        calls.append("device")
        raise InputError("looked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulation, "compute_deterministically", lambda: calls.append("deterministic"))
    monkeypatch.setattr(simulation, "choose_device", look)
    assert main(["--deterministic", "--quiet"]) == 2
    assert calls == ["deterministic", "device"]
    calls.clear()
    assert main(["--quiet"]) == 2
    assert calls == ["device"]
