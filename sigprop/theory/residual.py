"""Residual recursions: RescaleNet's coefficients, and any stack x_k = a_k x_{k-1} + b_k F_k.

Vectors over blocks k = 0..L of the numbers a probe reads, and of the gradient's second moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from sigprop.errors import BadInput
from sigprop.theory.activations import Array
from sigprop.theory.arguments import number, positive, whole
from sigprop.theory.branch import Branch
from sigprop.theory.kernel import Gradient, Kernel


@dataclass(frozen=True)
class Coefficients:
    """alpha_k and beta_k for k = 1..L, each of shape ``(L,)``."""

    alpha: Array
    beta: Array


def coefficients(depth: int, c: float | None = None) -> Coefficients:
    """Return alpha_k = sqrt((k-1+c)/(k+c)), beta_k = 1/sqrt(k+c) (RescaleNet, Shao et al. 2020).

    Args:
        depth: L, the number of blocks.
        c: any number above 0; L when left out, the paper's choice (their code has c = L - 1).

    Returns:
        alpha and beta, each of shape ``(L,)``.

    Raises:
        BadInput: a depth below 1, c of 0 or less.

    Example:
        >>> made = coefficients(20)
        >>> round(float(made.alpha.prod() ** 2), 12), round(float(made.beta[0] ** 2), 12)
        (0.5, 0.047619047619)
    """
    whole("depth", depth, 1)
    c = positive("c", depth if c is None else c)
    k = np.arange(1, depth + 1, dtype=np.float64)
    return Coefficients(np.sqrt((k - 1 + c) / (k + c)), 1 / np.sqrt(k + c))


@dataclass(frozen=True)
class Shares:
    """Shares of the output's second moment: the input's, and each block's, shape ``(L,)``."""

    input: float
    blocks: Array


def shares(alpha: npt.ArrayLike, beta: npt.ArrayLike) -> Shares:
    """Return (prod alpha)^2 and (beta_k prod_{i>k} alpha_i)^2: who makes up x_L.

    With RescaleNet's coefficients they are c/(L+c) and 1/(L+c) for every k; they sum to 1 whenever
    alpha_k^2 + beta_k^2 = 1, and count each branch as having the second moment of x_0.

    Args:
        alpha: coefficients of the skips, shape ``(L,)``.
        beta: coefficients of the branches, shape ``(L,)``.

    Raises:
        BadInput: the two differ in length.

    Example:
        >>> made = coefficients(3, c=1)
        >>> found = shares(made.alpha, made.beta)
        >>> round(found.input, 12), found.blocks.round(12).tolist()
        (0.25, [0.25, 0.25, 0.25])
    """
    a, b = np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise BadInput(
            f"alpha and beta must be vectors of one length; got shapes {a.shape} and {b.shape}"
        )
    after = np.append(np.cumprod(a[::-1])[::-1], 1.0)
    return Shares(float(after[0] ** 2), (b * after[1:]) ** 2)


def depth_multiplier(depth: int, layers: int, c: float | None = None) -> Array:
    """Return ((k+c)/L)^(-1/2m) for k = 1..L: the weights' scale in RescaleNet's multiplier form.

    There x_k = alpha_k x_{k-1} + L^(-1/2) F_k with each of the m weight layers of F_k multiplied by
    this number, so that L^(-1/2) times its m-th power is beta_k; the exponent is 1/6 only at m = 3.

    Args:
        depth: L, number of blocks.
        layers: m, weight layers of a branch.
        c: the paper's constant; L when left out.

    Returns:
        A vector of shape ``(L,)``.

    Raises:
        BadInput: a depth or a number of layers below 1, c of 0 or less.

    Example:
        >>> made = depth_multiplier(8, 2)
        >>> bool(np.allclose(made**2 / 8**0.5, coefficients(8).beta))
        True
    """
    whole("layers", layers, 1)
    return (coefficients(depth, c).beta * math.sqrt(depth)) ** (1 / layers)


def depth_exponents(layers: int) -> tuple[float, float]:
    """Return the exponents of (k+c) in a weight's gradient norm and in gradient-to-weight.

    In the multiplier form: -1/2 + 1/2m and -1/2 + 1/m (both are -1/2 in the plain form).

    Raises:
        BadInput: fewer than one layer.

    Example:
        >>> [round(e, 6) for e in depth_exponents(3)]  # -1/3 and -1/6
        [-0.333333, -0.166667]
    """
    m = whole("layers", layers, 1)
    return -0.5 + 1 / (2 * m), -0.5 + 1 / m


@dataclass(frozen=True)
class Block:
    """One block x -> A(skip * S(x) + scale * F(x)); S and A are the identity where there is none.

    Args:
        branch: F.
        skip: a; 0 for a plain, non-residual net.
        scale: b.
        shortcut: operations on the shortcut, with weights of their own.
        after: operations behind the addition (a post-norm).

    Raises:
        BadInput: skip or scale is not finite.
    """

    branch: Branch
    skip: float = 1.0
    scale: float = 1.0
    shortcut: Branch | None = None
    after: Branch | None = None

    def __post_init__(self) -> None:
        number("skip", self.skip)
        number("scale", self.scale)


