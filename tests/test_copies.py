"""From the first round to the last nothing is copied between device and host but what is measured, drawn or saved.

On a device that is not there, but notes each copy and refuses to mix its tensors with the host's.
"""

import math
from collections import Counter
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from mpi4py import MPI
from other_device import DEVICE, Crossing, OtherDevice
from test_options import noisy_model

from mpisim import Config
from mpisim.briefing import _packet, _part
from mpisim.data.shards import pack
from mpisim.exchange import mixing
from mpisim.exchange.consensus import MAX_COORDINATES, Consensus
from mpisim.exchange.mixing import mix
from mpisim.exchange.similarity import similarities
from mpisim.experiment import decide
from mpisim.learning import evaluation
from mpisim.learning.parameters import assign_rows
from mpisim.models.catalog import MODELS, Model
from mpisim.nodes import Nodes
from mpisim.ranks.waiting import Waiting

NUM_NODES, NUM_EPOCHS, BATCH_SIZE, NUM_LABELS = 4, 2, 16, 10
SMALL = {"topology": f"ring:n={NUM_NODES}", "epochs": NUM_EPOCHS, "train_samples": 100, "test_samples": 40, "rounds": 2}
TEXT = {
    "dataset": "tinymem",
    "model": "gpt2-1layer",
    "tinymem_examples": 60,
    "tinymem_tests": 20,
    "tinymem_context": 12,
    "ood_fraction": 0.5,
    "optimizer": "sgd",
    "lr": 1e-4,
}
ONE_BY_ONE, STACKED = {"engine": "sequential"}, {"engine": "batched"}
ADAM = {"optimizer": "adam", "lr": 0.01}
CASES = {
    "one by one": ONE_BY_ONE,
    "perceptrons stacked": STACKED,
    "statistics and dropout, one by one": ONE_BY_ONE | ADAM | {"model": "noisy"},
    "statistics and dropout, stacked": STACKED | ADAM | {"model": "noisy"},
    "text, one by one": ONE_BY_ONE | TEXT,
    "text, stacked": STACKED | TEXT,
}


@pytest.fixture(autouse=True)
def _noisy_models_and_generators_for_any_device(monkeypatch):
    """Let the device's generators be the host's, where dropout is drawn."""
    host = torch.Generator

    class Anywhere(host):
        def __new__(cls, device=None):  # noqa: ARG004
            return host()

    monkeypatch.setattr(torch, "Generator", Anywhere)
    monkeypatch.setitem(MODELS, "noisy", Model(lambda *_: noisy_model(), lambda _: True, "anything"))


def new_nodes(config, experiment, device):
    """Return the nodes of one rank that owns all."""
    packet = _packet(experiment, 0)
    return Nodes(
        config,
        experiment.plans[0].own,
        _part(packet, "shards"),
        _part(packet, "own_tests"),
        pack(experiment.test, [experiment.test_split]),
        int(packet["largest_shard"]),
        device,
    )


def play(options, device):
    """Play the rounds on one rank; return what each found, and the copies of each part of the last round."""
    config = Config(**SMALL, **options)
    experiment = decide(config, 1)
    found, copies = [], {}
    with OtherDevice() if device == DEVICE else nullcontext() as there:
        nodes = new_nodes(config, experiment, device)
        listeners = experiment.rule.indptr, experiment.rule.indices.astype(np.int64)
        weights = experiment.rule.weights(config.seed, 1, 1 / config.temperature)

        def part(name, action):
            if there is not None:
                there.take()
            result = action()
            copies[name] = [] if there is None else there.take()
            return result

        for round in range(1, config.rounds + 1):
            found.append(part("train", partial(nodes.train, round, np.ones(NUM_NODES, dtype=bool), None)))
            found.append(part("test", lambda: nodes.test(lambda: None))["iid_loss"])
            part("mix", lambda: mix(nodes.parameters, nodes.parameters[:0], *listeners, weights))
        found.append(nodes.state()["rows"])
    return found, copies


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_only_losses_and_counts_leave_the_device_and_nothing_comes_to_it(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, copies = play(options, DEVICE)
    expected, _ = play(options, torch.device("cpu"))
    for mine, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-5)
    assert all(copy.to_host for of_part in copies.values() for copy in of_part)
    assert copies["mix"] == []
    stacked = options["engine"] == "batched"
    # The losses of a stack, or of all steps of a node, at once.
    assert len(copies["train"]) == (1 if stacked else NUM_NODES)
    # Of the IID and the OOD test set: the sum of losses, and by label the samples and the correct answers.
    tests_stacks = options == STACKED
    assert len(copies["test"]) == 2 * 3 * (1 if tests_stacks else NUM_NODES)
    assert max(copy.size for copy in copies["test"]) <= NUM_NODES * NUM_LABELS


