"""Models for images have the study's layers and numbers of parameters, and compute what a perceptron computes."""

import numpy as np
import pytest
import torch
from torch import nn

from mpisim.models.vision import MODELS

CASES = [
    ("mlp", (1, 28, 28), [784, 3136, 784, 196, 10], 5_076_998),
    ("mlp-small", (1, 8, 8), [64, 128, 64, 10], 17_226),
    ("mlp", (3, 4, 4), [48, 192, 48, 12, 10], 10 * 13 + 12 * 49 + 48 * 193 + 192 * 49),
]


@pytest.mark.parametrize("name, image_shape, widths, num_parameters", CASES)
def test_layers_and_parameters_are_those_of_the_study(name, image_shape, widths, num_parameters):
    with torch.device("meta"):  # shapes without memory
        model = MODELS[name](image_shape, 10)
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        outputs = model(torch.empty(7, *image_shape))
    assert [layers[0].in_features, *(layer.out_features for layer in layers)] == widths
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert outputs.shape == (7, 10)


@pytest.mark.parametrize("name", ["mlp", "mlp-small"])
def test_a_perceptron_is_relu_between_affine_layers_and_ends_in_logits(name):
    torch.manual_seed(0)
    model = MODELS[name]((2, 4, 4), 5)
    images = torch.randn(6, 2, 4, 4)
    state = [parameter.detach().double().numpy() for parameter in model.parameters()]
    values = images.double().numpy().reshape(6, 32)
    for weight, bias in zip(state[:-2:2], state[1:-2:2], strict=True):
        values = np.maximum(values @ weight.T + bias, 0)
    logits = values @ state[-2].T + state[-1]
    assert logits.min() < 0
    np.testing.assert_allclose(model(images).detach().numpy(), logits, rtol=1e-4, atol=1e-6)
