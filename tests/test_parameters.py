"""A row of X is a model: the layout is torch's own, tensors are views, and a bound module changes its row alone."""

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
