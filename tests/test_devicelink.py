"""Messages by torch.distributed, with a stand-in for it: what a batch is, when it is done, and when a link breaks."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mpisim.exchange import devicelink
from mpisim.exchange.devicelink import Batch, LinkMessages
from mpisim.exchange.packed import Parcel
from mpisim.ranks.waiting import Waiting


class Work:
    """A message under way: done when the test says so, or broken."""

    def __init__(self, log):
        self.log, self.arrived, self.completed, self.broken = log, threading.Event(), False, ""

    def is_completed(self):
        return self.completed

    def wait(self):
        if not self.completed:
            assert self.arrived.wait(30)
        if self.broken:
            raise RuntimeError(self.broken)
        self.log.append("wait")


@pytest.fixture
def torch_link(monkeypatch):
    """Stand in for torch.distributed; return the batches it gets, their works, and the log of waits."""
    batches, works, log = [], [], []

    def batch(operations):
        log.append("batch")
        batches.append(operations)
        works.append([Work(log) for _ in operations])
        return works[-1]

    fake = SimpleNamespace(
        isend="isend",
        irecv="irecv",
        P2POp=lambda kind, buffer, rank, tag: (kind, buffer, rank, tag),
        batch_isend_irecv=batch,
    )
    monkeypatch.setattr(devicelink, "distributed", lambda: fake)
    monkeypatch.setattr(devicelink, "synchronize", lambda device: log.append(f"synchronize {device}"))
    monkeypatch.setattr(devicelink, "select", lambda device: log.append(f"select {device}"))
    return batches, works, log


@pytest.fixture
def messages():
    """Return the messages of a rank that sends to ranks 3 and 5, and receives from 5."""
    links = LinkMessages(None, 17)
    links.receive(torch.zeros(4, 6)[1:3, 1:5], 5)
    X = torch.arange(12.0).reshape(3, 4)
    links.send(X, 3, np.array([2, 0]))
    links.send(X, 5, wire=torch.bfloat16)
    return links


def test_a_round_is_one_batch_with_the_sends_first_and_the_same_buffers_each_time(torch_link, messages):
    batches, works, log = torch_link
    for round in range(2):
        messages.start_receives()
        assert len(batches) == round
        log.clear()
        messages.start_sends()
        assert log[:2] == ["synchronize cpu", "batch"]  # what it sends is computed
        assert [(kind, rank, tag) for kind, _, rank, tag in batches[round]] == [
            ("isend", 3, 17),
            ("isend", 5, 17),
            ("irecv", 5, 17),
        ]
        for work in works[round]:
            work.arrived.set()
        Waiting(timeout=30).until(messages.progress)
    first, second = ([buffer.data_ptr() for _, buffer, _, _ in batch] for batch in batches)
    assert first == second
    to_three, to_five = (buffer for _, buffer, _, _ in batches[0][:2])
    assert to_three.view(torch.float32).tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    assert to_five.view(torch.bfloat16).tolist() == list(range(12))


def test_what_arrives_is_in_its_rows_once_all_is_done_and_not_before(torch_link):
    batches, works, _ = torch_link
    links, matrix = LinkMessages(None, 17), torch.zeros(3, 4)
    links.receive(matrix[:2, 1:3], 1)
    links.start_sends()
    [(_, buffer, _, _)] = batches[0]
    buffer.view(torch.float32).copy_(torch.arange(1.0, 5.0))
    assert not links.progress()
    assert links.missing() == "rank 1"
    assert not matrix.any()
    works[0][0].arrived.set()
    Waiting(timeout=30).until(links.progress)
    assert matrix.tolist() == [[0, 1, 2, 0], [0, 3, 4, 0], [0, 0, 0, 0]]


def test_a_broken_link_is_an_error_that_names_the_rank(torch_link, messages):
    _, works, _ = torch_link
    messages.start_sends()
    works[0][1].broken = "Connection closed"
    for work in works[0]:
        work.arrived.set()
    with pytest.raises(RuntimeError, match=r"^the link to rank 5 is broken: Connection closed$"):
        Waiting(timeout=30).until(messages.progress)


@pytest.mark.parametrize("kind, asks", [("cpu", False), ("xpu", False), ("cuda", True)])
def test_only_nccl_is_asked_and_every_device_is_synchronized_after_the_wait(torch_link, kind, asks):
    """The wait of nccl only orders streams, and oneCCL's messages are no part of what a synchronization waits for."""
    batches, works, log = torch_link
    device = torch.device(kind)
    batch = Batch([], [Parcel(4, [], torch.zeros(2, 2))], device, 17)
    [work] = works[0]
    assert (batch._waiter is None) == asks
    assert not batch.done()
    work.arrived.set()
    work.completed = asks
    Waiting(timeout=30).until(batch.done)
    selected = [] if asks else [f"select {kind}"]  # each thread begins with the first device
    assert log == ["batch", *selected, "wait", f"synchronize {kind}"]
    assert batches[0][0][3] == (17 if kind == "cpu" else 0)  # gloo alone knows tags


def test_nothing_to_send_or_receive_is_no_batch(torch_link):
    links = LinkMessages(None, 17)
    links.start_receives()
    links.start_sends()
    assert links.progress()
    assert torch_link[0] == []
