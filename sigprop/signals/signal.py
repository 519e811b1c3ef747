"""The sums of a reading turned into numbers: on the host, in float64, after they were fetched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sigprop.errors import BadInput
from sigprop.registry import Registry
from sigprop.signals.activity import Activity
from sigprop.signals.moments import Moments
from sigprop.signals.reading import read, readable


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
        >>> import torch
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
