"""Steps that are replayed: what a GPU was told once, kernel by kernel, it does again at a single word.

A step of a small model is tens of kernels, each of which takes the GPU less time than the host to launch it. A CUDA
graph holds them all and is launched at once. What it holds is kernels and addresses, no Python: whatever changes from
step to step must lie in memory that stays where it is, and what a step reads must have been written there before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mpisim.learning.optimizers import Optimizer
from mpisim.learning.parameters import StateLayout, allocate_rows

# Steps of a shape that are made as they are before one is recorded: libraries set themselves up in the first, and what
# seldom comes is not worth a graph. torch's own ``make_graphed_callables`` warms up as often.
WARM_UPS = 3
# A graph takes memory, on the device too; shards of many different sizes make many shapes.
MOST_RECORDED = 256

Step = Callable[[torch.Tensor, torch.Tensor], None]  # of rows of the batch table, and the optimizer's count


class Recorder(Protocol):
    """What records steps."""

    def warm_up(self, step: Callable[[], None]) -> None:
        """Make a step as it is, where it will be recorded."""

    def record(self, step: Callable[[], None]) -> Callable[[], object]:
        """Record a step without making it; return what makes it. RuntimeError if it cannot be recorded."""


class GraphRecorder:
    """Records steps as CUDA graphs."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # One pool for all graphs: what one leaves there when it ends, no other needs.
        self._pool = torch.cuda.graph_pool_handle()
        self._last: torch.cuda.CUDAGraph | None = None

    def warm_up(self, step: Callable[[], None]) -> None:
        """Make a step on the stream that records: libraries have a workspace for each stream."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            step()
        current.wait_stream(self._stream)

    def record(self, step: Callable[[], None]) -> Callable[[], object]:
        """Record a step without making it; return what makes it. RuntimeError if it cannot be recorded."""
        # Held even if it comes to nothing: torch's allocator goes on referring to a graph whose capture failed.
        graph = self._last = torch.cuda.CUDAGraph()
        # The outer context leaves the stream, which torch's own does not where a capture fails. Only what this thread
        # does can make it fail: others, of an MPI library say, may look at their events meanwhile.
        with (
            torch.cuda.stream(self._stream),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            step()
        return graph.replay


@dataclass
class _Shape:
    """A step of one shape: its own rows of the batch table, how often it was made, and what replays it."""

    rows: torch.Tensor
    times: int = 0
    replay: Callable[[], object] | None = None


class Replays:
    """The memory that all stacks of a rank train in, one after the other, and the steps recorded on it.

    Parameters
    ----------
    layout : of a row
    num_rows : int
        The nodes in a stack, at the most.
    optimizer : with as many rows
    counters : of one node, its integer buffers

    Attributes
    ----------
    rows : float32 tensor, shape (num_rows, num_columns)
    losses : float64 tensor, shape (num_rows,)
    counters : tensors, shape (num_rows, ...)
    """

    def __init__(
        self,
        recorder: Recorder,
        layout: StateLayout,
        num_rows: int,
        optimizer: Optimizer,
        counters: Sequence[torch.Tensor],
        device: torch.device,
    ):
        self.rows = allocate_rows(num_rows, layout.num_columns, device)
        self.losses = torch.zeros(num_rows, dtype=torch.float64, device=device)
        self.optimizer = optimizer
        self.counters = [torch.stack([counter] * num_rows) for counter in counters]
        self._recorder: Recorder | None = recorder
        # Of the optimizer's steps. In float32, Adam's 1 - β₂^t would be off by some 1e-5 in the first of them.
        self._count = torch.zeros((), dtype=torch.float64, device=device)
        self._told = 0  # what it holds
        self._memory: list[torch.Tensor] = []
        self._shapes: dict[Hashable, _Shape] = {}

    @property
    def num_recorded(self) -> int:
        """The number of steps that are replayed."""
        return sum(shape.replay is not None for shape in self._shapes.values())

    def begin(self, others: Sequence[torch.Tensor]) -> None:
        """Begin the training of a stack; ``others`` is the memory that steps read beside this.

        Whatever was recorded on memory that is elsewhere now is forgotten.
        """
        memory = [self.rows, self.losses, *self.optimizer.moments.values(), *self.counters, *others]
        if [tensor.data_ptr() for tensor in memory] != [tensor.data_ptr() for tensor in self._memory]:
            self._shapes.clear()
        self._memory = memory  # held: an address that a graph knows must not become somebody else's

    def step(self, shape: Hashable, rows: torch.Tensor, num_steps: int, make: Step) -> None:
        """Make a step, by replay once steps of its shape have been recorded.

        Parameters
        ----------
        shape : what tells apart the steps that do not launch the same kernels on the same memory
        rows : int64 tensor, shape (num_nodes,), of the batch table
        num_steps : that the optimizer has counted
        make : makes the step; it reads what differs between steps of a shape from its arguments alone
        """
        if num_steps != self._told:
            self._count.fill_(num_steps)
            self._told = num_steps
        recorder = self._recorder
        if recorder is None:
            make(rows, self._count)
            return
        known = self._shapes.setdefault(shape, _Shape(rows))
        if known.rows is rows:  # the first of its shape
            known.rows = rows.clone()
        known.rows.copy_(rows)
        known.times += 1
        if known.replay is None and known.times > WARM_UPS and self.num_recorded < MOST_RECORDED:
            known.replay = self._recorded(recorder, lambda: make(known.rows, self._count))
        if known.replay is not None:
            known.replay()
        elif known.times <= WARM_UPS and self._recorder is not None:
            recorder.warm_up(lambda: make(known.rows, self._count))
        else:
            make(known.rows, self._count)

    def _recorded(self, recorder: Recorder, step: Callable[[], None]) -> Callable[[], object] | None:
        """Record a step; where that fails, say so and record none from now on."""
        try:
            return recorder.record(step)
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[0]
            print(f"mpisim: training steps are not replayed as a graph: {reason}", file=sys.stderr, flush=True)
            self._recorder = None
            self._shapes.clear()
            return None
