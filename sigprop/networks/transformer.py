"""Attention and feed-forward branches, tokens and positions: what a Transformer adds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sigprop.networks.design import Design
from sigprop.networks.recipe import (
    Layers,
    Recipe,
    Shape,
    dropout_gain,
    layers_before_weight,
    norm_and_activation,
    projection,
    weight,
)
from sigprop.networks.weights import Weighted

FEED_FORWARD = 4  # hidden units of a feed-forward branch per unit of the trunk


class Tokens(nn.Module):
    """Turns images into sequences: (N, C, H, W) -> (N, H, C·W), a token per row; (N, T, F) stays.

    Example:
        >>> Tokens()(torch.zeros(2, 3, 4, 5)).shape
        torch.Size([2, 4, 15])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (N, T, F)."""
        return x if x.dim() == 3 else x.transpose(1, 2).flatten(2)


class Positions(nn.Module):
    """A learned vector per position, N(0, 0.02²): y = x + p; x and y of shape (N, T, width).

    Args:
        tokens: T, positions of a sequence.
        width: features of a token.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + p``."""
        return x + self.position


class MeanOverTokens(nn.Module):
    """The mean over tokens: (N, T, width) -> (N, width)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over axis 1."""
        return x.mean(dim=1)


class Attention(nn.Module):
    """Multi-head self-attention up to the concatenated heads: softmax(q kᵀ / d^scale_exponent) v.

    Shapes: (N, T, width) -> (N, T, width). The output projection is the next weight of the branch.

    Source: Vaswani et al. 2017, sec. 3.2; scale_exponent 1 as in Yang et al. 2021 (μP).

    Args:
        query: width -> width.
        key: width -> width.
        value: width -> width.
        heads: number of heads; divides the width.
        scale_exponent: exponent of the head's width d.
    """

    def __init__(
        self,
        query: Weighted,
        key: Weighted,
        value: Weighted,
        heads: int,
        scale_exponent: float = 0.5,
    ) -> None:
        super().__init__()
        self.query, self.key, self.value = query, key, value
        self.heads, self.scale_exponent = heads, scale_exponent

    def forward(self, x: Tensor) -> Tensor:
        """Return the heads' mixtures of values, side by side."""
        projected = (self.query(x), self.key(x), self.value(x))
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in projected)
        scale = q.shape[-1] ** -self.scale_exponent
        mixed = functional.scaled_dot_product_attention(q, k, v, scale=scale)
        return mixed.transpose(1, 2).flatten(2)

    def extra_repr(self) -> str:
        """Return the number of heads, for the module's repr."""
        return f"heads={self.heads}, scale_exponent={self.scale_exponent:g}"


def transformer_branch(design: Design, recipe: Recipe, k: int) -> Layers:
    """Return the k-th branch of an encoder: attention where k is odd, feed-forward where even.

    A layer of the encoder is two residual blocks, so that each has its addition. The spread of the
    recipe is on the weights that the signal passes in series: values and output, or both
    feed-forward weights; queries and keys only choose.

    Args:
        design: width, heads, activation.
        recipe: initializers, normalization, coefficients.
        k: the block, from 1.

    Returns:
        Layers by name.
    """
    branch = Layers()
    if recipe.norm and not recipe.post_norm:
        branch["norm"] = recipe.norm(design.width, design.dims)
    made = _attention if k % 2 else _feed_forward
    branch.update(made(design, recipe, recipe.weight_scale(k)))
    return branch


def _attention(design: Design, recipe: Recipe, spread: float) -> Layers:
    square = Shape(design.width, design.width)
    branch = layers_before_weight(design, recipe, design.width, "1", recipe.drop)
    # queries, keys, values in the order of Vaswani et al.; dropout in front of them reaches values
    gains = (recipe.query_gain, recipe.query_gain, spread * dropout_gain(recipe.drop))
    query, key, value = (projection(design, recipe, square, gain) for gain in gains)
    branch["attention"] = Attention(query, key, value, design.heads, recipe.scale_exponent)
    branch.update(
        weight(design, recipe, square, spread * recipe.last_weight_scale, "2", recipe.drop)
    )
    return branch


def _feed_forward(design: Design, recipe: Recipe, spread: float) -> Layers:
    hidden = FEED_FORWARD * design.width
    branch = weight(design, recipe, Shape(design.width, hidden), spread, "1", recipe.drop)
    branch.update(norm_and_activation(design, recipe, hidden, ("act",), "1"))
    gain = recipe.gain(design.activation) * spread * recipe.last_weight_scale
    branch.update(weight(design, recipe, Shape(hidden, design.width), gain, "2", recipe.drop))
    return branch
