"""The residual network with batch normalisation, the yardstick of the zoo."""

from __future__ import annotations

from torch import nn

from sigprop.networks.catalogue import register
from sigprop.networks.design import Design
from sigprop.networks.residual import Recipe, ResidualNet


def _batch_norm(channels: int, dims: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if dims else nn.BatchNorm1d(channels)


@register("batchnorm")
def batchnorm(design: Design) -> nn.Module:
    """Return x_k = x_{k-1} + F_k(x_{k-1}) with batch normalisation in F_k in the design's order.

    Every branch adds second moment 1, so that of the trunk is k + 1 after k blocks when the stem
    gives 1: block k contributes 1/(k+1), and the skip dominates a deep network. A weight that
    reads a normalised tensor directly (act-norm-weight) has gain 1, one behind a ReLU gain √2.
    No bias follows a hidden weight: the next normalisation has its own. A stage's shortcut is
    normalised in the order weight-norm-act only; elsewhere the trunk stays linear.

    Source: He et al. 2016a/b; De & Smith 2020, sec. 2 (growth of the trunk).

    Args:
        design: sizes and orders.
    """
    return ResidualNet(design, Recipe(norm=_batch_norm))
