"""Every model fits the data it says it fits, lives in a row of X exactly, and trains there as torch trains it."""

import pytest
import torch
from torch import nn

from mpisim.data.shards import Samples
from mpisim.errors import InputError
from mpisim.learning.optimizers import Optimizer, OptimizerSettings
from mpisim.learning.parameters import BoundModel, allocate_rows
from mpisim.learning.training import train_node
from mpisim.models.catalog import MODELS, make_model

FOR_ANY_IMAGE = {"mlp", "mlp-small"}
FOR_32X32 = {"cnn", "cnn-dropout", "vgg16", "resnet18", "resnet50", "mobilenetv2", "vit"}
FOR_TEXT = {"gpt2", "gpt2-1layer"}
FITTING = {
    (1, 8, 8): FOR_ANY_IMAGE,
    (1, 28, 28): FOR_ANY_IMAGE,
    (1, 32, 32): FOR_ANY_IMAGE | FOR_32X32,
    (3, 32, 32): FOR_ANY_IMAGE | FOR_32X32,
    (3, 32, 31): FOR_ANY_IMAGE,
    (2, 64, 64): FOR_ANY_IMAGE,
    (12,): FOR_TEXT,
    (150,): FOR_TEXT,
}
NUM_CLASSES = 10


def new_step(model, settings):
    return Optimizer(settings, model.parameter_layout, 1, torch.device("cpu")).bind(model.parameters, 0)


def test_the_catalog_has_these_models():
    assert set(MODELS) == FOR_ANY_IMAGE | FOR_32X32 | FOR_TEXT


@pytest.mark.parametrize("input_shape, fitting", FITTING.items(), ids=map(str, FITTING))
def test_a_model_is_made_for_data_that_it_fits_and_refused_for_other_data(input_shape, fitting):
    is_text = len(input_shape) == 1
    with torch.device("meta"):  # shapes without memory
        inputs = torch.zeros(2, *input_shape, dtype=torch.int64 if is_text else torch.float32)
        for name in MODELS:
            if name in fitting:
                logits = make_model(name, input_shape, NUM_CLASSES)(inputs)
                assert logits.shape == ((2, *input_shape, NUM_CLASSES) if is_text else (2, NUM_CLASSES))
            else:
                with pytest.raises(InputError, match=f"model '{name}' needs"):
                    make_model(name, input_shape, NUM_CLASSES)


@pytest.mark.parametrize(
    "name, input_shape, message",
    [
        ("vgg16", (1, 8, 8), "model 'vgg16' needs images of 32×32, this data has 1×8×8: choose from mlp, mlp-small"),
        ("gpt2", (3, 28, 28), "model 'gpt2' needs texts, this data has 3×28×28: choose from mlp, mlp-small"),
        ("mlp", (150,), "model 'mlp' needs images, this data has texts of 150 tokens: choose from gpt2, gpt2-1layer"),
        (
            "vgg",
            (3, 32, 32),
            "unknown model 'vgg': choose from cnn, cnn-dropout, gpt2, gpt2-1layer, mlp, mlp-small, mobilenetv2, "
            "resnet18, resnet50, vgg16, vit",
        ),
    ],
)
def test_a_model_that_cannot_be_made_says_what_can(name, input_shape, message):
    with pytest.raises(InputError) as caught:
        make_model(name, input_shape, NUM_CLASSES)
    assert str(caught.value) == message


def make(name):
    """Return a model, and four samples for it."""
    generator = torch.Generator().manual_seed(2)
    if name in FOR_TEXT:
        tokens = torch.randint(NUM_CLASSES, (4, 12), generator=generator)
        return make_model(name, (12,), NUM_CLASSES), Samples(tokens, torch.zeros(4, dtype=torch.int64))
    input_shape = (1, 8, 8) if name in FOR_ANY_IMAGE else (3, 32, 32)
    inputs = torch.randn(4, *input_shape, generator=generator)
    labels = torch.randint(NUM_CLASSES, (4,), generator=generator)
    return make_model(name, input_shape, NUM_CLASSES), Samples(inputs, labels)


@pytest.mark.parametrize("name", MODELS)
def test_a_models_state_comes_back_from_its_row_exactly(name):
    torch.manual_seed(0)
    original, samples = make(name)
    original.train()(samples.inputs)  # moves the statistics of BatchNorm away from zero and one
    model = BoundModel(make(name)[0])
    row = allocate_rows(1, model.layout.num_columns, torch.device("cpu"))[0]
    model.read(original, row)
    counters = [buffer.clone() for buffer in original.buffers() if not buffer.is_floating_point()]
    model.bind(row, counters)
    bound = model.module.state_dict()
    floating = {key: value for key, value in original.state_dict().items() if value.is_floating_point()}
    assert sum(value.numel() for value in floating.values()) == model.layout.num_columns == row.numel()
    for key, value in floating.items():
        torch.testing.assert_close(bound[key], value, rtol=0, atol=0, msg=key)
    assert bound.keys() == original.state_dict().keys()
    for key in bound.keys() - floating.keys():
        assert bound[key] == original.state_dict()[key] == 1, key  # batches that BatchNorm has counted
    outputs = [module.eval()(samples.inputs) for module in (original, model.module)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_training_in_a_row_gives_what_plain_torch_gives(name):
    torch.manual_seed(0)
    plain, samples = make(name)
    torch.manual_seed(0)
    model = BoundModel(make(name)[0], "text" if name in FOR_TEXT else "image")
    rows = allocate_rows(2, model.layout.num_columns, torch.device("cpu"))
    row, expected = rows
    model.read(model.module, row)
    before, counters = row.clone(), model.new_counters()

    settings = OptimizerSettings(name="sgd", lr=0.01, momentum=0.9)
    torch.manual_seed(1)  # dropout
    # Two steps: a vision transformer's head is zero at first, so that one step would train the head alone.
    loss = train_node(model, row, samples, new_step(model, settings), 2, [None], counters)
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(plain.train().parameters(), lr=0.01, momentum=0.9)
    expected_loss = 0.0
    for batch in (slice(0, 2), slice(2, 4)):
        optimizer.zero_grad()
        logits, targets = plain(samples.inputs[batch]), samples.labels[batch]
        if name in FOR_TEXT:  # the classes are where the loss wants them: (samples, classes, context)
            logits, targets = logits[:, :-1].transpose(1, 2), samples.inputs[batch][:, 1:]
        batch_loss = nn.functional.cross_entropy(logits, targets)
        batch_loss.backward()
        optimizer.step()
        expected_loss += batch_loss.item() / 2

    model.read(plain, expected)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert (row - expected).norm() <= 1e-6 * expected.norm()
    assert (expected - before).norm() > 1e-4 * expected.norm()
    for key, trained, wanted, untrained in zip(
        model.layout.names, *(model.layout.views(values) for values in (row, expected, before)), strict=True
    ):
        torch.testing.assert_close(trained, wanted, rtol=1e-5, atol=1e-6, msg=key)
        assert not torch.equal(wanted, untrained), key
    plain_counters = [buffer for buffer in plain.buffers() if not buffer.is_floating_point()]
    assert [counter.item() for counter in counters] == [counter.item() for counter in plain_counters]
