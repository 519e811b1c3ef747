"""The sums of a reading turned into numbers: on the host, in float64, after they were fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sigprop.errors import BadInput
from sigprop.registry import Registry
from sigprop.signals.activity import Activity
from sigprop.signals.moments import WHOLE, Moments
from sigprop.signals.reading import read, readable

Starts = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Signal:
    """What is known of tensors: the moments and the activity of all their channels, end to end.

    Attributes:
        moments: of every channel of every tensor.
        activity: likewise.
        starts: where each tensor's channels begin; a single tensor's at 0.
    """

    moments: Moments
    activity: Activity
    starts: Starts = field(default_factory=lambda: WHOLE)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def channels(self) -> Starts:
        """How many channels each tensor has."""
        return np.diff(self.starts, append=len(self.moments.count))

    def scaled(self, factors: npt.ArrayLike) -> Signal:
        """Return the signal of tensors multiplied by positive ``factors``, one or one a tensor."""
        by_channel = np.repeat(np.broadcast_to(factors, (len(self),)), self.channels)
        return replace(
            self,
            moments=self.moments.scaled(by_channel),
            activity=self.activity.scaled(by_channel),
        )

    def merge(self, other: Signal) -> Signal:
        """Return the signal over both sets of samples, tensor by tensor.

        Raises:
            BadInput: the numbers of channels differ.
        """
        for mine, theirs in zip(self.channels, other.channels, strict=True):
            if mine != theirs:
                raise BadInput(f"cannot merge a signal of {mine} channels with one of {theirs}")
        moments = self.moments.merge(other.moments)
        return Signal(moments, self.activity.merge(other.activity), self.starts)

    def take(self, tensors: Sequence[int]) -> Signal:
        """Return the signal of the tensors with these indices, in this order."""
        sizes = self.channels[list(tensors)]
        ends = np.cumsum(sizes)
        starts = ends - sizes
        channels = np.arange(sizes.sum()) + np.repeat(self.starts[list(tensors)] - starts, sizes)
        return Signal(self.moments.take(channels), self.activity.take(channels), starts)

    def join(self, other: Signal) -> Signal:
        """Return the tensors of both, the other's after these."""
        starts = np.append(self.starts, other.starts + len(self.moments.count))
        moments = self.moments.join(other.moments)
        return Signal(moments, self.activity.join(other.activity), starts)

    @property
    def alive(self) -> list[npt.NDArray[np.bool_]]:
        """The units of each tensor that were on; see `Activity.alive`."""
        return np.split(self.activity.alive, self.starts[1:])


def interpret(reading: npt.ArrayLike, starts: Starts = WHOLE) -> Signal:
    """Return the signal behind fetched readings, in float64.

    Args:
        reading: shape (C, len(COLUMNS)); the readings of several tensors one below the other.
        starts: the row where each tensor's reading begins.
    """
    table = np.ascontiguousarray(np.asarray(reading, dtype=np.float64).T)
    elements, n, zeros, lowest, highest, scale, centre, s1, s2, s3, s4 = table
    # The centre is a rounded mean; the first-order sum s1 says by how much it is off.
    shift = s1 / np.maximum(n, 1)
    shift2, scale2 = shift * shift, scale * scale
    moments = Moments(
        n,
        scale * (centre + shift),
        scale2 * np.maximum(s2 - n * shift2, 0),
        scale2 * scale * (s3 - shift * (3 * s2 - 2 * n * shift2)),
        scale2 * scale2 * np.maximum(s4 - 4 * shift * s3 + shift2 * (6 * s2 - 3 * n * shift2), 0),
    )
    return Signal(moments, Activity(elements, elements - n, zeros, lowest, highest), starts)


Quantity = Callable[[Signal], npt.NDArray[np.float64]]

#: The columns of the `signals` frame that follow from one tensor alone: a value for each tensor.
QUANTITIES: Registry[Quantity] = Registry("metric")
QUANTITIES.register("mean")(lambda signal: signal.moments.grand_means(signal.starts))
QUANTITIES.register("second_moment")(lambda signal: signal.moments.second_moments(signal.starts))
QUANTITIES.register("channel_variance")(
    lambda signal: signal.moments.channel_variances(signal.starts)
)
QUANTITIES.register("mean_shift")(lambda signal: signal.moments.mean_shifts(signal.starts))
QUANTITIES.register("kurtosis")(lambda signal: signal.moments.kurtoses(signal.starts))
QUANTITIES.register("zero_fraction")(lambda signal: signal.activity.zero_fractions(signal.starts))
QUANTITIES.register("max_abs")(lambda signal: signal.activity.max_abses(signal.starts))


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
