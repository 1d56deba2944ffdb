"""Steps that are replayed give the bits of steps that are made, as long as memory stays and no number is frozen.

No GPU is needed: ``Tape`` does on a CPU what a CUDA graph does. It notes the operations of a step with the memory that
they read and write, and does them again without a line of Python between them.
"""

import contextlib
import dataclasses
import sys

import numpy as np
import pytest
import torch
from test_stack import NUM_ROUNDS, OPTIONS, SIZES, norm_and_dropout, perceptron, text, train
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mpisim import Config, plan
from mpisim.experiment import decide
from mpisim.learning.engine import Engine
from mpisim.learning.optimizers import Optimizer, OptimizerSettings
from mpisim.learning.parameters import StateLayout
from mpisim.learning.replay import MOST_RECORDED, WARM_UPS, GraphRecorder, Replays
from mpisim.local_training import replay_obstacle
from mpisim.models.dropout import Dropout

CPU = torch.device("cpu")
LOOK_AT_A_NUMBER = torch.ops.aten._local_scalar_dense.default  # what a capture forbids


class Tape(TorchDispatchMode):
    """Notes operations, and what was in memory before they wrote there."""

    def __init__(self):
        super().__init__()
        self.operations = []
        self.before = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is LOOK_AT_A_NUMBER:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result

    def undo(self):
        for storage, before in self.before.values():
            storage.copy_(before)

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, result in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class TapeRecorder:
    """Records on tapes, of which ``fails_at`` breaks."""

    def __init__(self, fails_at=None):
        self.fails_at = fails_at
        self.num_warm_ups, self.num_recorded, self.num_replayed = 0, 0, 0

    def warm_up(self, step):
        self.num_warm_ups += 1
        step()

    def record(self, step):
        if self.num_recorded == self.fails_at:
            raise RuntimeError("this step cannot be captured\nmore of it")
        tape = Tape()
        try:
            with tape:
                step()
        finally:
            tape.undo()
        self.num_recorded += 1

        def replay():
            self.num_replayed += 1
            tape.replay()

        return replay


@pytest.fixture(autouse=True)
def _adam_counts_on_a_cpu(monkeypatch):
    """Let torch's Adam read its count from memory here too, as it does on a GPU."""
    module = sys.modules["torch.optim.adam"]  # torch.optim hides it behind the function
    monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda **_: ["cpu"])


def norm():
    return nn.Sequential(nn.Conv2d(1, 3, 2, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4))


def assert_same_bits(found, expected):
    (trained, losses), (wanted, wanted_losses) = found, expected
    np.testing.assert_array_equal(losses, wanted_losses)
    assert torch.equal(trained.parameters, wanted.parameters)
    for own, wanted_own in zip(trained.counters, wanted.counters, strict=True):
        assert [counter.tolist() for counter in own] == [counter.tolist() for counter in wanted_own]
    state, wanted_state = trained.state(), wanted.state()
    assert state.keys() == wanted_state.keys()
    for name in state:
        np.testing.assert_array_equal(state[name], wanted_state[name])


REPLAYED = [name for name in OPTIONS if name not in ("augmented", "proximal")]


@pytest.mark.parametrize("options", [OPTIONS[name] for name in REPLAYED], ids=REPLAYED)
@pytest.mark.parametrize("make, stack", [(perceptron, 1), (perceptron, 3), (norm, 3), (text, 3)])
def test_replayed_steps_give_the_same_bits(make, options, stack):
    """Over rounds with unequal shards and short last batches; nodes of one stack after those of another."""
    if make is text:
        options = options | {"lr": 1e-4}
    recorder = TapeRecorder()
    replayed = train(make, options, Engine(True, stack), recorder=recorder)
    assert recorder.num_replayed > recorder.num_warm_ups > 0
    # Adam rounds its corrections otherwise where it reads its count from memory, replayed or not.
    is_adam = "adam" in options.get("optimizer", "")
    as_it_is = TapeRecorder(fails_at=0) if is_adam else None
    made = train(make, options, Engine(True, stack), recorder=as_it_is)
    assert_same_bits(replayed, made)
    if is_adam:
        on_host = train(make, options, Engine(True, stack))
        np.testing.assert_allclose(replayed[1], on_host[1], rtol=1e-5)


def test_replayed_steps_are_those_of_whoever_takes_part():
    takes_part = np.random.default_rng(0).random((NUM_ROUNDS, len(SIZES))) < 0.6
    options = {"momentum": 0.9, "keep_optimizer_state": True, "participation": 0.6}
    recorder = TapeRecorder()
    replayed = train(perceptron, options, Engine(True, 3), takes_part=takes_part, recorder=recorder)
    assert recorder.num_replayed > 0
    assert_same_bits(replayed, train(perceptron, options, Engine(True, 3), takes_part=takes_part))


