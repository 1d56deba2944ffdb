"""How models travel: which way a run takes, by devices that are not there, and when a staged message leaves."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from mpisim import Config
from mpisim.errors import InputError
from mpisim.exchange import group, packed, transport
from mpisim.exchange.group import backend_of
from mpisim.exchange.packed import PackedMessages, StagedMessages
from mpisim.exchange.transport import Transport, choose_transport, refusal
from mpisim.experiment import decide
from mpisim.plan import plan_rows
from mpisim.ranks.waiting import Waiting

CPU, CUDA, XPU = map(torch.device, ("cpu", "cuda:0", "xpu:0"))


@pytest.mark.parametrize(
    "options, device, way, travel",
    [
        (("mpi", False), CPU, "host", ""),
        (("mpi", False), CUDA, "staged", ", through pinned host memory"),
        (("mpi", False), XPU, "staged", ", through pinned host memory"),
        (("mpi", True), CUDA, "buffers", ", from device memory by MPI"),
        (("device", False), CPU, "link", ", by torch.distributed (gloo)"),
    ],
)
def test_the_options_and_the_device_make_the_way(options, device, way, travel):
    chosen = choose_transport(*options, device)
    assert chosen == Transport(way)
    assert chosen.described(device) == travel


def test_device_buffers_are_nothing_to_a_cpu_which_says_so():
    chosen = choose_transport("mpi", True, CPU)
    assert chosen == Transport("host", "--gpu-aware does nothing on a CPU: models are in host memory")


@pytest.fixture
def torch_has(monkeypatch):
    """Let torch have some backends, and none of oneCCL's bindings unless they are given."""

    def has(*backends, bindings=False):
        for name in ("nccl", "xccl", "gloo"):
            monkeypatch.setattr(dist, f"is_{name}_available", lambda name=name: name in backends, raising=False)
        monkeypatch.setitem(sys.modules, "oneccl_bindings_for_pytorch", SimpleNamespace() if bindings else None)

    return has


@pytest.mark.parametrize(
    "backends, bindings, device, backend",
    [
        (["nccl", "gloo"], False, CUDA, "nccl"),
        (["nccl", "gloo"], False, CPU, "gloo"),
        (["xccl", "gloo"], False, XPU, "xccl"),
        (["xccl", "gloo"], True, XPU, "xccl"),
        (["gloo"], True, XPU, "ccl"),
    ],
)
def test_each_device_has_its_backend(torch_has, backends, bindings, device, backend):
    torch_has(*backends, bindings=bindings)
    assert backend_of(device) == backend


def test_a_torch_that_knows_no_xccl_takes_the_bindings(torch_has, monkeypatch):
    torch_has("gloo", bindings=True)
    monkeypatch.delattr(dist, "is_xccl_available")
    assert backend_of(XPU) == "ccl"


@pytest.mark.parametrize(
    "device, line",
    [
        (
            XPU,
            "--transport device: this torch has no xccl for xpu, and there is no oneccl_bindings_for_pytorch:"
            " take --transport mpi",
        ),
        (CUDA, "--transport device: this torch has no nccl for cuda: take --transport mpi"),
        (CPU, "--transport device: this torch has no gloo for cpu: take --transport mpi"),
    ],
)
def test_a_torch_without_a_backend_is_refused_with_what_to_do(torch_has, device, line):
    torch_has()
    with pytest.raises(InputError) as raised:
        choose_transport("device", False, device)
    assert str(raised.value) == line


@pytest.mark.parametrize("backends, bindings", [(["xccl"], False), ([], True)])
def test_oneccl_is_not_tried_by_one_rank_alone(torch_has, monkeypatch, backends, bindings):
    """By ``CCL_ATL_TRANSPORT=mpi``, say, its processes are all of the MPI job's."""
    torch_has(*backends, bindings=bindings)
    monkeypatch.setenv("CCL_ATL_TRANSPORT", "ofi")
    for start in ("init_process_group", "HashStore"):
        monkeypatch.setattr(dist, start, pytest.fail)
    assert group._obstacle(0, Waiting(), XPU) == ""