@pytest.mark.parametrize("engine", [ONE_BY_ONE, STACKED], ids=lambda engine: engine["engine"])
def test_counts_leave_the_device_once_it_has_done_all_and_messages_move_on_till_then(engine, tmp_path, monkeypatch):
    """A copy of what is still computed would wait, and look at no message."""
    monkeypatch.chdir(tmp_path)
    waits = []

    def note(device, between):
        assert device == DEVICE
        between()
        waits.append(len(there.crossings))

    monkeypatch.setattr(evaluation, "finish", note)
    config = Config(**SMALL, **engine)
    experiment = decide(config, 1)
    looks = []
    with OtherDevice() as there:
        nodes = new_nodes(config, experiment, DEVICE)
        there.take()
        nodes.test(lambda: looks.append(len(waits)))
        copied = len(there.take())
    of_sets = 2 * (1 if engine == STACKED else NUM_NODES)
    assert waits == [3 * number for number in range(of_sets)]
    assert copied == 3 * of_sets
    assert set(looks) == set(range(of_sets))


@pytest.mark.parametrize("engine", [ONE_BY_ONE, STACKED], ids=lambda engine: engine["engine"])
def test_what_is_drawn_comes_as_indices(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, copies = play(engine | {"shuffle": True, "augment": True}, DEVICE)
    expected, _ = play(engine | {"shuffle": True, "augment": True}, torch.device("cpu"))
    np.testing.assert_allclose(found[-1], expected[-1], rtol=1e-4, atol=1e-5)
    come = [copy for copy in copies["train"] if not copy.to_host]
    assert {copy.dtype for copy in come} == {torch.int64}
    assert not [copy for name in ("test", "mix") for copy in copies[name] if not copy.to_host]


@pytest.mark.parametrize("num_columns", [7, 40_000, 90_000])
def test_the_consensus_distance_is_the_same_bits_on_a_device_and_copies_no_models(num_columns):
    """Blocks are larger there; the sum of squares is that of math.fsum but for rounding."""
    num_nodes = 30
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((num_nodes, num_columns)).astype(np.float32))

    def distances(rows):
        consensus = Consensus(MPI.COMM_SELF, rows, num_nodes)
        consensus.start()
        return consensus.finish(Waiting()), consensus.coordinates

    expected, coordinates = distances(X)
    with OtherDevice() as there:
        rows = X.to(DEVICE)
        there.take()
        found, _ = distances(rows)
    np.testing.assert_array_equal(found, expected)
    seen = X.double().numpy()[:, coordinates.numpy()]
    mean = [math.fsum(column) / num_nodes for column in seen.T]
    for row, distance in list(zip(seen, found, strict=True))[::10]:
        assert distance == pytest.approx(math.fsum((row - mean) ** 2), rel=1e-8)
    count = min(num_columns, MAX_COORDINATES)
    assert there.crossings == [
        Crossing(False, torch.int64, count),  # which columns to look at, once
        Crossing(True, torch.int64, count + 1),
        Crossing(False, torch.float64, count),
        Crossing(True, torch.float64, num_nodes),
    ]


