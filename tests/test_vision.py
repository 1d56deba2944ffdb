"""Models for images have the study's layers and numbers of parameters, and compute what such layers compute."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpisim.libraries import import_torchvision
from mpisim.models import vision

PERCEPTRONS = [
    (vision.mlp, (1, 28, 28), [784, 3136, 784, 196, 10], 5_076_998),
    (vision.mlp_small, (1, 8, 8), [64, 128, 64, 10], 17_226),
    (vision.mlp, (3, 4, 4), [48, 192, 48, 12, 10], 10 * 13 + 12 * 49 + 48 * 193 + 192 * 49),
]
# Parameters for three channels and ten classes, those that one channel adds, and the inputs of the last layer.
FOR_32X32 = [
    # Convolutions 896 + 18,496 + 73,856 + 147,584 + 295,168 + 590,080, dense layers 4,195,328 + 524,800 + 5,130.
    (vision.cnn, 5_851_338, 9 * 32, 512),
    # Convolutions 1,344 + 41,568 + 166,080 + 442,624, dense layers 8,389,120 + 32,832 + 650.
    (vision.cnn_dropout, 9_074_218, 9 * 48, 64),
    (vision.vgg16, 14_728_266, 9 * 64, 512),
    (vision.resnet18, 11_173_962, 9 * 64, 512),
    (vision.resnet50, 23_520_842, 9 * 64, 2048),
    # The 2,223,872 of its features, whatever the strides, and 1,281 for each class.
    (vision.mobilenetv2, 2_236_682, 9 * 32, 1280),
    # Patches 25,088, class token 512, 65 positions 33,280, six layers of 1,577,984 (attention 787,968 + 262,656,
    # perceptron 2 × 262,656, two norms of 1,024), last norm 1,024, head 5,130.
    (vision.vit, 9_532_938, 16 * 512, 512),
]


def name_of(value):
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("make, image_shape, widths, num_parameters", PERCEPTRONS, ids=name_of)
def test_perceptrons_have_the_layers_and_parameters_of_the_study(make, image_shape, widths, num_parameters):
    with torch.device("meta"):  # shapes without memory
        model = make(image_shape, 10)
        outputs = model(torch.empty(7, *image_shape))
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert [layers[0].in_features, *(layer.out_features for layer in layers)] == widths
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert outputs.shape == (7, 10)


@pytest.mark.parametrize("make", [vision.mlp, vision.mlp_small])
def test_a_perceptron_is_relu_between_affine_layers_and_ends_in_logits(make):
    torch.manual_seed(0)
    model = make((2, 4, 4), 5)
    images = torch.randn(6, 2, 4, 4)
    state = [parameter.detach().double().numpy() for parameter in model.parameters()]
    values = images.double().numpy().reshape(6, 32)
    for weight, bias in zip(state[:-2:2], state[1:-2:2], strict=True):
        values = np.maximum(values @ weight.T + bias, 0)
    logits = values @ state[-2].T + state[-1]
    assert logits.min() < 0
    np.testing.assert_allclose(model(images).detach().numpy(), logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels, num_classes", [(3, 10), (3, 100), (1, 10), (5, 7)])
@pytest.mark.parametrize("make, num_parameters, of_a_channel, num_features", FOR_32X32, ids=name_of)
def test_models_for_32x32_have_the_parameters_of_the_study(
    make, num_parameters, of_a_channel, num_features, channels, num_classes
):
    with torch.device("meta"):
        model = make((channels, 32, 32), num_classes)
        outputs = model(torch.empty(2, channels, 32, 32))
    expected = num_parameters + (channels - 3) * of_a_channel + (num_classes - 10) * (num_features + 1)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert outputs.shape == (2, num_classes)


def test_vgg16_for_100_classes_has_the_parameters_of_the_study():
    with torch.device("meta"):
        model = vision.vgg16((3, 32, 32), 100)
    assert sum(parameter.numel() for parameter in model.parameters()) == 14_774_436


@pytest.mark.parametrize(
    "make, edges",
    [
        (vision.cnn, [32, 32, 16, 16, 8, 8]),
        (vision.cnn_dropout, [32, 32, 16, 16]),
        (vision.vgg16, [32] * 2 + [16] * 2 + [8] * 3 + [4] * 3 + [2] * 3),
        # Two convolutions in a block, and one in the shortcut where the width changes.
        (vision.resnet18, [32] * (1 + 4) + [16] * (4 + 1) + [8] * (4 + 1) + [4] * (4 + 1)),
        # Three convolutions in a block; where maps shrink, it is after the first of a stage's first block.
        (vision.resnet50, [32] * (1 + 9 + 1 + 1) + [16] * (11 + 1 + 1) + [8] * (17 + 1 + 1) + [4] * (8 + 1)),
        # Two convolutions in the first block, three in each other; maps shrink likewise; one convolution at the end.
        (vision.mobilenetv2, [32] * (1 + 2 + 15 + 1) + [16] * (11 + 9 + 1) + [8] * (8 + 3 + 1)),
        (vision.vit, [8]),
    ],
    ids=name_of,
)
def test_maps_shrink_where_the_study_shrinks_them(make, edges):
    seen = []
    with torch.device("meta"):
        model = make((3, 32, 32), 10)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[2:])))
        model(torch.empty(2, 3, 32, 32))
    assert sorted(seen, reverse=True) == [(edge, edge) for edge in edges]


@pytest.mark.parametrize("make", [vision.cnn, vision.cnn_dropout])
def test_a_cnn_is_two_convolutions_and_a_pool_in_turn_then_dense_layers(make):
    torch.manual_seed(0)
    model = make((2, 32, 32), 5).eval()
    images = torch.randn(3, 2, 32, 32)
    values, state = images, list(model.parameters())
    for number in range(0, len(state), 2):
        weight, bias = state[number : number + 2]
        if weight.dim() == 4:
            values = F.relu(F.conv2d(values, weight, bias, padding=1))
            if number % 4 == 2:
                values = F.max_pool2d(values, 2)
        else:
            values = F.linear(values.flatten(1), weight, bias)
            values = F.relu(values) if number < len(state) - 2 else values
    torch.testing.assert_close(model(images), values, rtol=1e-5, atol=1e-6)


def test_dropout_takes_a_quarter_after_each_pool_and_before_the_last_layer():
    torch.manual_seed(0)
    model = vision.cnn_dropout((3, 32, 32), 10).train()
    shares = []

    def count(_, inputs, output):
        shares.append(float((output[inputs[0] != 0] == 0).double().mean()))

    for layer, after in itertools.pairwise(model):
        if isinstance(layer, nn.MaxPool2d) or after is model[-1]:
            (after if isinstance(layer, nn.MaxPool2d) else layer).register_forward_hook(count)
    model(torch.randn(8, 3, 32, 32))
    np.testing.assert_allclose(shares, [0.25] * 3, atol=0.1)


@pytest.mark.parametrize("training", [True, False])
def test_vgg16_is_torchvisions_features_and_one_dense_layer(training):
    torch.manual_seed(0)
    model = vision.vgg16((3, 32, 32), 10)
    with torch.device("meta"):
        features = import_torchvision().models.vgg16_bn().features
    values = [value.detach().clone() for value in model.state_dict().values()]
    features.load_state_dict(dict(zip(features.state_dict(), values[:-2], strict=True)), assign=True)
    images = torch.randn(2, 3, 32, 32)
    expected = F.linear(features.train(training)(images).flatten(1), *values[-2:])
    torch.testing.assert_close(model.train(training)(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make, name, fan",
    [
        (vision.resnet18, "conv1", 9 * 64 / 2),
        (vision.resnet50, "conv1", 9 * 64 / 2),
        (vision.mobilenetv2, "features.0.0", 9 * 32 / 2),
        (vision.vit, "conv_proj", 3 * 16),
    ],
    ids=name_of,
)
def test_a_replaced_first_layer_is_drawn_as_torchvision_draws_it(make, name, fan):
    torch.manual_seed(0)
    weight = make((3, 32, 32), 10).get_submodule(name).weight
    assert float(weight.detach().std()) == pytest.approx(fan**-0.5, rel=0.1)


def test_the_models_of_the_default_recipes_do_without_torchvision():
    code = """
import sys
from mpisim.models.catalog import make_model
make_model("mlp-small", (1, 8, 8), 10), make_model("vgg16", (3, 32, 32), 10), make_model("gpt2", (150,), 14)
print("torch" in sys.modules, "torchvision" in sys.modules)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["True", "False"]
