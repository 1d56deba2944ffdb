"""Stacks: nodes trained as a stack, as a run on this device would stack them, against node by node.

Both engines train the same nodes on the same drawn images from the same start, as a run trains them in a round: its
own ``Nodes`` do. What comes first is not timed: there libraries set themselves up and, on a CUDA GPU, steps are
recorded. Beside the times stand the rates of floating-point operations that they come to, and what the device reaches
in one large product of matrices; only products and convolutions are counted.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.bench.drawn import CASES, drawn_nodes
from mpisim.bench.timing import SECONDS, Comparison, Figures, Report, alternate, at_least_one
from mpisim.config import DEVICES, Config

if TYPE_CHECKING:
    import torch

HELP = "training nodes as a stack against node by node"
SINGLY, STACKED = "node by node", "as a stack"
TURN_SECONDS = 1.0
MATRIX_EDGE = {"cpu": 2_048}
LARGE_EDGE = 8_192  # on devices: 0.8 GB, and 1.1e12 operations
MATRIX_REPEATS = 5  # of which the fastest counts


@dataclass(frozen=True)
class Size:
    """How many nodes train, on how many batches each."""

    nodes: int
    batches: int


@dataclass(frozen=True)
class Workload:
    """What a round is on a GPU and on a CPU, a second at the most; and how far engines may end apart, and how fast.

    Attributes
    ----------
    nearly : float
        How far apart two models may be, as a share of the way that they went in training.
    target : the ratio to reach on a CUDA GPU
    """

    on_gpu: Size
    on_cpu: Size
    nearly: float
    target: float | None = None


WORKLOADS = {
    "digits": Workload(Size(64, 10), Size(64, 10), 1e-3, 1 / 8),
    "mnist": Workload(Size(64, 25), Size(2, 10), 1e-3, 1 / 3),
    # Adam makes a whole step of a gradient that is rounding alone, as that of a bias before BatchNorm is.
    "vgg16": Workload(Size(64, 4), Size(2, 1), 0.1),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    sizes = {
        name: ", ".join(str(getattr(workload.on_gpu, name)) for workload in WORKLOADS.values())
        + "; on a CPU "
        + ", ".join(str(getattr(workload.on_cpu, name)) for workload in WORKLOADS.values())
        for name in ("nodes", "batches")
    }
    parser.add_argument("--device", choices=DEVICES, default="auto", help="what nodes train on (auto)")
    parser.add_argument("--model", nargs="+", choices=CASES, default=list(CASES), help="what they train (all)")
    parser.add_argument("--nodes", type=at_least_one, metavar="N", help=f"({sizes['nodes']})")
    parser.add_argument("--stack", type=at_least_one, metavar="N", help="nodes in a stack (what the run would take)")
    parser.add_argument("--batches", type=at_least_one, metavar="N", help=f"of each node ({sizes['batches']})")


def measure(options: argparse.Namespace) -> Report:
    """Run the bench."""
    import torch

    from mpisim.learning.device import choose_device, device_name

    device = choose_device(options.device, 0)
    edge = MATRIX_EDGE.get(device.type, LARGE_EDGE)
    peak = matrix_rate(edge, device)
    comparisons: list[Comparison] = []
    notes = [f"{device_name(device)}: {plain_rate(peak)} in a float32 product of matrices of {edge:,} × {edge:,}"]
    figures: dict[str, Any] = {"device": device_name(device), "matrix_rate": peak}
    failed = False
    for name in dict.fromkeys(options.model):
        try:
            comparison, figures[name], lines = _measure_case(name, options, device, peak)
        except torch.OutOfMemoryError:
            notes.append(f"{name}: no room on {device}: take fewer --nodes or --batches, or a smaller --stack")
            failed = True
            continue
        comparisons.append(comparison)
        notes += lines
        if not figures[name]["difference"] <= WORKLOADS[name].nearly:  # nor NaN
            notes.append(f"{name}: that is more than rounding explains: the engines did not do the same work")
            failed = True
    return Report(SINGLY, STACKED, comparisons, notes, figures, failed)


def _measure_case(
    name: str, options: argparse.Namespace, device: torch.device, peak: float
) -> tuple[Comparison, dict[str, Any], list[str]]:
    """Return the comparison of a case, its figures and what to say of them."""
    workload = WORKLOADS[name]
    usual = workload.on_cpu if device.type == "cpu" else workload.on_gpu
    size = Size(options.nodes or usual.nodes, options.batches or usual.batches)
    contenders = {
        SINGLY: Contender(config_of(name, "sequential"), size, device),
        STACKED: Contender(config_of(name, "batched", options.stack), size, device),
    }
    for contender in contenders.values():
        contender.prepare()
    series = alternate({which: each.turn for which, each in contenders.items()}, options.repeats, name)
    singly, stacked = (series[which][SECONDS] for which in contenders)
    target = workload.target if device.type == "cuda" else None

    operations = step_operations(name, device)
    rates = {which: operations / statistics.median(each[SECONDS]) for which, each in series.items()}
    reached = "; ".join(f"{which} {plain_rate(rate)}, {100 * rate / peak:.1f} %" for which, rate in rates.items())
    far = largest_difference(contenders[STACKED].models, contenders[SINGLY].models, contenders[SINGLY].start)
    figures = {
        "nodes": size.nodes,
        "batches": size.batches,
        "stack": contenders[STACKED].nodes.training.engine.stack,
        "operations": operations,
        "rates": rates,
        "difference": far,
    }
    notes = [
        f"{name}: seconds of a node and step; {contenders[STACKED].described()}",
        f"{name}: {operations / 1e6:,.1f} million operations a step: {reached} of the product's rate",
        f"{name}: models differ by {far:.1e} of the way they went in training at the most",
    ]
    return Comparison(f"{name}, {size.nodes} nodes", singly, stacked, target), figures, notes


def config_of(name: str, engine: str, stack: int | None = None) -> Config:
    """Return the options of a run on a case's recipe: one epoch, nothing out of distribution."""
    return Config(dataset=CASES[name], engine=engine, stack=stack, epochs=1, ood="none")


