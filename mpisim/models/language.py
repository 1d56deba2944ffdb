"""Models for text: from a batch of tokens, int64 of shape (samples, context), to logits (samples, context, vocabulary).

The logits at a position are for the token that follows it, and depend on no later one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

WIDTH = 128
NUM_HEADS = 4
INITIAL_STD = 0.8 / math.sqrt(WIDTH)


def gpt2(text_shape: tuple[int, ...], num_tokens: int) -> nn.Module:
    """Return the study's GPT-2 of 4 layers: 814,336 parameters for 14 tokens and a context of 150."""
    return Gpt2(text_shape[0], num_tokens, num_layers=4)


def gpt2_1layer(text_shape: tuple[int, ...], num_tokens: int) -> nn.Module:
    """Return the study's GPT-2 of one layer: 219,520 parameters for 14 tokens and a context of 150."""
    return Gpt2(text_shape[0], num_tokens, num_layers=1)


class Gpt2(nn.Module):
    """GPT-2 with ReLU, without dropout; its head is the embedding of the tokens.

    Parameters
    ----------
    context : int
        The largest number of tokens in a text.
    num_tokens : int
        The size of the vocabulary.
    """

    def __init__(self, context: int, num_tokens: int, num_layers: int):
        super().__init__()
        self.tokens = nn.Embedding(num_tokens, WIDTH)
        self.positions = nn.Embedding(context, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(num_layers)))
        self.norm = nn.LayerNorm(WIDTH)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                # As in GPT-2, what 2 · num_layers sublayers add up is drawn narrower by the root of their number.
                adds_up = name.endswith(("attended.weight", "contract.weight"))
                nn.init.normal_(parameter, std=INITIAL_STD / math.sqrt(2 * num_layers) if adds_up else INITIAL_STD)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next token at every position."""
        values = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return F.linear(self.norm(self.layers(values)), self.tokens.weight)


class Layer(nn.Module):
    """Causal attention, then a perceptron of four times the width; each reads values normalised and adds to them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.attended = nn.Linear(WIDTH, WIDTH)
        self.perceptron_norm = nn.LayerNorm(WIDTH)
        self.expand = nn.Linear(WIDTH, 4 * WIDTH)
        self.contract = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return new values, of the same shape (samples, length, width)."""
        joint = self.query_key_value(self.attention_norm(values))
        by_head = joint.unflatten(2, (3, NUM_HEADS, WIDTH // NUM_HEADS)).transpose(1, 3)
        query, key, value = by_head.unbind(2)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        values = values + self.attended(attended.transpose(1, 2).flatten(2))
        added: torch.Tensor = self.contract(F.relu(self.expand(self.perceptron_norm(values))))
        return values + added
