"""A row of X is a model: its layout is torch's own, its tensors are views; a bound module changes its node alone."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from mpisim.learning.parameters import BoundModel, StateLayout, allocate_rows, row_stride

CPU = torch.device("cpu")


def perceptron():
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def with_batch_norm():
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


def counts_batches():
    """Return a model whose statistics are means over all batches so far: they follow from its integer buffer."""
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, momentum=None), nn.ReLU(), nn.Linear(4, 3))


def rows_of(model, modules):
    """Return X with a module's state in each row."""
    rows = allocate_rows(len(modules), model.layout.num_columns, CPU)
    for row, module in zip(rows, modules, strict=True):
        model.read(module, row)
    return rows


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


def test_a_row_holds_the_values_of_parameters_to_vector_in_its_order():
    module = perceptron()
    model = BoundModel(perceptron())
    row = rows_of(model, [module])[0]
    torch.testing.assert_close(row, parameters_to_vector(module.parameters()).detach(), rtol=0, atol=0)
    assert model.layout == StateLayout(
        names=("0.weight", "0.bias", "2.weight", "2.bias"),
        shapes=(torch.Size([7, 5]), torch.Size([7]), torch.Size([3, 7]), torch.Size([3])),
        offsets=(0, 35, 42, 63),
        num_columns=66,
    )


def test_floating_buffers_follow_the_parameters_and_integer_ones_are_left_out():
    module = with_batch_norm()
    model = BoundModel(with_batch_norm())
    floating = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    assert model.layout.names[-2:] == ("1.running_mean", "1.running_var")
    assert sorted(model.layout.names) == sorted(floating)
    module[1].running_mean += 3
    row = rows_of(model, [module])[0]
    for name, view in zip(model.layout.names, model.layout.views(row), strict=True):
        torch.testing.assert_close(view, floating[name], rtol=0, atol=0)


def test_views_share_the_rows_memory():
    layout = StateLayout.of(perceptron())
    row = torch.arange(66, dtype=torch.float32)
    views = layout.views(row)
    assert [view.data_ptr() - row.data_ptr() for view in views] == [4 * offset for offset in layout.offsets]
    views[2][1, 3] = -1.0
    assert row[42 + 1 * 7 + 3] == -1
    assert int((row == -1).sum()) == 1


@pytest.mark.parametrize("num_columns", [1, 15, 16, 17, 63, 64, 66, 1000, 17_226])
def test_rows_start_on_64_byte_bounds(num_columns):
    rows = allocate_rows(5, num_columns, CPU)
    assert rows.shape == (5, num_columns)
    assert rows.dtype == torch.float32
    assert not rows.any()
    assert [row.data_ptr() % 64 for row in rows] == [0] * 5
    assert num_columns <= row_stride(num_columns) == rows.stride(0) < num_columns + 16


def test_a_bound_module_computes_with_the_row_it_is_bound_to():
    modules = [perceptron() for _ in range(3)]
    model = BoundModel(perceptron())
    rows = rows_of(model, modules)
    inputs = torch.randn(4, 5)
    for position in (2, 0, 1, 0):
        model.bind(rows[position])
        torch.testing.assert_close(model.module(inputs), modules[position](inputs))


@pytest.mark.parametrize("make", [perceptron, with_batch_norm])
def test_training_a_bound_module_changes_its_row_as_it_would_a_module_and_nothing_else(make):
    modules = [make() for _ in range(3)]
    model = BoundModel(make())
    rows = rows_of(model, modules)
    before = rows.numpy().copy()
    inputs, labels = torch.randn(8, 5), torch.arange(8) % 3
    model.bind(rows[1])
    for trained in (model.module, modules[1]):
        trained.train()
        for _ in range(3):
            gradients = torch.autograd.grad(nn.functional.cross_entropy(trained(inputs), labels), trained.parameters())
            with torch.no_grad():
                for parameter, gradient in zip(trained.parameters(), gradients, strict=True):
                    parameter -= 0.5 * gradient
    np.testing.assert_array_equal(rows[[0, 2]].numpy(), before[[0, 2]])
    assert not np.array_equal(rows[1].numpy(), before[1])
    torch.testing.assert_close(rows[1], rows_of(model, [modules[1]])[0])


def test_nodes_that_share_a_module_count_their_own_batches():
    modules = [counts_batches() for _ in range(3)]
    model = BoundModel(counts_batches())
    rows = rows_of(model, modules)
    counters = [model.new_counters() for _ in modules]
    for position in (0, 1, 0, 0, 1):  # node 2 never trains
        inputs = torch.randn(8, 5) + position
        model.bind(rows[position], counters[position])
        for trained in (model.module, modules[position]):
            trained.train()(inputs)
    assert [[counter.item() for counter in own] for own in counters] == [[3], [2], [0]]
    assert [int(module[1].num_batches_tracked) for module in modules] == [3, 2, 0]
    torch.testing.assert_close(rows, rows_of(model, modules))


def test_counters_start_from_the_modules_own_values_and_change_in_place():
    module = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    module[1].num_batches_tracked += 7
    model = BoundModel(module)
    rows = rows_of(model, [module])
    first, second = model.new_counters(), model.new_counters()
    assert [counter.dtype for counter in first] == [torch.int64] * 2
    addresses = [counter.data_ptr() for counter in first]
    model.bind(rows[0], first)
    model.module.train()(torch.randn(8, 4))
    assert [counter.item() for counter in first] == [1, 8]
    assert [counter.data_ptr() for counter in first] == addresses
    assert [counter.item() for counter in second] == [0, 7]
    assert [counter.item() for counter in model.new_counters()] == [0, 7]


def test_training_without_counters_leaves_those_bound_before_alone():
    model = BoundModel(with_batch_norm())
    rows = rows_of(model, [with_batch_norm(), with_batch_norm()])
    counters = model.new_counters()
    model.bind(rows[0], counters)
    model.module.train()(torch.randn(8, 5))
    model.bind(rows[1])
    model.module.train()(torch.randn(8, 5))
    assert [counter.item() for counter in counters] == [1]
    assert model.module[1].num_batches_tracked.item() == 1