def test_a_checkpoint_leaves_the_device_and_comes_back_row_by_row(tmp_path, monkeypatch):
    """All rows at once would take a second X there, since there are gaps between them."""
    monkeypatch.chdir(tmp_path)
    config = Config(**SMALL, momentum=0.9, keep_optimizer_state=True)
    experiment = decide(config, 1)
    everyone = np.ones(NUM_NODES, dtype=bool)
    with OtherDevice() as there:
        nodes, others = (new_nodes(config, experiment, DEVICE) for _ in range(2))
        nodes.train(1, everyone, None)
        there.take()
        state = nodes.state()
        others.load_state(state)
        copies = Counter((copy.to_host, copy.dtype, copy.size) for copy in there.take())
        again = others.state()
    on_host = new_nodes(config, experiment, torch.device("cpu"))
    on_host.train(1, everyone, None)
    num_columns = state["rows"].shape[1]
    assert copies == {(to_host, torch.float32, num_columns): 2 * NUM_NODES for to_host in (True, False)}
    assert {name: array.shape for name, array in state.items()} == {
        "nodes": (NUM_NODES,),
        "rows": (NUM_NODES, num_columns),
        "optimizer.momentum": (NUM_NODES, num_columns),
        "optimizer.num_steps": (NUM_NODES,),
    }
    for name, wanted in on_host.state().items():
        np.testing.assert_allclose(state[name], wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(again[name], state[name])


@pytest.mark.parametrize("deterministic", [False, True])
def test_rows_are_put_back_without_a_copy_of_the_whole_matrix(deterministic):
    """Deterministically, a GPU makes one where it gets several rows at once."""
    numbers, calls = np.array([3, 0]), []
    X, rows = torch.zeros(4, 7), torch.arange(14.0).reshape(2, 7)

    class Noting(OtherDevice):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func)
            return super().__torch_dispatch__(func, types, args, kwargs)

    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    try:
        with Noting() as there:
            X, rows, which = X.to(DEVICE), rows.to(DEVICE), torch.from_numpy(numbers).to(DEVICE)
            there.take()
            calls.clear()
            assign_rows(X, numbers, which, rows)
            copied, called = there.take(), list(calls)
            found = X.cpu()
    finally:
        torch.set_deterministic_debug_mode("default")
    assert copied == []
    assert (torch.ops.aten.index_put_.default in called) is not deterministic
    assert found.tolist() == [[*range(7, 14)], [0] * 7, [0] * 7, [*range(7)]]


@pytest.mark.parametrize("rows_that_fit, num_blocks", [(NUM_NODES, 1), (NUM_NODES / 2, 2), (0, 3)])
def test_a_device_mixes_in_blocks_as_large_as_fit_to_the_same_bits(monkeypatch, rows_that_fit, num_blocks):
    num_columns = 3 * mixing.BLOCK - 5
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.standard_normal((NUM_NODES, num_columns)).astype(np.float32))
    W = np.arange(0, NUM_NODES**2 + 1, NUM_NODES), np.tile(np.arange(NUM_NODES), NUM_NODES), rng.random(NUM_NODES**2)
    expected = X.clone()
    mix(expected, expected[:0], *W)
    monkeypatch.setattr(mixing, "DEVICE_SCRATCH_BYTES", 4 * int(rows_that_fit * num_columns + NUM_NODES))
    widths = []
    add_up = mixing._sum
    monkeypatch.setattr(mixing, "_sum", lambda terms, rows, out: (widths.append(len(out)), add_up(terms, rows, out)))
    with OtherDevice():
        rows = X.to(DEVICE)
        mix(rows, rows[:0], *W)
        found = rows.cpu()
    assert torch.equal(found, expected)
    assert len(widths) == NUM_NODES * num_blocks
    assert sum(widths) == NUM_NODES * num_columns


def test_a_device_compares_models_in_large_blocks_and_copies_none():
    layers = [torch.Size((50, 4_000)), torch.Size((50,))]
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 200_050)).astype(np.float32))
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    expected = similarities(layers, (0, 200_000), [*X], pairs)
    with OtherDevice() as there:
        rows = X.to(DEVICE)
        there.take()
        found = similarities(layers, (0, 200_000), [*rows], pairs)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert there.crossings == [Crossing(True, torch.float64, len(pairs))]


def test_the_device_notes_copies_and_refuses_two_places():
    with OtherDevice() as there:
        tensor = torch.arange(6.0).view(2, 3).to(DEVICE)
        assert tensor.device == DEVICE
        row = tensor[1]
        row.add_(1)
        torch.zeros(3).copy_(row)
        row.copy_(torch.ones(3))
        assert float(tensor.sum()) == 6
        with pytest.raises(RuntimeError, match="tensors on the host and on the device"):
            tensor + torch.ones(3)
    assert there.crossings == [
        Crossing(False, torch.float32, 6),
        Crossing(True, torch.float32, 3),
        Crossing(False, torch.float32, 3),
        Crossing(True, torch.float32, 1),
    ]


def test_a_module_on_the_device_trains_as_on_the_host():
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 2)
    inputs, labels = torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1])
    loss = torch.nn.functional.cross_entropy(module(inputs), labels)
    expected = torch.autograd.grad(loss, module.weight)[0]
    with OtherDevice() as there:
        module.to(DEVICE)
        loss = torch.nn.functional.cross_entropy(module(inputs.to(DEVICE)), labels.to(DEVICE))
        gradient = torch.autograd.grad(loss, module.weight)[0].cpu()
    torch.testing.assert_close(gradient, expected)
    assert Counter(crossing.to_host for crossing in there.crossings) == {False: 4, True: 1}