def test_a_tests_view_between_epochs_is_the_same():
    seen = {}

    def note(name):
        return lambda node, epoch: seen.setdefault(name, []).append((node, epoch))

    replayed = train(norm, {}, Engine(True, 3), after_epoch=note("replayed"), recorder=TapeRecorder())
    assert_same_bits(replayed, train(norm, {}, Engine(True, 3), after_epoch=note("made")))
    assert seen["replayed"] == seen["made"]


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_a_capture_that_fails_changes_nothing_and_is_told_once(capsys, fails_at):
    recorder = TapeRecorder(fails_at)
    found = train(norm, {"momentum": 0.9}, Engine(True, 3), recorder=recorder)
    assert recorder.num_recorded == fails_at
    assert_same_bits(found, train(norm, {"momentum": 0.9}, Engine(True, 3)))
    assert capsys.readouterr().err == (
        "mpisim: training steps are not replayed as a graph: this step cannot be captured\n"
    )


def test_adam_that_counts_in_python_would_not_be_captured(monkeypatch):
    """The tape forbids what a graph forbids: the count as a number, which a replay would freeze."""
    layout = StateLayout(("w",), (torch.Size([3]),), (0,), 3)
    optimizer = Optimizer(OptimizerSettings(name="adam", lr=0.1), layout, 1, CPU)
    update = optimizer.bind_uncounted([torch.ones(1, 3)], slice(0, 1))
    with pytest.raises(RuntimeError, match="not permitted"):
        TapeRecorder().record(lambda: update([torch.ones(1, 3)], 5))
    count = torch.tensor(5.0, dtype=torch.float64)
    TapeRecorder().record(lambda: update([torch.ones(1, 3)], count))


def make_replays(recorder, num_rows=2):
    layout = StateLayout(("w",), (torch.Size([3]),), (0,), 3)
    optimizer = Optimizer(OptimizerSettings(name="sgd", lr=0.1), layout, num_rows, CPU)
    return Replays(recorder, layout, num_rows, optimizer, [], CPU)


def test_a_replay_reads_what_was_written_since_and_nothing_that_python_knows():
    recorder = TapeRecorder()
    replays = make_replays(recorder)
    table = torch.arange(10.0)
    factor = 1.0

    def make(rows, count):
        replays.losses[:2].add_(table[rows] * factor + count)

    replays.begin([table])
    expected = np.zeros(2)
    for step in range(WARM_UPS + 4):
        rows = torch.tensor([step, step + 1])
        table[step] += 100
        replays.step("shape", rows, step, make)
        expected += table[rows].numpy() + step
        if step == WARM_UPS:  # recorded: from here on a graph does not see it
            factor = 7.0
    assert recorder.num_recorded == 1
    assert recorder.num_replayed == 4
    np.testing.assert_array_equal(replays.losses.numpy(), expected)


def test_each_shape_is_recorded_by_itself_once_it_has_come_often_enough():
    recorder = TapeRecorder()
    replays = make_replays(recorder)
    replays.begin([])

    def make(rows, count):
        replays.losses[: len(rows)].add_(rows)

    for shape in [2] * 5 + [1] * WARM_UPS + [2]:
        replays.step(shape, torch.ones(shape, dtype=torch.int64), 0, make)
    assert (recorder.num_warm_ups, recorder.num_recorded, recorder.num_replayed) == (2 * WARM_UPS, 1, 3)
    replays.step(1, torch.ones(1, dtype=torch.int64), 0, make)
    assert (recorder.num_recorded, replays.num_recorded) == (2, 2)
    assert replays.losses.tolist() == [6 + WARM_UPS + 1, 6]


def test_memory_that_moved_is_recorded_anew():
    """The same shape on another matrix: a graph of the old one would go on writing there."""
    recorder = TapeRecorder()
    replays = make_replays(recorder)
    old, new = torch.zeros(3), torch.zeros(3)
    for matrix in (old, new, new):
        replays.begin([matrix])
        for _ in range(WARM_UPS + 2):
            replays.step("shape", torch.tensor([0]), 0, lambda _rows, _count, matrix=matrix: matrix.add_(1))
    assert old.tolist() == [WARM_UPS + 2] * 3
    assert new.tolist() == [2 * (WARM_UPS + 2)] * 3
    assert recorder.num_recorded == 2


