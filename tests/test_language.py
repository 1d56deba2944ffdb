"""GPT-2 has the study's size and first values, computes what torch's encoder layers compute, and never looks ahead."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from mpisim.models.language import gpt2, gpt2_1layer

CONTEXT, NUM_TOKENS = 150, 14
MODELS = [(gpt2, 4), (gpt2_1layer, 1)]


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("make, num_parameters", [(gpt2, 814_336), (gpt2_1layer, 219_520)])
def test_parameters_and_logits_are_as_many_as_in_the_study(make, num_parameters):
    with torch.device("meta"):  # shapes without memory
        model = make((CONTEXT,), NUM_TOKENS)
        logits = model(torch.empty(3, CONTEXT, dtype=torch.int64))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert logits.shape == (3, CONTEXT, NUM_TOKENS)


@pytest.mark.parametrize("make, num_layers", MODELS)
def test_first_values_are_those_of_gpt2_with_the_studys_deviation(make, num_layers):
    drawn = {}
    for name, parameter in make((CONTEXT,), NUM_TOKENS).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            drawn[name.split(".")[-2]] = (float(parameter.detach().mean()), float(parameter.detach().std()))
    wide = 0.8 / np.sqrt(128)
    narrow = wide / np.sqrt(2 * num_layers)  # what ends a sublayer: their sum grows with their number
    expected = {
        "tokens": wide,
        "positions": wide,
        "query_key_value": wide,
        "attended": narrow,
        "expand": wide,
        "contract": narrow,
    }
    assert {name: std for name, (_, std) in drawn.items()} == pytest.approx(expected, rel=0.06)
    assert {name: mean for name, (mean, _) in drawn.items()} == pytest.approx(dict.fromkeys(expected, 0), abs=0.006)


def from_torchs_layers(model, tokens):
    """Compute the logits with torch's encoder layers, given the model's state."""
    state = model.state_dict()
    values = state["tokens.weight"][tokens] + state["positions.weight"]
    mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
    names = {
        "self_attn.in_proj_": "query_key_value.",
        "self_attn.out_proj.": "attended.",
        "linear1.": "expand.",
        "linear2.": "contract.",
        "norm1.": "attention_norm.",
        "norm2.": "perceptron_norm.",
    }
    for number in range(len(model.layers)):
        layer = nn.TransformerEncoderLayer(128, 4, 512, 0.0, F.relu, batch_first=True, norm_first=True)
        layer.load_state_dict(
            {
                theirs + kind: state[f"layers.{number}.{ours}{kind}"]
                for theirs, ours in names.items()
                for kind in ("weight", "bias")
            }
        )
        values = layer(values, src_mask=mask, is_causal=True)
    return F.layer_norm(values, (128,), state["norm.weight"], state["norm.bias"]) @ state["tokens.weight"].T


@pytest.mark.parametrize("make, num_layers", MODELS)
def test_logits_are_those_of_torchs_encoder_layers_with_a_causal_mask_and_a_tied_head(make, num_layers):
    model = make((20,), NUM_TOKENS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)  # no bias is zero, no norm is one
    assert len(model.layers) == num_layers
    tokens = torch.randint(NUM_TOKENS, (3, 20))
    torch.testing.assert_close(model(tokens), from_torchs_layers(model, tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", [1, 60, 149])
def test_a_later_token_changes_no_earlier_logit(changed):
    model = gpt2((CONTEXT,), NUM_TOKENS)
    tokens = torch.randint(NUM_TOKENS, (2, CONTEXT))
    other = tokens.clone()
    other[:, changed] = (other[:, changed] + 1) % NUM_TOKENS
    with torch.no_grad():
        before, after = model(tokens), model(other)
    torch.testing.assert_close(after[:, :changed], before[:, :changed], rtol=0, atol=0)
    assert ((after[:, changed:] - before[:, changed:]).abs().amax(dim=2) > 1e-6).all()


def test_a_shorter_text_has_the_logits_of_the_longer_texts_start():
    model = gpt2((CONTEXT,), NUM_TOKENS)
    tokens = torch.randint(NUM_TOKENS, (2, CONTEXT))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens[:, :37]), model(tokens)[:, :37], rtol=1e-4, atol=1e-5)
