"""What several test modules need: logs whose content is known. And the suite's own option, ``--device``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import suite_device
import torch

from mpisim.storage.log import Log
from mpisim.storage.variables import VARIABLES, Variable


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=suite_device.KINDS, default="cpu", help="what runs of mpisim take: cpu")


def pytest_configure(config: pytest.Config) -> None:
    """Hide from torch, before any test looks, all devices but those of the kind asked for."""
    kind = config.getoption("--device")
    found = suite_device.take(kind)
    if found != kind:
        there = "torch finds none here" if found == "cpu" else f"torch cannot be kept from {found}"
        raise pytest.UsageError(f"--device {kind}: {there}")
    config.option.loadscopereorder = False  # pytest-xdist is to keep the order: see below


# Files of a minute or more. They come first: no process should have one of them left when the others are done.
LONG = ("test_sweep_parsl.py", "test_faults.py", "test_mpi.py", "test_resume.py", "test_bench.py", "test_fetching.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that take long first."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Let torch compute on one thread, whatever a run in this process has set: the tests' products are small.

    Threads would wait for each other, spinning, on cores that other processes use: some tests took ten times as long.
    """
    torch.set_num_threads(1)


class LogContent:
    """Content for logs of 3 nodes on 2 ranks; every number is drawn, so that no two agree by chance."""

    sizes = {"node": 3, "rank": 2, "link": 5, "label": 4, "epoch": 2}  # noqa: RUF012
    attributes = {  # noqa: RUF012
        "title": "degree on ring:n=3, digits, seed 0",
        "config": json.dumps({"rounds": 4}),
        "data_kind": "image",
    }

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self.static = {name: self._draw(name) for name in VARIABLES if VARIABLES[name].dims[0] != "round"}
        for name in ("link_target", "link_source"):
            self.static[name] %= self.sizes["node"]

    def _draw(self, name: str) -> np.ndarray:
        shape = tuple(self.sizes[dim] for dim in VARIABLES[name].dims if dim != "round")
        return self._rng.random(shape) if VARIABLES[name].dtype == "f8" else self._rng.integers(0, 100, shape)

    def round(self, **given: Any) -> dict[str, Any]:
        """Return a value for every variable that has rounds."""
        return {name: self._draw(name) for name in VARIABLES if VARIABLES[name].dims[0] == "round"} | given

    def write(
        self,
        path: Path,
        rounds: list[dict[str, Any]],
        status: str = "running",
        variables: dict[str, Variable] = VARIABLES,
    ) -> Path:
        """Write a log with these variables and rounds."""
        log = Log.create(path, self.sizes, self.static, self.attributes, variables=variables)
        for number, values in enumerate(rounds, start=1):
            log.append(number, {name: value for name, value in values.items() if name in variables})
        log.set_status(status)
        return path


@pytest.fixture
def log_content() -> LogContent:
    return LogContent()