class Contender:
    """Nodes that one engine trains over and over, from the same start.

    Parameters
    ----------
    config : from ``config_of``
    size : of a round
    device : torch.device

    Attributes
    ----------
    start : float32 tensor, shape (num_columns,)
        The model that all nodes start from.
    """

    def __init__(self, config: Config, size: Size, device: torch.device):
        self._size, self._device = size, device
        num_samples = size.batches * int(config.batch_size or 1)
        self.nodes = drawn_nodes(config, np.arange(size.nodes), device, num_samples, num_test=1)
        self.start = self.nodes.parameters[0].clone()
        self._rounds = 1

    @property
    def models(self) -> torch.Tensor:
        """What the last round has made of the models, shape (num_nodes, num_columns)."""
        return self.nodes.parameters

    def prepare(self) -> None:
        """Train until nothing is done for the first time any more; find out how many rounds make a turn."""
        from mpisim.learning.replay import WARM_UPS

        unlike_others = WARM_UPS + 2  # the steps of a shape up to the first that is replayed
        for _ in range(math.ceil(unlike_others / self._size.batches) if self._device.type == "cuda" else 1):
            self._train()
        self._rounds = max(1, round(TURN_SECONDS / self._train()))

    def turn(self) -> Figures:
        """Return the seconds that a step of one node takes."""
        num_steps = self._size.nodes * self._size.batches * self._rounds
        return {SECONDS: sum(self._train() for _ in range(self._rounds)) / num_steps}

    def described(self) -> str:
        """Return how the nodes train, as the plan of a run says it."""
        from mpisim.local_training import replay_obstacle

        text = str(self.nodes.training.engine)
        if self._device.type != "cuda":
            return text
        obstacle = replay_obstacle(self.nodes.config, self.nodes.model.module)
        return f"{text}, {'replayed as graphs' if obstacle is None else f'launched kernel by kernel: {obstacle}'}"

    def _train(self) -> float:
        """Train all nodes for a round, from the start; return its seconds, as a run takes them."""
        from mpisim.learning.device import synchronize

        self.nodes.parameters.copy_(self.start)
        synchronize(self._device)
        started = time.perf_counter()
        self.nodes.train(1, np.ones(self._size.nodes, dtype=bool), None)
        synchronize(self._device)
        return time.perf_counter() - started


def step_operations(name: str, device: torch.device) -> int:
    """Return the floating-point operations of the products in one node's training step, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    config = config_of(name, "sequential")
    nodes = drawn_nodes(config, np.arange(1), device, int(config.batch_size or 1), num_test=1)
    with FlopCounterMode(display=False) as counter:
        nodes.train(1, np.ones(1, dtype=bool), None)
    return int(counter.get_total_flops())


def matrix_rate(edge: int, device: torch.device) -> float:
    """Return the operations per second of a float32 product of two square matrices, the fastest of some."""
    import torch

    from mpisim.learning.device import synchronize

    left, right = (torch.randn((edge, edge), device=device) for _ in range(2))
    product = torch.empty_like(left)
    seconds = []
    for _ in range(1 + MATRIX_REPEATS):  # in the first, the library sets itself up
        synchronize(device)
        started = time.perf_counter()
        torch.mm(left, right, out=product)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * edge**3 / min(seconds[1:])


def largest_difference(found: torch.Tensor, expected: torch.Tensor, start: torch.Tensor) -> float:
    """Return how far apart any two models are, ‖x - y‖, as a share of the way that the second went, ‖y - start‖.

    Parameters
    ----------
    found, expected : float32 tensors, shape (num_nodes, num_columns)
    start : float32 tensor, shape (num_columns,)

    Returns
    -------
    float
        Of the two that differ most; NaN if a model has left the numbers, or none of two has moved.
    """
    # Row by row: a matrix of differences would take as much memory as X.
    shares = [
        float((mine - other).norm() / (other - start).norm())
        for mine, other in zip(found.unbind(), expected.unbind(), strict=True)
    ]
    return float(np.max(shares))  # NaN where one of them is


def plain_rate(operations: float) -> str:
    """Return a number of operations per second with three digits.

    >>> plain_rate(5.123e13), plain_rate(2e9), plain_rate(12.3e6)
    ('51.2 TFLOP/s', '2.00 GFLOP/s', '0.01 GFLOP/s')
    """
    unit, value = ("TFLOP/s", operations / 1e12) if operations >= 1e12 else ("GFLOP/s", operations / 1e9)
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