@pytest.mark.parametrize(
    "transport, level, may", [("mpi", 3, True), ("mpi", 1, False), (None, 3, True), (None, 1, False), ("ofi", 1, True)]
)
def test_oneccl_goes_by_mpi_only_where_all_threads_may(torch_has, monkeypatch, transport, level, may):
    torch_has("xccl")
    monkeypatch.setattr(group, "MPI", SimpleNamespace(Query_thread=lambda: level, THREAD_MULTIPLE=3))
    monkeypatch.delenv("CCL_ATL_TRANSPORT", raising=False)
    if transport is not None:
        monkeypatch.setenv("CCL_ATL_TRANSPORT", transport)
    reason = group._obstacle(5, Waiting(), XPU)
    assert (reason == "") is may
    assert may or (reason.startswith("on rank 5 on ") and "CCL_ATL_TRANSPORT=mpi" in reason)


def test_a_process_that_uses_torch_distributed_itself_is_told_to_take_mpi(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    with pytest.raises(InputError, match=r"this process uses torch\.distributed already: take --transport mpi$"):
        choose_transport("device", False, CPU)


@pytest.mark.parametrize(
    "device, library, answers, environment, line",
    [
        (CUDA, "MPICH", {"cuda": 1, "ze": 0}, {}, ""),
        (XPU, "MPICH", {"cuda": 0, "ze": 1}, {}, ""),
        (XPU, "MPICH", {"cuda": 1, "ze": 0}, {}, "this MPI was built without support for xpu"),
        (CUDA, "MPICH", {"cuda": 0}, {}, "this MPI was built without support for cuda"),
        (XPU, "another", {}, {}, ""),  # which does not tell
        (XPU, "MPICH", {"ze": 1}, {"MPIR_CVAR_ENABLE_GPU": "0"}, "MPIR_CVAR_ENABLE_GPU=0 keeps MPI from device memory"),
        (XPU, "MPICH", {"ze": 1}, {"MPIR_CVAR_ENABLE_GPU": "1"}, ""),
        (CUDA, "CRAY MPICH", {}, {}, "MPI takes device memory only with MPICH_GPU_SUPPORT_ENABLED=1"),
        (CUDA, "CRAY MPICH", {}, {"MPICH_GPU_SUPPORT_ENABLED": "1"}, ""),
    ],
)
def test_mpi_is_asked_before_it_gets_device_memory(monkeypatch, device, library, answers, environment, line):
    questions = {f"MPIX_Query_{kind}_support": lambda answer=answer: answer for kind, answer in answers.items()}
    monkeypatch.setattr(transport.ctypes, "CDLL", lambda _: SimpleNamespace(**questions))
    monkeypatch.setattr(transport.MPI, "Get_library_version", lambda: library)
    assert refusal(device, environment) == line


def test_the_plan_says_how_models_travel_and_what_one_should_know():
    experiment = decide(Config(topology="ring:n=4", ood="none"), 2)
    places = [{"host": "here", "threads": 1, "device": "cpu"}] * 2
    plain = plan_rows(experiment, places, 2, CPU)
    rows = plan_rows(experiment, places, 2, CPU, Transport("staged", "the reason"))
    assert dict(rows)["messages"] == dict(plain)["messages"] + ", through pinned host memory"
    assert [text for name, text in rows if name == "note"] == ["the reason"]
    assert "note" not in dict(plain)


class FakeStreams:
    """A stand-in for torch.cuda that notes in which order streams are told what."""

    def __init__(self):
        self.log = []

    def Stream(self, device):
        self.side = SimpleNamespace(wait_stream=lambda other: self.log.append(f"side waits for {other} of {device}"))
        return self.side

    def current_stream(self, device):
        return f"main on {device}"

    @contextmanager
    def stream(self, side):
        assert side is self.side
        self.log.append("side begins")
        yield
        self.log.append("side ends")

    def Event(self):
        query = iter([False, True])
        return SimpleNamespace(
            record=lambda side: self.log.append(("event", side is self.side)), query=lambda: next(query)
        )


def test_copies_are_made_on_the_side_stream_after_what_came_before(monkeypatch):
    streams = FakeStreams()
    monkeypatch.setattr(torch, "cuda", streams)
    side = packed.SideStream(CUDA)
    X, buffer = torch.tensor([[1.0, 1 + 2**-9], [3.0, 4.0]]), torch.zeros((2, 2), dtype=torch.bfloat16)
    side.follow()
    done = side.copy(X, buffer)
    assert streams.log == ["side waits for main on cuda:0 of cuda:0", "side begins", ("event", True), "side ends"]
    assert [done(), done()] == [False, True]
    assert buffer.tolist() == [[1, 1], [3, 4]]


class Events:
    """A stand-in for a device that makes copies beside what it computes: each is done when the test says so."""

    def __init__(self):
        self.done, self.copies, self.followed = set(), [], 0

    def __call__(self, device):
        assert device == CPU
        return self

    def follow(self):
        self.followed += 1

    def copy(self, source, target):
        number = len(self.copies)
        self.copies.append((list(source), list(target)))
        return lambda: number in self.done

    def finish(self, number):
        """Let a copy be done."""
        for row, copy in zip(*self.copies[number], strict=True):
            copy.copy_(row)
        self.done.add(number)


class Request:
    """A stand-in for a persistent request, which keeps what its message holds at its start."""

    def __init__(self, memory, rank):
        self.memory, self.rank, self.sent, self.arrived = np.frombuffer(memory, np.float32), rank, None, False

    def Start(self):
        self.sent = self.memory.copy()

    def Test(self):
        return self.arrived


class Startable:
    @staticmethod
    def Startall(requests):
        for request in requests:
            request.Start()


def test_mpi_may_write_to_a_device_only_once_it_is_done_with_what_it_was_given(monkeypatch):
    log = []
    request = SimpleNamespace(Start=lambda: log.append("start"))
    mpi = SimpleNamespace(Prequest=Startable, buffer=packed.MPI.buffer, BYTE=packed.MPI.BYTE)
    monkeypatch.setattr(packed, "MPI", mpi)
    monkeypatch.setattr(packed, "Parcel", lambda *parts: SimpleParcel(*parts))
    monkeypatch.setattr(packed, "synchronize", lambda device: log.append(f"{device} is done"))
    messages = PackedMessages(SimpleNamespace(Recv_init=lambda *_: request), 17)
    messages.receive(torch.zeros(2, 3), 1)
    messages.start_receives()
    assert log == ["cpu is done", "start"]


@pytest.fixture
def staged(monkeypatch):
    """Return staged messages to ranks 1 and 2 and from rank 1 on a fake device, with the device and the requests."""
    events, requests = Events(), []

    def new(message, rank, _tag):
        requests.append(Request(message[0], rank))
        return requests[-1]

    mpi = SimpleNamespace(
        Prequest=Startable,
        Request=SimpleNamespace(Testall=lambda all_: all(each.sent is not None for each in all_)),
        buffer=packed.MPI.buffer,
        BYTE=packed.MPI.BYTE,
    )
    monkeypatch.setattr(packed, "SideStream", events)
    monkeypatch.setattr(packed, "MPI", mpi)
    monkeypatch.setattr(packed, "Parcel", lambda *parts: SimpleParcel(*parts))
    messages = StagedMessages(SimpleNamespace(Send_init=new, Recv_init=new), 17)
    return messages, events, requests


class SimpleParcel(packed.Parcel):
    """A parcel without a request of MPI's."""

    def __init__(self, rank, rows, buffer):
        super().__init__(rank, rows, buffer, request=None)


def test_a_message_leaves_when_its_own_copy_is_done_and_not_before(staged):
    messages, events, requests = staged
    X = torch.arange(12.0).reshape(4, 3)
    messages.send(X, 1, np.array([0, 2]))
    messages.send(X, 2, np.array([3]))
    messages.start_receives()
    messages.start_sends()
    assert events.followed == 2  # after what the device computed
    assert [request.sent for request in requests] == [None, None]
    assert not messages.progress()

    events.finish(1)
    assert not messages.progress()
    assert requests[0].sent is None
    assert requests[1].sent.tolist() == [9, 10, 11]

    events.finish(0)
    assert messages.progress()
    assert requests[0].sent.tolist() == [0, 1, 2, 6, 7, 8]


def test_rows_are_here_when_they_are_on_the_device(staged):
    messages, events, requests = staged
    remote = torch.zeros(2, 3)
    messages.receive(remote, 1)
    [request] = requests
    messages.start_receives()
    messages.start_sends()
    assert not messages.progress()
    assert messages.missing() == "rank 1"

    request.memory[:] = np.arange(6)
    request.arrived = True
    assert not messages.progress()  # in the buffer, on its way up
    assert len(events.copies) == 1
    assert messages.missing() == "the device"
    assert not remote.any()

    events.finish(0)
    assert messages.progress()
    assert remote.tolist() == [[0, 1, 2], [3, 4, 5]]
