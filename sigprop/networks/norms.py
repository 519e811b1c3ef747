"""Normalization layers for (N, C), (N, T, C) and (N, C, H, W), made from channels and dims."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sigprop.errors import BadInput
from sigprop.networks.design import Design


def batch_norm(channels: int, dims: int) -> nn.Module:
    """Return batch normalization (Ioffe & Szegedy 2015) of (N, C) or (N, C, H, W).

    Args:
        channels: number of channels C.
        dims: spatial axes after the channel axis, 0 or 2.
    """
    return nn.BatchNorm2d(channels) if dims else nn.BatchNorm1d(channels)


def layer_norm(channels: int, dims: int) -> nn.Module:
    """Return layer normalization (Ba et al. 2016): over channels, and over positions of an image.

    Ba et al. normalize all units of a layer; for an image these are channels and positions, which
    is a group normalization with one group. Gain and bias are per channel.

    Args:
        channels: number of channels C.
        dims: spatial axes after the channel axis, 0 or 2.
    """
    return nn.GroupNorm(1, channels) if dims else nn.LayerNorm(channels)


def group_size(channels: int, per_group: int | None = None) -> int:
    """Return channels per group: as asked, else 16, or half of fewer than 32 channels.

    Args:
        channels: number of channels C.
        per_group: what was asked for, if anything.

    Example:
        >>> group_size(64), group_size(20), group_size(64, 4)
        (16, 10, 4)
    """
    return per_group or (16 if channels % 16 == 0 and channels >= 32 else max(2, channels // 2))


def group_norm(per_group: int | None) -> Callable[[int, int], nn.Module]:
    """Return a maker of group normalization with so many channels per group (Wu & He 2018).

    None is the paper's 16, or half the channels where there are fewer than 32. One channel per
    group is instance normalization (Ulyanov et al. 2016).

    Raises:
        BadInput: (the maker) the channels do not divide, or a group is one single number.

    Example:
        >>> group_norm(None)(64, 2).num_groups, group_norm(1)(3, 2).num_groups
        (4, 3)
    """

    def make(channels: int, dims: int) -> nn.Module:
        """Return the normalization of so many channels.

        Raises:
            BadInput: the groups do not divide the channels.
        """
        size = group_size(channels, per_group)
        if size < 1 or channels % size:
            raise BadInput(f"per_group={size} does not divide {channels} channels")
        if size == 1 and not dims:
            raise BadInput(
                "one unit per group normalizes single numbers to 0; an MLP needs per_group of at "
                "least 2, instance normalization needs architecture='resnet'"
            )
        return nn.GroupNorm(channels // size, channels)

    return make


class MeanOnlyBatchNorm(nn.Module):
    """Subtracts the batch mean and adds a learned bias: y = x - mean[x] + b, of x's shape.

    Evaluation subtracts the running mean instead (momentum 0.1, as torch's batch normalization).

    Source: Salimans & Kingma 2016, eq. 10.

    Args:
        channels: number of channels C.
        dims: spatial axes after the channel axis, 0 or 2.
        momentum: weight of the new batch's mean in the running mean.

    Example:
        >>> MeanOnlyBatchNorm(1)(torch.tensor([[1.0], [3.0]])).flatten().tolist()
        [-1.0, 1.0]
    """

    running_mean: Tensor

    def __init__(self, channels: int, dims: int = 0, momentum: float = 0.1) -> None:
        super().__init__()
        self.dims, self.momentum = dims, momentum
        self.bias = nn.Parameter(torch.zeros(channels, *[1] * dims))
        self.register_buffer("running_mean", torch.zeros(channels, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x - mean + b``; x of shape (N, ..., C), or (N, C, *dims spatial axes)."""
        if not self.training:
            return x - self.running_mean + self.bias
        channel_axis = x.dim() - 1 - self.dims
        mean = x.mean(dim=[axis for axis in range(x.dim()) if axis != channel_axis])
        mean = mean.view_as(self.bias)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        return x - mean + self.bias


def refuse_transformer(design: Design, family: str, remedy: str) -> None:
    """Refuse a Transformer for a family that is not defined on tokens.

    Args:
        design: of the network that is asked for.
        family: its name, for the message.
        remedy: what to do instead, for the message.

    Raises:
        BadInput: as said.
    """
    if design.architecture == "transformer":
        raise BadInput(f"{family!r} is for architectures 'mlp' and 'resnet'; {remedy}")
