"""With --precision bfloat16 the factors of every product are rounded, and nothing else; runs learn all the same."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from plain_experiment import logged
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mpisim.data.shards import Samples
from mpisim.learning.batches import Batch
from mpisim.learning.mapped import MappedProducts
from mpisim.learning.optimizers import OptimizerSettings
from mpisim.learning.parameters import BoundModel, allocate_rows
from mpisim.learning.perceptron import PerceptronProducts, logits
from mpisim.models.language import Gpt2

CPU = torch.device("cpu")
NUM_NODES, BATCH_SIZE, NUM_CLASSES = 3, 16, 5
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "convolution", "convolution_backward", "linear"}
PRODUCTS |= {"mkldnn_linear", "_scaled_dot_product_flash_attention_for_cpu"}


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, NUM_CLASSES))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, NUM_CLASSES)
    )


def text():
    return Gpt2(8, 14, num_layers=1)


class Factors(TorchDispatchMode):
    """Notes the types of what goes into products."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            self.seen.setdefault(name, set()).update(tensor.dtype for tensor in tensors)
        return func(*args, **(kwargs or {}))


def setting(make, precision):
    """Return a model of each node in rows of X, and a batch for each."""
    torch.manual_seed(0)
    kind = "text" if make is text else "image"
    model = BoundModel(make(), kind, precision)
    rows = allocate_rows(NUM_NODES, model.layout.num_columns, CPU)
    for row in rows:
        model.read(make(), row)
    shape = (NUM_NODES, BATCH_SIZE)
    inputs = torch.randint(14, (*shape, 8)) if make is text else torch.randn(*shape, 1, 6, 6)
    samples = Samples(inputs, torch.randint(NUM_CLASSES, shape))
    return model, rows, samples


def batch_of(samples, nodes):
    count = nodes.stop - nodes.start
    chosen = Samples(samples.inputs[nodes], samples.labels[nodes])
    weights = torch.full((count, BATCH_SIZE), 1 / BATCH_SIZE)
    places = torch.zeros((count, BATCH_SIZE), dtype=torch.int64)
    sizes = torch.full((count,), BATCH_SIZE)
    return Batch(nodes, chosen, positions=places, weights=weights, sizes=sizes)


def products_of(make, model):
    if make is perceptron:
        return PerceptronProducts(model.precision)
    counters = [torch.stack([counter] * NUM_NODES) for counter in model.new_counters()]
    return MappedProducts(model, counters, [None] * NUM_NODES)


def by_autocast(make, rows, samples, node, precision):
    """Return a node's loss and gradients by torch's autocast alone."""
    module = make()
    model = BoundModel(module)
    model.bind(rows[node].clone())
    module.train()
    inputs = samples.inputs[node]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        outputs = module(inputs)
        if make is text:
            loss = F.cross_entropy(outputs[:, :-1].flatten(0, 1), inputs[:, 1:].flatten())
        else:
            loss = F.cross_entropy(outputs, samples.labels[node])
    return loss.item(), torch.autograd.grad(loss, list(module.parameters()))


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients]).double()


MODELS = {"perceptron": perceptron, "convolutions": convolutions, "text": text}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_stack_computes_what_each_node_computes_by_autocast(make):
    model, rows, samples = setting(make, torch.bfloat16)
    losses, gradients = products_of(make, model).gradients(
        model.layout.views(rows), batch_of(samples, slice(0, NUM_NODES))
    )
    assert {gradient.dtype for gradient in gradients} == {losses.dtype} == {torch.float32}
    for node in range(NUM_NODES):
        expected = {
            precision: by_autocast(make, rows, samples, node, precision)
            for precision in (torch.bfloat16, torch.float32)
        }
        assert losses[node].item() == pytest.approx(expected[torch.bfloat16][0], rel=2e-3)
        found = flat([gradient[node] for gradient in gradients])
        rounded, exact = (flat(gradients_of_node) for _, gradients_of_node in expected.values())
        # Roundings differ with the order of sums, but are as large as autocast's.
        assert 0.5 < (found - exact).norm() / (rounded - exact).norm() < 1.5
        assert (found - rounded).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_factors_of_every_product_have_the_precision(make, precision):
    model, rows, samples = setting(make, precision)
    batch = batch_of(samples, slice(0, NUM_NODES))
    with Factors() as stacked:
        products_of(make, model).gradients(model.layout.views(rows), batch)
    model.bind(rows[0])
    model.module.train()
    with Factors() as alone:
        outputs, targets, _ = model.predictions(samples_of(samples, 0))
        torch.autograd.grad(F.cross_entropy(outputs, targets), model.parameters)
    if make is text and precision == torch.bfloat16:
        # Attention that is made of plain products, as within vmap, takes rounded values and computes in float32.
        assert stacked.seen.pop("bmm") == {torch.bfloat16, torch.float32}
    else:
        assert stacked.seen
    assert alone.seen
    assert set().union(*stacked.seen.values(), *alone.seen.values()) == {precision}
    assert rows.dtype == outputs.dtype == torch.float32


def samples_of(samples, node):
    return Samples(samples.inputs[node], samples.labels[node])


@pytest.mark.parametrize("stack", [1, 2])
def test_a_rounded_perceptron_has_the_same_bits_in_any_stack(stack):
    model, rows, samples = setting(perceptron, torch.bfloat16)
    products = PerceptronProducts(torch.bfloat16)
    losses, gradients = products.gradients(model.layout.views(rows), batch_of(samples, slice(0, NUM_NODES)))
    for start in range(0, NUM_NODES, stack):
        nodes = slice(start, min(start + stack, NUM_NODES))
        loss, found = products.gradients(model.layout.views(rows[nodes]), batch_of(samples, nodes))
        assert torch.equal(loss, losses[nodes])
        assert all(torch.equal(mine, all_[nodes]) for mine, all_ in zip(found, gradients, strict=True))


def test_a_rounded_perceptron_leaves_its_steps_to_the_optimizer():
    """Products of rounded factors cannot add straight to float32 weights."""
    model, rows, samples = setting(perceptron, torch.bfloat16)
    before = rows.clone()
    batch = batch_of(samples, slice(0, NUM_NODES))
    settings = OptimizerSettings(name="sgd", lr=0.1)
    assert PerceptronProducts(torch.bfloat16).descend(model.layout.views(rows), batch, settings) is None
    assert torch.equal(rows, before)


def test_a_stack_is_tested_with_rounded_factors_and_float32_outputs():
    model, rows, samples = setting(perceptron, torch.bfloat16)
    state = [tensor.to(torch.bfloat16) for tensor in model.layout.views(rows)]
    with Factors() as factors:
        found = logits(state, samples.inputs.flatten(2))
    assert found.dtype == torch.float32
    assert factors.seen == {"baddbmm": {torch.bfloat16}}
    for node in range(NUM_NODES):
        model.bind(rows[node])
        with torch.no_grad():
            expected, _, _ = model.predictions(samples_of(samples, node))
        torch.testing.assert_close(found[node], expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_a_run_with_rounded_factors_learns_and_is_not_that_in_float32(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = f"--engine {engine} --rounds 6 --epochs 6 --train-samples 600 --test-samples 200 --lr 0.2 --overwrite"
    whole, rounded = (logged(f"{options} --precision {precision}") for precision in ("float32", "bfloat16"))
    assert rounded["iid_accuracy"][-1].mean() > 0.6 > 0.3 > rounded["iid_accuracy"][0].mean()
    difference = np.abs(rounded["train_loss"] / whole["train_loss"] - 1)
    assert 1e-6 < difference.max() < 0.05
