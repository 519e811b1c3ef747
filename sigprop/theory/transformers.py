"""Encoders by name: pre-LN and post-LN, DeepNorm, T-Fixup; attention and feed-forward in turn.

A layer is two blocks, so that each has its addition. Attention averages tokens, so that its branch
adds less than the feed-forward one: (q - w) E sum_j A_j^2 + w, and makes tokens alike.
"""

from __future__ import annotations

from sigprop.theory.activations import Activation
from sigprop.theory.arguments import whole
from sigprop.theory.branch import gain_squared
from sigprop.theory.families import FAMILIES
from sigprop.theory.kernel import Kernel
from sigprop.theory.residual import Prediction
from sigprop.theory.skeleton import Skeleton, Treatment, predict_stack


def deepnorm_scales(layers: int) -> tuple[float, float]:
    """Return DeepNorm's alpha = (2N)^(1/4) and beta = (8N)^(-1/4) (Wang et al. 2022, figure 2).

    Args:
        layers: N, of an encoder, or of a decoder that is alone.

    Raises:
        BadInput: fewer than one layer.

    Example:
        >>> [round(made, 6) for made in deepnorm_scales(8)]
        [2.0, 0.353553]
    """
    n = whole("layers", layers, 1)
    return float(2 * n) ** 0.25, float(8 * n) ** -0.25


def t_fixup_scale(layers: int) -> float:
    """Return 0.67 N^(-1/4): what T-Fixup multiplies an encoder's weights by (Huang et al. 2020).

    Args:
        layers: N, of the encoder.

    Raises:
        BadInput: fewer than one layer.

    Example:
        >>> t_fixup_scale(16)
        0.335
    """
    return 0.67 * float(whole("layers", layers, 1)) ** -0.25


def _encoder(
    depth: int, width: int, heads: int, activation: str | Activation, tokens: int
) -> tuple[Skeleton, Kernel]:
    name = activation if isinstance(activation, str) else activation.name
    widths = (width,) * whole("depth", depth)
    skeleton = Skeleton(widths, width, "transformer", activation=name, heads=heads)
    return skeleton, Kernel(positions=whole("tokens", tokens, 1))


@FAMILIES.register("transformer")
def transformer(
    depth: int,
    *,
    post: bool = False,
    tokens: int = 8,
    width: int = 512,
    heads: int = 8,
    activation: str | Activation = "relu",
    start: Kernel | None = None,
) -> Prediction:
    """Return x + F(LN x), or LN(x + F(x)) with ``post`` (Xiong et al. 2020).

    Args:
        depth: L, blocks; attention and feed-forward in turn, two a layer.
        post: normalize behind the addition.
        tokens: T, of a sample.
        width: of the trunk.
        heads: of attention.
        activation: of the feed-forward branches.
        start: the kernel of x_0; T uncorrelated tokens of second moment 1 when left out.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative depth, no token.

    Example:
        >>> made = transformer(4, tokens=1)
        >>> made.second_moment.round(6).tolist()
        [1.0, 2.0, 3.0, 4.0, 5.0]
    """
    skeleton, batch = _encoder(depth, width, heads, activation, tokens)
    made = Treatment(gain_squared(activation), norm="layernorm", post_norm=post)
    return predict_stack(skeleton, made, batch if start is None else start)


@FAMILIES.register("deepnorm")
def deepnorm(
    depth: int,
    *,
    tokens: int = 8,
    width: int = 512,
    heads: int = 8,
    activation: str | Activation = "relu",
    start: Kernel | None = None,
) -> Prediction:
    """Return LN(alpha x + F(x)) with Xavier weights times beta (Wang et al. 2022).

    Args:
        depth: L, blocks; attention and feed-forward in turn, two a layer.
        tokens: T, of a sample.
        width: of the trunk.
        heads: of attention.
        activation: of the feed-forward branches.
        start: the kernel of x_0; T uncorrelated tokens of second moment 1 when left out.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative depth, no token.

    Example:
        >>> deepnorm(4).second_moment.round(9).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    skeleton, batch = _encoder(depth, width, heads, activation, tokens)
    made = deepnorm_treatment(max(1, depth // 2))
    return predict_stack(skeleton, made, batch if start is None else start)


@FAMILIES.register("t_fixup")
def t_fixup(
    depth: int,
    *,
    tokens: int = 8,
    width: int = 512,
    heads: int = 8,
    activation: str | Activation = "relu",
    start: Kernel | None = None,
) -> Prediction:
    """Return x + F(x) with Xavier weights times 0.67 N^(-1/4), no norm (Huang et al. 2020).

    Args:
        depth: L, blocks; attention and feed-forward in turn, two a layer.
        tokens: T, of a sample.
        width: of the trunk.
        heads: of attention.
        activation: of the feed-forward branches.
        start: the kernel of x_0; T uncorrelated tokens of second moment 1 when left out.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative depth, no token.

    Example:
        >>> made = t_fixup(2, tokens=1, activation="identity")
        >>> round(float(made.second_moment[1]), 6)  # 1 + 0.67^4
        1.201511
    """
    skeleton, batch = _encoder(depth, width, heads, activation, tokens)
    made = t_fixup_treatment(max(1, depth // 2))
    return predict_stack(skeleton, made, batch if start is None else start)


def deepnorm_treatment(layers: int) -> Treatment:
    """Return what DeepNorm does to an encoder of so many layers.

    Raises:
        BadInput: fewer than one layer.
    """
    alpha, beta = deepnorm_scales(layers)
    return Treatment(
        1.0,
        weights="xavier",
        norm="layernorm",
        post_norm=True,
        skip=lambda k: alpha,
        weight_scale=lambda k: beta,
    )


def t_fixup_treatment(layers: int) -> Treatment:
    """Return what T-Fixup does to an encoder of so many layers; queries and keys have 1/sqrt 2.

    Raises:
        BadInput: fewer than one layer.
    """
    scale = t_fixup_scale(layers)
    return Treatment(1.0, weights="xavier", weight_scale=lambda k: scale, query_gain=0.5**0.5)
