"""The bench of stacks: what is counted, what is compared and what is told. No time is."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from mpisim.bench import stacks
from mpisim.bench.__main__ import main
from mpisim.bench.drawn import CASES, drawn_images, drawn_nodes
from mpisim.bench.stacks import WORKLOADS, Contender, Size, config_of, largest_difference, step_operations
from mpisim.bench.timing import SECONDS
from mpisim.config import Config
from mpisim.data.datasets import DATASETS
from mpisim.learning.replay import WARM_UPS

CPU = torch.device("cpu")
DIGITS, MNIST = [64, 128, 64, 10], [784, 3136, 784, 196, 10]  # the widths of the perceptrons' layers


@pytest.fixture
def short_turns(monkeypatch):
    """Let a turn be one round, and the large product a small one."""
    monkeypatch.setattr(stacks, "TURN_SECONDS", 0.0)
    monkeypatch.setitem(stacks.MATRIX_EDGE, "cpu", 64)


# Drawn images.


@pytest.mark.parametrize("name, shape", [("digits", (1, 8, 8)), ("mnist", (1, 28, 28)), ("vgg16", (3, 32, 32))])
def test_drawn_images_have_the_data_sets_form_and_reach_its_white(name, shape):
    images = drawn_images(CASES[name], 50)
    assert images.inputs.shape == (50, *shape)
    dataset = DATASETS[CASES[name]]
    seen = images.inputs / dataset.scale - dataset.offset
    assert (seen.min(), seen.max()) == (-dataset.offset, 1.0)
    assert set(images.labels) == set(range(10))
    np.testing.assert_array_equal(drawn_images(CASES[name], 50).inputs, images.inputs)


def test_every_node_has_samples_of_its_own_and_none_is_out_of_distribution():
    nodes = drawn_nodes(config_of("digits", "batched"), np.array([2, 3, 7]), CPU, num_train=5, num_test=4)
    shards = nodes.training.shards
    assert shards.sizes.tolist() == [5, 5, 5]
    assert all(len(shards.ood(node)) == 0 for node in range(3))
    assert len(torch.unique(shards.samples.inputs, dim=0)) == 15
    assert (len(nodes.iid_test), len(nodes.ood_test), len(nodes.own_tests.of(1))) == (4, 0, 0)


def test_every_case_is_a_workload_with_the_model_of_its_data_sets_recipe():
    assert set(CASES) == set(stacks.WORKLOADS)
    assert {Config(dataset=dataset).model for dataset in CASES.values()} == {"mlp-small", "mlp", "vgg16"}


# Stacks.


@pytest.mark.parametrize("name, batch_size, widths", [("digits", 16, DIGITS), ("mnist", 64, MNIST)])
def test_a_steps_operations_are_those_of_three_products_a_layer_but_two_in_the_first(name, batch_size, widths):
    """Forward, by the weights and by the layer's input, which no one asks for where that is the image."""
    weights = [below * above for below, above in itertools.pairwise(widths)]
    assert step_operations(name, CPU) == 2 * batch_size * (3 * sum(weights) - weights[0])


def test_a_matrix_products_rate_counts_two_operations_a_term(monkeypatch):
    clock = iter([0.0, 9.0, *(value for turn in range(5) for value in (10.0 * turn, 10.0 * turn + 2 + turn % 3))])
    monkeypatch.setattr(stacks.time, "perf_counter", lambda: next(clock))
    assert stacks.matrix_rate(10, CPU) == 2 * 10 * 10 * 10 / 2.0


def test_the_largest_difference_is_a_share_of_the_way_from_the_start():
    start = torch.tensor([1.0, 1.0])
    expected = torch.tensor([[4.0, 5.0], [1.0, 3.0]])  # 5 and 2 away from it
    found = expected + torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert largest_difference(found, expected, start) == pytest.approx(0.5)
    assert largest_difference(expected, expected, start) == 0.0
    expected[0] = start
    assert np.isnan(largest_difference(expected, expected, start))


class Told(Contender):
    """Trains in no time, and says that it took two seconds over it."""

    times = 0

    def _train(self):
        self.times += 1
        return 2.0


def told(batches):
    return Told(config_of("digits", "batched"), Size(3, batches), CPU)


