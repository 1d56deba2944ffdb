"""The device that the suite's runs take (``pytest --device``), in every process of it, and how alike results are there.

No run of the suite has to ask for the device: all others are hidden from torch by the environment, which whatever a
test starts inherits, so that ``--device auto`` can only take it. A run that wants the CPU on a GPU, too, asks for that.
"""

import os
import warnings

import numpy as np

from mpisim.learning.device import choose_device

VARIABLE = "MPISIM_TEST_DEVICE"
# What hides all devices of a kind. Of Intel GPUs an empty ZE_AFFINITY_MASK would show all.
HIDING = {"cuda": {"CUDA_VISIBLE_DEVICES": ""}, "xpu": {"ONEAPI_DEVICE_SELECTOR": "!*:gpu"}}
KINDS = ("cpu", *HIDING)

ROUNDING = 1e-4  # of the largest value: what rounding comes to on a GPU, magnified by a few rounds of training
FEW = 3  # entries of accuracies that a prediction may have changed, where two labels are all but tied; or
FEW_OF = 50  # one in so many


def suite_kind() -> str:
    """Return the kind of device that the suite's runs take."""
    return os.environ.get(VARIABLE, "cpu")


def masks(kind: str) -> dict[str, str]:
    """Return the variables that let a process see no devices but those of a kind."""
    return {name: value for other, hiding in HIDING.items() if other != kind for name, value in hiding.items()}


def take(kind: str) -> str:
    """Let runs take a kind of device, in this process and in those that it starts; return which they do take."""
    os.environ.update(masks(kind) | {VARIABLE: kind})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a torch for Intel GPUs that finds none warns of it, the first time
        return choose_device("auto", 0).type


def on_gpu() -> bool:
    """Return whether the suite's runs take a GPU."""
    return suite_kind() != "cpu"


def assert_same_results(found, expected, rounding=ROUNDING):
    """Compare results, by name: on CPUs they are the same bits, on GPUs they agree to rounding.

    To be used where the README promises the same bits on CPUs alone: between numbers of ranks, placements, engines,
    and between runs that no ``--deterministic`` was given. With a ``rounding`` that is larger than usual, accuracies
    may be any, and the losses tell.
    """
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if on_gpu():
            assert_close(name, np.asarray(found[name]), np.asarray(values), rounding)
        else:
            assert_same_bits(name, np.asarray(found[name]), np.asarray(values))


def assert_same_bits(name, found, expected):
    np.testing.assert_array_equal(found, expected, err_msg=name, strict=True)
    assert found.tobytes() == expected.tobytes(), name  # a 0 and a -0 are equal


def assert_close(name, found, expected, rounding=ROUNDING):
    """Compare an array to rounding; whole numbers and texts, and where there is no number, must be the same."""
    assert found.shape == expected.shape, name
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(found, expected, err_msg=name)
    elif "accuracy" in name or "recall" in name:
        differs = ~np.isclose(found, expected, rtol=0, atol=1e-12, equal_nan=True)
        few = max(FEW, differs.size // FEW_OF) if rounding <= ROUNDING else differs.size
        assert differs.sum() <= few, f"{name}: {found[differs]}, not {expected[differs]}"
    else:
        largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=rounding * largest, err_msg=name)
