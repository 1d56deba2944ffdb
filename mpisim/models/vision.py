"""Models for images: from a batch of shape (samples, channels, height, width) to logits of shape (samples, classes).

Those of the default recipes are built here of torch's layers: torchvision would cost each rank a second to import.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from mpisim.libraries import import_torchvision


def mlp(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the study's perceptron, d-4d-d-d/4-classes: 784-3136-784-196-10 for MNIST, 5,076,998 parameters."""
    channels, height, width = image_shape
    num_inputs = channels * height * width
    return nn.Sequential(*_perceptron([num_inputs, 4 * num_inputs, num_inputs, num_inputs // 4, num_classes]))


def mlp_small(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return a small perceptron, d-2d-d-classes: 64-128-64-10 for the digits, 17,226 parameters."""
    channels, height, width = image_shape
    num_inputs = channels * height * width
    return nn.Sequential(*_perceptron([num_inputs, 2 * num_inputs, num_inputs, num_classes]))


def cnn(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return six convolutions and three dense layers for 32×32: 5,851,338 parameters for CIFAR-10."""
    stages = _convolutions(image_shape[0], [[32, 64], [128, 128], [256, 256]])
    return nn.Sequential(*stages, *_perceptron([256 * 4 * 4, 1024, 512, num_classes]))


def cnn_dropout(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return four convolutions and three dense layers with dropout, for 32×32: 9,074,218 parameters for CIFAR-10."""
    stages = _convolutions(image_shape[0], [[48, 96], [192, 256]], dropout=0.25)
    *dense, last = _perceptron([256 * 8 * 8, 512, 64, num_classes])
    return nn.Sequential(*stages, *dense, nn.Dropout(0.25), last)


def vgg16(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return VGG16 with BatchNorm and one dense layer, for 32×32: 14,728,266 parameters for CIFAR-10."""
    widths = [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]
    return nn.Sequential(*_convolutions(image_shape[0], widths, batch_norm=True), *_perceptron([512, num_classes]))


def resnet18(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return ResNet18 for 32×32, whose first layers keep every pixel: 11,173,962 parameters for CIFAR-10."""
    return _resnet("resnet18", image_shape, num_classes)


def resnet50(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return ResNet50 for 32×32, whose first layers keep every pixel: 23,520,842 parameters for CIFAR-10."""
    return _resnet("resnet50", image_shape, num_classes)


def mobilenetv2(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return MobileNetV2 for 32×32, with the study's strides: 2,236,682 parameters for CIFAR-10."""
    # (expansion, width, blocks, stride) of each stage. Only the strides are not those for large images: the maps stay
    # 32×32 up to width 32 and end as 8×8.
    stages = [
        [1, 16, 1, 1],
        [6, 24, 2, 1],
        [6, 32, 3, 1],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    model: nn.Module = import_torchvision().models.mobilenet_v2(
        num_classes=num_classes, inverted_residual_setting=stages, dropout=0.0
    )
    model.set_submodule("features.0.0", _stem(image_shape[0], 32))
    return model


def vit(image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return a vision transformer of 6 layers on 8×8 patches of 4×4 pixels: 9,532,938 parameters for CIFAR-10."""
    patch_size, width = 4, 512
    model: nn.Module = import_torchvision().models.VisionTransformer(
        image_size=32,
        patch_size=patch_size,
        num_layers=6,
        num_heads=8,
        hidden_dim=width,
        mlp_dim=width,
        dropout=0.1,
        num_classes=num_classes,
    )
    channels = image_shape[0]
    patches = nn.Conv2d(channels, width, patch_size, stride=patch_size)
    nn.init.trunc_normal_(patches.weight, std=(channels * patch_size**2) ** -0.5)
    nn.init.zeros_(patches.get_parameter("bias"))
    model.set_submodule("conv_proj", patches)
    return model


def _perceptron(widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]


def _convolutions(
    channels: int, stages: Sequence[Sequence[int]], *, batch_norm: bool = False, dropout: float = 0.0
) -> list[nn.Module]:
    """Return convolutions of 3×3 with the widths of each stage; after a stage, height and width are halved."""
    layers: list[nn.Module] = []
    for widths in stages:
        for width in widths:
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(2))
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
    return layers


def _resnet(name: str, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    model: nn.Module = getattr(import_torchvision().models, name)(num_classes=num_classes)
    model.set_submodule("conv1", _stem(image_shape[0], 64))
    model.set_submodule("maxpool", nn.Identity())
    return model


def _stem(channels: int, width: int) -> nn.Conv2d:
    """Return a first convolution that keeps every pixel, drawn as torchvision draws its convolutions."""
    stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return stem