def test_a_turn_is_as_many_rounds_as_fit_and_tells_the_seconds_of_a_node_and_step(monkeypatch):
    monkeypatch.setattr(stacks, "TURN_SECONDS", 12.0)
    contender = told(batches=5)
    contender.prepare()
    before = contender.times
    assert contender.turn() == {SECONDS: 2.0 / (3 * 5)}
    assert contender.times - before == 6


@pytest.mark.parametrize("batches", [1, 2, 9])
def test_on_a_gpu_steps_are_recorded_before_a_turn(monkeypatch, batches):
    contender = told(batches)
    contender._device = torch.device("cuda")
    contender.prepare()
    assert (contender.times - 1) * batches > WARM_UPS + 1  # the step after the warm-ups is recorded, the next replayed
    assert contender.described() == f"{contender.nodes.training.engine}, replayed as graphs"


def test_every_round_begins_at_the_start_and_trains_every_node_on_all_its_batches():
    rounds = []
    for num_rounds in (1, 3):
        contender = Contender(config_of("digits", "batched"), Size(4, 3), CPU)
        for _ in range(num_rounds):
            contender._train()
        rounds.append(contender.models)
    assert torch.equal(*rounds)
    assert all((model != contender.start).any() for model in contender.models)
    assert contender.nodes.training.shards.sizes.tolist() == [3 * 16] * 4


@pytest.mark.parametrize("name, stack", [("digits", 2), ("mnist", 3), ("vgg16", 2)])
def test_both_engines_end_with_nearly_the_same_models(tmp_path, short_turns, monkeypatch, capsys, name, stack):
    def few_images(*case):
        config = config_of(*case)
        return dataclasses.replace(config, batch_size=2) if name == "vgg16" else config

    monkeypatch.setattr(stacks, "config_of", few_images)
    path = tmp_path / "found.json"
    size = ["--model", name, "--nodes", "2", "--batches", "1", "--stack", str(stack)]
    assert main(["stacks", "--device", "cpu", *size, "--repeats", "1", "--json", str(path)]) == 0
    found = json.loads(path.read_text())["figures"][name]
    assert 0 < found["difference"] < WORKLOADS[name].nearly
    assert (found["nodes"], found["batches"], found["stack"]) == (2, 1, stack)
    [comparison] = json.loads(path.read_text())["comparisons"]
    [seconds] = comparison["measured_seconds"]
    assert found["rates"]["as a stack"] == pytest.approx(found["operations"] / seconds)
    assert comparison["target"] is None  # there is one on CUDA GPUs alone
    assert f"{name}: seconds of a node and step; batched: {stack} nodes at a time\n" in capsys.readouterr().out


def test_engines_that_do_not_do_the_same_are_told_and_code_1(short_turns, monkeypatch, capsys):
    def other_rate(name, engine, stack=None):
        config = config_of(name, engine, stack)
        return dataclasses.replace(config, lr=0.2) if engine == "batched" else config

    monkeypatch.setattr(stacks, "config_of", other_rate)
    size = ["--device", "cpu", "--model", "digits", "--nodes", "2", "--batches", "2", "--repeats", "1"]
    assert main(["stacks", *size]) == 1
    assert "digits: that is more than rounding explains: the engines did not do the same work\n" in (
        capsys.readouterr().out
    )


def test_a_model_without_room_is_left_out_and_the_others_are_measured(short_turns, monkeypatch, capsys):
    def without_room(config, *others, **more):
        if config.dataset == "mnist":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return drawn_nodes(config, *others, **more)

    monkeypatch.setattr(stacks, "drawn_nodes", without_room)
    size = ["--device", "cpu", "--model", "mnist", "digits", "--nodes", "2", "--batches", "1", "--repeats", "1"]
    assert main(["stacks", *size]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("digits, 2 nodes")
    assert "mnist: no room on cpu: take fewer --nodes or --batches, or a smaller --stack" in lines


def test_a_device_that_is_not_here_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("mpisim.learning.device._is_available", lambda kind: kind == "cpu")
    assert main(["stacks", "--device", "cuda"]) == 2
    assert capsys.readouterr() == ("", "mpisim: --device cuda: torch finds none here: choose from auto, cpu\n")