def test_no_more_are_recorded_than_memory_should_hold():
    class Counting(TapeRecorder):
        def record(self, step):
            self.num_recorded += 1
            return step

    recorder = Counting()
    replays = make_replays(recorder)
    replays.begin([])
    done = []
    for _ in range(WARM_UPS + 2):
        for shape in range(MOST_RECORDED + 3):
            replays.step(shape, torch.tensor([0]), 0, lambda _rows, _count, shape=shape: done.append(shape))
    assert recorder.num_recorded == MOST_RECORDED
    assert sorted(done) == sorted(list(range(MOST_RECORDED + 3)) * (WARM_UPS + 2))


@pytest.mark.parametrize(
    "options, make, part",
    [
        ({"optimizer": "adam", "shuffle": True, "keep_optimizer_state": True}, norm, None),
        ({"augment": True}, norm, "--augment"),
        ({"proximal": 0.1}, norm, "--proximal"),
        ({}, norm_and_dropout, "dropout"),
        ({}, lambda: nn.Sequential(*norm(), Dropout(0.0)), None),
    ],
)
def test_what_cannot_be_replayed_is_known_before(options, make, part):
    found = replay_obstacle(Config(**options), make())
    assert (found is None) if part is None else (part in found)
    recorder = TapeRecorder()
    train(make, options, Engine(True, 3), recorder=recorder)
    assert (recorder.num_warm_ups == 0) == (part is not None)


@pytest.mark.parametrize(
    "model, options, device, ending",
    [
        (perceptron, {}, "cuda:0", "64 nodes at a time, steps replayed as graphs"),
        (norm, {"augment": True}, "cuda:0", "steps launched kernel by kernel: --augment draws on the host"),
        (norm_and_dropout, {}, "cuda:0", "kernel by kernel: dropout draws from a generator for each node"),
        (norm, {"engine": "sequential"}, "cuda:0", "sequential: node after node"),
        (perceptron, {}, "cpu", "nodes at a time"),
        (norm, {}, "xpu:0", "nodes at a time"),
    ],
)
def test_the_plan_says_whether_steps_are_replayed(model, options, device, ending):
    experiment = decide(Config(topology="ring:n=4", train_samples=40, test_samples=40), 1)
    experiment = dataclasses.replace(experiment, config=Config(**options), module=model())
    assert plan._engine(experiment, torch.device(device)).endswith(ending)


def test_node_after_node_nothing_is_replayed():
    recorder = TapeRecorder()
    train(perceptron, {}, Engine(False, 1), recorder=recorder)
    assert recorder.num_warm_ups == 0


class FakeCuda:
    """What ``GraphRecorder`` calls of torch.cuda: notes each call, with the stream that is current then."""

    def __init__(self, fails):
        self.calls, self.current, self.fails = [], "main", fails

    def note(self, *call):
        self.calls.append((*call, self.current))

    def Stream(self, _device):
        return FakeStream(self, "side")

    def current_stream(self, _device):
        return FakeStream(self, self.current)

    def graph_pool_handle(self):
        return "pool"

    def CUDAGraph(self):
        return FakeGraph(self)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, _graph, *, pool, stream, capture_error_mode):
        """Leave the stream current where the capture fails, as torch does."""
        self.current = stream.name
        self.note("begin", pool, capture_error_mode)
        try:
            yield
        finally:
            if self.fails:
                raise RuntimeError("CUDA error: capture was invalidated")
        self.note("end")
        self.current = "main"


class FakeStream:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def wait_stream(self, other):
        self.cuda.note(self.name, "waits for", other.name)


class FakeGraph:
    def __init__(self, cuda):
        self.cuda = cuda

    def replay(self):
        self.cuda.note("replay")


def fake_recorder(monkeypatch, *, fails=False):
    cuda = FakeCuda(fails)
    for name in ("Stream", "current_stream", "graph_pool_handle", "CUDAGraph", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    return cuda, GraphRecorder(torch.device("cuda", 0))


def test_a_graph_is_recorded_on_a_side_stream_and_replayed_on_the_main_one(monkeypatch):
    cuda, recorder = fake_recorder(monkeypatch)
    recorder.warm_up(lambda: cuda.note("step"))
    assert cuda.calls == [
        ("side", "waits for", "main", "main"),
        ("step", "side"),
        ("main", "waits for", "side", "main"),
    ]
    cuda.calls.clear()
    replay = recorder.record(lambda: cuda.note("step"))
    assert cuda.calls == [("begin", "pool", "thread_local", "side"), ("step", "side"), ("end", "side")]
    assert cuda.current == "main"
    replay()
    assert cuda.calls[-1] == ("replay", "main")


def test_after_a_failed_capture_the_main_stream_is_current(monkeypatch):
    cuda, recorder = fake_recorder(monkeypatch, fails=True)
    with pytest.raises(RuntimeError, match="invalidated"):
        recorder.record(lambda: cuda.note("step"))
    assert cuda.current == "main"