@dataclass(frozen=True)
class Prediction:
    """What a stack's statistics should be, vectors of shape ``(L + 1,)`` over blocks k = 0..L.

    Args:
        block: 0..L; 0 is the stack's input.
        second_moment: E x_k^2.
        channel_variance: biased batch variance per channel, mean over channels.
        mean_shift: squared batch mean per channel; adds up with the variance to the second moment.
        correlation: cosine between two samples.
        branch_second_moment: of F_k before its scale b_k (missing at 0).
        branch_channel_variance: likewise.
        branch_mean_shift: likewise.
        skip: a_k (missing at 0).
        scale: b_k (missing at 0); the operand of the addition is b_k F_k.
        gradient_second_moment: E (dL/dx_k)^2 relative to that of x_L.
    """

    block: Array
    second_moment: Array
    channel_variance: Array
    mean_shift: Array
    correlation: Array
    branch_second_moment: Array
    branch_channel_variance: Array
    branch_mean_shift: Array
    skip: Array
    scale: Array
    gradient_second_moment: Array

    def columns(self) -> dict[str, Array]:
        """Return name -> vector: what ``pandas.DataFrame`` takes."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class _Pass:
    """The kernels inside one block on the way forward."""

    block: Block
    branch: list[Kernel]
    side: list[Kernel]
    after: list[Kernel]

    def backward(self, gradient: Gradient) -> Gradient:
        block = self.block
        if block.after is not None:
            gradient = block.after.backward(self.after, gradient)
        inner = block.branch.backward(self.branch, gradient.scaled(block.scale**2))
        if block.skip == 0:
            return inner
        through = gradient.scaled(block.skip**2)
        if block.shortcut is not None:
            through = block.shortcut.backward(self.side, through)
        return through.plus(inner)


def _forward(block: Block, x: Kernel) -> _Pass:
    branch = block.branch.forward(x)
    side = [x] if block.shortcut is None else block.shortcut.forward(x)
    added = branch[-1].scaled(block.scale)
    total = added if block.skip == 0 else side[-1].scaled(block.skip).plus(added)
    after = [total] if block.after is None else block.after.forward(total)
    return _Pass(block, branch, side, after)


def recursion(
    blocks: Sequence[Block],
    start: Kernel | None = None,
    gradient: Gradient | None = None,
    head: Branch | None = None,
) -> Prediction:
    """Return what a stack of residual blocks does to a batch and to its gradient.

    q_k = a^2 q_{k-1} + b^2 q_F (the cross term vanishes because F's last weights have mean 0), the
    same for covariances, and G_{k-1} = a^2 G_k + b^2 chi^m G_k backwards.

    Args:
        blocks: k = 1..L in order.
        start: the kernel of x_0; q = 1, uncorrelated samples, infinite batch when left out.
        gradient: that of x_L, or of the head's output; independent over samples when left out.
        head: operations behind x_L through which the gradient comes.

    Returns:
        The statistics at blocks 0..L.

    Raises:
        BadInput: an activation meets values that are not Gaussian, or a norm meets variance 0.

    Example:
        >>> from sigprop.theory.branch import weight_branch
        >>> recursion([Block(weight_branch())] * 3).second_moment.tolist()
        [1.0, 2.0, 4.0, 8.0]
    """
    trunk = [Kernel() if start is None else start]
    passes: list[_Pass] = []
    for block in blocks:
        passes.append(_forward(block, trunk[-1]))
        trunk.append(passes[-1].after[-1])
    back = Gradient() if gradient is None else gradient
    if head is not None:
        back = head.backward(head.forward(trunk[-1]), back)
    back = back.on(trunk[-1])
    moments = [back.second_moment]
    for passed in reversed(passes):
        back = passed.backward(back)
        moments.append(back.second_moment)
    ends = [passed.branch[-1] for passed in passes]
    return _gather(blocks, trunk, ends, np.array(moments[::-1]))


def _gather(
    blocks: Sequence[Block], trunk: Sequence[Kernel], ends: Sequence[Kernel], gradients: Array
) -> Prediction:
    def of(kernels: Sequence[Kernel], name: str) -> Array:
        return np.array([getattr(kernel, name) for kernel in kernels], dtype=np.float64)

    def after(values: npt.ArrayLike) -> Array:
        return np.concatenate([[np.nan], np.asarray(values, dtype=np.float64)])

    return Prediction(
        block=np.arange(len(trunk), dtype=np.float64),
        second_moment=of(trunk, "second_moment"),
        channel_variance=of(trunk, "channel_variance"),
        mean_shift=of(trunk, "mean_shift"),
        correlation=of(trunk, "correlation"),
        branch_second_moment=after(of(ends, "second_moment")),
        branch_channel_variance=after(of(ends, "channel_variance")),
        branch_mean_shift=after(of(ends, "mean_shift")),
        skip=after([block.skip for block in blocks]),
        scale=after([block.scale for block in blocks]),
        gradient_second_moment=gradients / gradients[-1],
    )
