"""Closed laws of normalized stacks: growth of trunks, BN's gradient explosion, zero padding.

They restate in one line what the recursions of ``families`` give, and are tested against them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sigprop.errors import BadInput
from sigprop.theory import gaussian
from sigprop.theory.activations import Activation, Array
from sigprop.theory.arguments import non_negative, one_of, whole

PI_CONSTANT = math.pi / (math.pi - 1)
"""pi/(pi-1) = 1.466942...: BN's gradient explosion for ReLU, and DKS's limit of a ReLU net."""

CENTERED_RELU = 1 - 1 / math.pi
"""1 - 1/pi = 0.681690...: what a He layer keeps of the variance when the batch mean is removed."""

NORMPROP_MEAN = 1 / math.sqrt(2 * math.pi)
"""E relu(z) = 0.398942... (Arpit et al. 2016)."""

NORMPROP_STD = math.sqrt(CENTERED_RELU / 2)
"""std relu(z) = 0.583819... (Arpit et al. 2016)."""

NORMPROP_JACOBIAN = math.sqrt(PI_CONSTANT)
"""1.211174...: gamma starts at 1 over it so that NormProp's Jacobian has unit singular values."""


@dataclass(frozen=True)
class Growth:
    """Second moment and channel variance of a trunk, shape ``(L + 1,)``, k = 0..L."""

    second_moment: Array
    channel_variance: Array


def batchnorm_growth(
    depth: int, order: str = "norm-act-weight", activation: str | Activation = "relu"
) -> Growth:
    """Return q_k = k + 1 and the channel variance of a BN ResNet (De & Smith 2020, section 3).

    A branch that ends in act-weight has second moment 1, of which Var f / E f^2 varies over the
    batch (1 - 1/pi for ReLU); one that ends in norm-weight or weight-norm varies altogether.

    Args:
        depth: L, number of blocks.
        order: ``"norm-act-weight"``, ``"act-norm-weight"`` or ``"act-weight-norm"``.
        activation: of the branch.

    Raises:
        UnknownName: an unknown order or activation.
        BadInput: a negative depth.

    Example:
        >>> batchnorm_growth(30).channel_variance[-1].round(4).item()
        21.4507
    """
    k = np.arange(whole("depth", depth) + 1, dtype=np.float64)
    orders = ("norm-act-weight", "act-norm-weight", "act-weight-norm")
    share = 1.0
    if one_of("order", order, orders) == "norm-act-weight":
        share = gaussian.variance(activation) / gaussian.second_moment(activation)
    return Growth(k + 1, 1 + share * k)


def block_share(block: int) -> float:
    """Return 1/(k+1): the share of x_k that block k of a BN ResNet adds (De & Smith 2020).

    Raises:
        BadInput: a block below 1.

    Example:
        >>> block_share(3)
        0.25
    """
    return 1 / (whole("block", block, 1) + 1)


def nf_growth(stages: Sequence[int], alpha: float = 0.2) -> list[Array]:
    """Return 1 + i alpha^2, i = 1..d, after each block of each stage (Brock et al. 2021).

    Args:
        stages: number of blocks of each stage.
        alpha: of the branches.

    Returns:
        One vector per stage, of shape ``(d,)``.

    Raises:
        BadInput: a negative number of blocks or alpha.

    Example:
        >>> [made.round(9).tolist() for made in nf_growth((2, 3))]
        [[1.04, 1.08], [1.04, 1.08, 1.12]]
    """
    square = non_negative("alpha", alpha) ** 2
    return [1 + square * np.arange(1, whole("stage", d) + 1, dtype=np.float64) for d in stages]


def batchnorm_gradient_factor(activation: str | Activation = "relu") -> float:
    """Return E f'^2 / Var f: the squared gradient's growth per BN-act-weight layer, large batch.

    pi/(pi-1) for ReLU (Yang et al. 2019, section 4; the norm grows by its root); 1 only for the
    identity. Small batches lie above it: about 1.51 at B = 32.

    Raises:
        UnknownName: no such activation.

    Example:
        >>> round(batchnorm_gradient_factor("relu"), 6)
        1.466942
    """
    return gaussian.slope_second_moment(activation) / gaussian.variance(activation)


def padding_factor(size: int, kernel: int = 3, layers: int = 1, dims: int = 2) -> float:
    """Return what zero padding leaves of the mean second moment after m same-size convolutions.

    ((1/n) 1' T^m 1)^dims, T[i, j] = 1/k for |i - j| <= (k-1)/2: each position sees only the taps
    inside the map. Exact for white input, layers in a row and positively homogeneous activations;
    circular padding has factor 1.

    Args:
        size: n, the map's side.
        kernel: k, odd.
        layers: m.
        dims: 2 for images.

    Raises:
        BadInput: a size, number of layers or dims below 1, or an even kernel.

    Example:
        >>> round(padding_factor(8), 6), round(padding_factor(8, dims=1), 6)  # (3n-2)/3n
        (0.840278, 0.916667)
    """
    n, k = whole("size", size, 1), whole("kernel", kernel, 1)
    if k % 2 == 0:
        raise BadInput(f"kernel must be odd to keep the size; got {kernel!r}")
    whole("layers", layers, 1)
    whole("dims", dims, 1)
    index = np.arange(n)
    taps = (np.abs(index[:, None] - index) <= (k - 1) // 2) / k
    seen = np.linalg.matrix_power(taps.astype(np.float64), layers).sum() / n
    return float(seen**dims)
