"""One tensor read into per-channel sums on its own device, and those sums turned into numbers.

`read` issues device work only; `interpret` runs on the host, in float64, after a step's readings
have been fetched together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sigprop.errors import BadInput
from sigprop.registry import Registry
from sigprop.signals.activity import Activity
from sigprop.signals.moments import Moments
from sigprop.signals.precision import at_ease, full_precision, widened

#: The columns of a reading, one row a channel.
COLUMNS = (
    "elements",
    "finite",
    "zeros",
    "lowest",
    "highest",
    "scale",
    "centre",
    "s1",
    "s2",
    "s3",
    "s4",
)

#: Elements per part: with its two temporaries 1.5 MB in float32, inside a core's cache.
_PART = 1 << 17


@dataclass(frozen=True)
class Signal:
    """What is known of one tensor, or of several merged: its moments and its activity."""

    moments: Moments
    activity: Activity

    def scaled(self, factor: float) -> Signal:
        """Return the signal of the tensor multiplied by a positive ``factor``."""
        if factor == 1:
            return self
        return Signal(self.moments.scaled(factor), self.activity.scaled(factor))

    def merge(self, other: Signal) -> Signal:
        """Return the signal over both sets of samples.

        Raises:
            BadInput: the numbers of channels differ.
        """
        mine, theirs = len(self.moments.count), len(other.moments.count)
        if mine != theirs:
            raise BadInput(f"cannot merge a signal of {mine} channels with one of {theirs}")
        return Signal(self.moments.merge(other.moments), self.activity.merge(other.activity))


def readable(x: Tensor) -> bool:
    """Return whether ``x`` can be read: real floating point, strided, with data and elements."""
    return x.is_floating_point() and x.layout == torch.strided and not x.is_meta and x.numel() > 0


def read(x: Tensor, channel_dim: int = 1) -> Tensor:
    """Return the sums from which every signal number follows, shape (C, len(COLUMNS)).

    Values are shifted by their channel's mean before they are raised to powers, and divided by a
    power of two near the largest magnitude where that is far from 1: nothing cancels when
    mean ≫ std, nothing over- or underflows at 1e±30. Non-finite values are counted and left out.
    An accelerator is never waited for.

    Args:
        x: a readable tensor, any shape; a scalar is one channel of one sample.
        channel_dim: which axis holds the channels.

    Raises:
        BadInput: ``x`` has no such axis.
    """
    with full_precision(x):
        values, others = _spread(x, channel_dim)
        lowest, highest = values.amin(others), values.amax(others)
        elements = torch.full_like(lowest, values.numel() // lowest.numel())
        if at_ease(lowest, highest):
            scale, samples, finite = torch.ones_like(lowest), elements, None
        else:
            finite = values.isfinite()
            values = values.where(finite, 0)
            samples = finite.to(values.dtype).sum(others)
            lowest, highest = values.amin(others), values.amax(others)
            scale = _power_of_two(lowest, highest).expand_as(lowest)
            values = values / scale[0]
        centre = values.sum(others) / samples.clamp_min(1)
        nonzero, *powers = _sums(values, others, centre, finite)
        columns = [elements, samples, samples - nonzero, lowest, highest, scale, centre]
        return torch.stack([*columns, *powers], dim=1)


def _spread(x: Tensor, channel_dim: int) -> tuple[Tensor, tuple[int, ...]]:
    """Return ``x`` in float32 or wider, and the axes over which a channel spreads."""
    shape = tuple(x.shape)
    if x.ndim == 0:
        x, channel_dim = x.reshape(1), 0
    if not -x.ndim <= channel_dim < x.ndim:
        raise BadInput(f"channel_dim {channel_dim} is outside a tensor of shape {shape}")
    channel_dim %= x.ndim
    x = x.unsqueeze(-1) if x.ndim == 1 else x
    others = tuple(axis for axis in range(x.ndim) if axis != channel_dim)
    return widened(x), others


def _power_of_two(lowest: Tensor, highest: Tensor) -> Tensor:
    """Return 2^(e-1), shape (1,), for a largest magnitude of m·2^e with m in [0.5, 1).

    It never overflows, and dividing by it is exact.
    """
    peak = torch.maximum(-lowest, highest).amax(0, keepdim=True)
    peak = peak.clamp_min(torch.finfo(peak.dtype).tiny)
    return torch.ldexp(torch.ones_like(peak), peak.frexp().exponent - 1)


def _sums(values: Tensor, others: tuple[int, ...], centre: Tensor, finite: Tensor | None) -> Tensor:
    """Return the count of non-zeros and the sums of four powers about the centre, shape (5, C).

    Works through the tensor in parts that stay in the processor's cache with their temporaries,
    which is three times as fast as one pass over all, and needs no memory to speak of.
    """
    longest = max(others, key=lambda axis: values.shape[axis])
    stride = max(1, values.shape[longest] * _PART // max(1, values.numel()))
    about = centre.reshape([1 if axis in others else -1 for axis in range(values.ndim)])
    masks = finite.split(stride, longest) if finite is not None else itertools.repeat(None)
    total = values.new_zeros(5, len(centre))
    for part, mask in zip(values.split(stride, longest), masks, strict=False):
        d = part - about
        if mask is not None:
            d = d.where(mask, 0)
        square = d * d
        s1, s2 = d.sum(others), square.sum(others)
        s3 = d.mul_(square).sum(others)  # in place: the temporaries are ours
        s4 = square.mul_(square).sum(others)
        total += torch.stack([part.sign().abs_().sum(others), s1, s2, s3, s4])
    return total


def interpret(reading: npt.ArrayLike) -> Signal:
    """Return the signal behind a fetched reading, shape (C, len(COLUMNS)), in float64."""
    table = np.asarray(reading, dtype=np.float64)
    elements, n, zeros, lowest, highest, scale, centre, s1, s2, s3, s4 = table.T
    # The centre is a rounded mean; the first-order sum s1 says by how much it is off.
    shift = s1 / np.maximum(n, 1)
    moments = Moments(
        n,
        scale * (centre + shift),
        scale**2 * np.maximum(s2 - n * shift**2, 0),
        scale**3 * (s3 - 3 * shift * s2 + 2 * n * shift**3),
        scale**4 * np.maximum(s4 - 4 * shift * s3 + 6 * shift**2 * s2 - 3 * n * shift**4, 0),
    )
    return Signal(moments, Activity(elements, elements - n, zeros, lowest, highest))


Quantity = Callable[[Signal], float]

#: The columns of the `signals` frame that follow from one tensor alone.
QUANTITIES: Registry[Quantity] = Registry("metric")
QUANTITIES.register("mean")(lambda signal: signal.moments.grand_mean)
QUANTITIES.register("second_moment")(lambda signal: signal.moments.second_moment)
QUANTITIES.register("channel_variance")(lambda signal: signal.moments.channel_variance)
QUANTITIES.register("mean_shift")(lambda signal: signal.moments.mean_shift)
QUANTITIES.register("kurtosis")(lambda signal: signal.moments.kurtosis)
QUANTITIES.register("zero_fraction")(lambda signal: signal.activity.zero_fraction)
QUANTITIES.register("max_abs")(lambda signal: signal.activity.max_abs)


def measure_signal(x: Tensor, channel_dim: int = 1) -> Signal:
    """Return the signal of one tensor now; it waits for the device.

    Raises:
        BadInput: ``x`` cannot be read, or has no such axis.

    Example:
        >>> signal = measure_signal(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
        >>> signal.moments.second_moment, signal.activity.zero_fraction
        (6.5, 0.25)
    """
    if not readable(x):
        raise BadInput(
            f"a signal is read from a non-empty real floating-point tensor, not from {x.dtype} "
            f"of shape {tuple(x.shape)} with layout {x.layout}"
        )
    return interpret(read(x, channel_dim).cpu().numpy())
