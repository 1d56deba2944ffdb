"""Every model by its name, and the data that it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from mpisim.errors import InputError, unknown_name
from mpisim.models import language, vision
from mpisim.models.dropout import use_dropout


@dataclass(frozen=True)
class Model:
    """A model that mpisim knows.

    Attributes
    ----------
    make : function of (input shape, number of classes) to a new module
    fits : function of the input shape
        Whether the model can be made for it.
    needs : str
        What fits, for people.
    """

    make: Callable[[tuple[int, ...], int], nn.Module]
    fits: Callable[[tuple[int, ...]], bool]
    needs: str


def make_model(name: str, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return a new model with random values, from torch's own generator.

    Parameters
    ----------
    input_shape : (channels, height, width) of images, or (context,) of texts
    num_classes : int
        For texts, the number of tokens in the vocabulary.

    Raises
    ------
    InputError
        If there is no such model, or it cannot take such input.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    if not MODELS[name].fits(input_shape):
        has = f"texts of {input_shape[0]} tokens" if _is_text(input_shape) else "×".join(map(str, input_shape))
        fitting = ", ".join(sorted(other for other, model in MODELS.items() if model.fits(input_shape)))
        raise InputError(f"model {name!r} needs {MODELS[name].needs}, this data has {has}: choose from {fitting}")
    return use_dropout(MODELS[name].make(input_shape, num_classes))


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3


def _is_32x32(shape: tuple[int, ...]) -> bool:
    return _is_image(shape) and shape[1:] == (32, 32)


def _is_text(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1


MODELS: dict[str, Model] = {
    "mlp": Model(vision.mlp, _is_image, "images"),
    "mlp-small": Model(vision.mlp_small, _is_image, "images"),
    "cnn": Model(vision.cnn, _is_32x32, "images of 32×32"),
    "cnn-dropout": Model(vision.cnn_dropout, _is_32x32, "images of 32×32"),
    "vgg16": Model(vision.vgg16, _is_32x32, "images of 32×32"),
    "resnet18": Model(vision.resnet18, _is_32x32, "images of 32×32"),
    "resnet50": Model(vision.resnet50, _is_32x32, "images of 32×32"),
    "mobilenetv2": Model(vision.mobilenetv2, _is_32x32, "images of 32×32"),
    "vit": Model(vision.vit, _is_32x32, "images of 32×32"),
    "gpt2": Model(language.gpt2, _is_text, "texts"),
    "gpt2-1layer": Model(language.gpt2_1layer, _is_text, "texts"),
}
