"""One tensor read into per-channel sums on its own device, and those sums turned into numbers.

`read` issues device work only; `interpret` runs on the host, in float64, after a step's readings
have been fetched together.
"""

from __future__ import annotations

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
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Signal:
    """What is known of one tensor, or of several merged: its moments and its activity."""

    moments: Moments
    activity: Activity

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


def channel_rows(x: Tensor, channel_dim: int) -> Tensor:
    """Return ``x`` as (C, samples), float32 or wider; a scalar is one channel of one sample.

    Raises:
        BadInput: ``x`` has no such axis.
    """
    if x.ndim == 0:
        x, channel_dim = x.reshape(1), 0
    if not -x.ndim <= channel_dim < x.ndim:
        raise BadInput(f"channel_dim {channel_dim} is outside a tensor of shape {tuple(x.shape)}")
    x = x.detach().movedim(channel_dim, 0)
    return x.reshape(x.shape[0], -1).to(torch.float32 if x.dtype in _HALF else x.dtype)


def read(x: Tensor, channel_dim: int = 1) -> Tensor:
    """Return the sums from which every signal number follows, shape (C, len(COLUMNS)).

    Values are divided by a power of two near the tensor's largest magnitude and shifted by the
    channel's mean before they are raised to powers: nothing cancels when mean ≫ std, nothing
    over- or underflows at 1e±30. Non-finite values are counted and left out. Nothing here waits
    for the device.

    Args:
        x: a readable tensor, any shape.
        channel_dim: which axis holds the channels.

    Raises:
        BadInput: ``x`` has no such axis.
    """
    with torch.autocast(x.device.type, enabled=False):
        rows = channel_rows(x, channel_dim)
        finite = rows.isfinite()
        rows = rows.where(finite, 0)
        samples = finite.sum(1).to(rows.dtype)
        elements = torch.full_like(samples, rows.shape[1])
        zeros = (rows == 0).sum(1).to(rows.dtype) - (elements - samples)
        lowest, highest = rows.aminmax(dim=1)
        peak = torch.maximum(-lowest, highest).amax().clamp_min(torch.finfo(rows.dtype).tiny)
        # frexp gives peak = m·2^e with m in [0.5, 1); 2^(e-1) never overflows and divides exactly.
        scale = torch.ldexp(torch.ones_like(peak), peak.frexp().exponent - 1)
        rows = rows / scale
        centre = rows.sum(1) / samples.clamp_min(1)
        d = (rows - centre[:, None]).where(finite, 0)
        square = d * d
        sums = [d.sum(1), square.sum(1), (square * d).sum(1), (square * square).sum(1)]
        columns = [elements, samples, zeros, lowest, highest, scale.expand_as(centre), centre]
        return torch.stack([*columns, *sums], dim=1)


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
