"""``pytest --device``: which devices the suite's processes see, and how alike results must be on each."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import suite_device
import torch
from suite_device import HIDING, KINDS, VARIABLE, assert_same_results, masks, suite_kind

SEEN = """
import os
import warnings

warnings.simplefilter("ignore")
from mpisim.learning.device import choose_device

print(choose_device("auto", 0).type, dict(os.environ))
"""


def pytest_on(*arguments, **variables):
    """Run pytest in a process of its own, on one module; nothing of this process' choice is left to it."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments, "tests/test_units.py"],
        cwd=Path(__file__).parents[1],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_process_of_the_suite_sees_its_device_alone(pytestconfig):
    kind = pytestconfig.getoption("--device")
    done = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True, timeout=60, check=True)
    found, _, environment = done.stdout.partition(" ")
    assert found == kind == suite_kind()
    for name, value in masks(kind).items():
        assert f"{name!r}: {value!r}" in environment
    for other in {*HIDING} - {kind}:
        assert not getattr(torch, other).is_available()


def test_all_devices_of_other_kinds_are_hidden():
    assert masks("cpu") == {"CUDA_VISIBLE_DEVICES": "", "ONEAPI_DEVICE_SELECTOR": "!*:gpu"}
    assert masks("cuda") == {"ONEAPI_DEVICE_SELECTOR": "!*:gpu"}
    assert masks("xpu") == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("kind", HIDING)
def test_a_device_that_is_not_there_is_one_line_and_no_test(kind):
    done = pytest_on("--device", kind, **masks("cpu"))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stdout.strip() == ""
    assert done.stderr.strip() == f"ERROR: --device {kind}: torch finds none here"


def test_a_device_that_cannot_be_hidden_is_told(monkeypatch):
    monkeypatch.setattr("suite_device.choose_device", lambda *_: torch.device("xpu", 0))
    monkeypatch.setattr("os.environ", dict(os.environ))
    assert suite_device.take("cpu") == "xpu"
    assert os.environ["ONEAPI_DEVICE_SELECTOR"] == "!*:gpu"
    assert suite_kind() == "cpu"


LOSSES, ACCURACIES = np.linspace(1, 2, 12).reshape(3, 4), np.linspace(0, 1, 12).reshape(3, 4)
RESULTS = {"train_loss": LOSSES, "iid_accuracy": ACCURACIES, "round": np.arange(3), "status": "complete"}


def changed(name, count=1, by=0.0, to=None):
    """Return the results, of which the first numbers of one are others."""
    values = RESULTS[name].copy()
    values.flat[:count] = values.flat[:count] + by if to is None else to
    return RESULTS | {name: values}


# Results, whether they count as the same on a GPU, and whether with a rounding of 0.01.
OTHERS = {
    "equal": (RESULTS, True, True),
    "a rounding away": (changed("train_loss", by=1.9e-4), True, True),
    "more than that": (changed("train_loss", by=2.1e-4), False, True),
    "far more": (changed("train_loss", by=0.03), False, False),
    "no number": (changed("train_loss", to=np.nan), False, False),
    "a sample here and there": (changed("iid_accuracy", 3, 0.1), True, True),
    "many samples": (changed("iid_accuracy", 4, 0.1), False, True),
    "another whole number": (changed("round", by=1), False, False),
    "another text": (RESULTS | {"status": "running"}, False, False),
    "one too few": ({name: RESULTS[name] for name in ("train_loss", "round", "status")}, False, False),
    "another shape": (RESULTS | {"train_loss": LOSSES[:2]}, False, False),
}


def agrees(found, rounding):
    try:
        assert_same_results(found, RESULTS, rounding)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("found, usually, roughly", OTHERS.values(), ids=OTHERS)
def test_results_are_the_same_bits_on_cpus_and_agree_to_rounding_on_gpus(monkeypatch, found, usually, roughly):
    for kind in KINDS:
        monkeypatch.setenv(VARIABLE, kind)
        exact = found is RESULTS
        expected = (exact, exact) if kind == "cpu" else (usually, roughly)
        assert (agrees(found, suite_device.ROUNDING), agrees(found, 0.01)) == expected


def test_on_cpus_a_zero_and_its_negative_are_not_the_same_bits(monkeypatch):
    monkeypatch.setenv(VARIABLE, "cpu")
    assert not agrees(changed("iid_accuracy", to=-0.0), suite_device.ROUNDING)
    monkeypatch.setenv(VARIABLE, "cuda")
    assert agrees(changed("iid_accuracy", to=-0.0), suite_device.ROUNDING)
