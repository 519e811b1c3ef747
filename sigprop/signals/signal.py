"""Channel statistics on the host: merged, and pooled into the sums behind every number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sigprop.errors import BadInput
from sigprop.signals import native
from sigprop.signals.activity import Activity
from sigprop.signals.channel_statistics import compute, readable
from sigprop.signals.columns import POOLED_COLUMNS
from sigprop.signals.moments import Moments
from sigprop.signals.pooled import QUANTITIES, Pooled

#: Channel statistics on the host, shape (C, len(COLUMNS)), float64.
ChannelTable = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Signal:
    """What is known of a tensor, or of several end to end: moments and activity by channel."""

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

    @property
    def table(self) -> ChannelTable:
        """The channel statistics that give this signal: sums about the means themselves."""
        m, a = self.moments, self.activity
        one, zero = np.ones_like(m.mean), np.zeros_like(m.mean)
        columns = [a.count, m.count, a.zeros, a.lowest, a.highest, one, m.mean, zero]
        return np.stack([*columns, m.m2, m.m3, m.m4], axis=1)

    def pooled(self, starts: npt.ArrayLike = (0,)) -> Pooled:
        """Return the sums over the channels of each tensor.

        Args:
            starts: where each tensor's channels begin.
        """
        m, a, starts = self.moments, self.activity, np.asarray(starts, dtype=np.intp)

        def add(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            """Return the sums over the channels of each tensor."""
            return np.add.reduceat(numbers, starts)

        n = add(m.count)
        mean = add(m.count * m.mean) / np.maximum(n, 1.0)
        d = m.mean - np.repeat(mean, np.diff(starts, append=len(m.mean)))
        d2 = d * d  # higher powers from products: numpy's own take a hundred times as long
        return Pooled(
            elements=add(a.count),
            samples=n,
            zeros=add(a.zeros),
            max_abs=np.maximum.reduceat(np.maximum(-a.lowest, a.highest), starts),
            mean=mean,
            within=add(m.m2),
            between=add(m.count * m.mean * m.mean),
            m2=add(m.m2 + m.count * d2),
            m4=add(m.m4 + 4 * d * m.m3 + d2 * (6 * m.m2 + m.count * d2)),
        )

    def number(self, name: str) -> float:
        """Return one of `QUANTITIES` over all channels.

        Raises:
            UnknownName: there is none of that name.
        """
        return float(QUANTITIES[name](self.pooled())[0])


def interpret(table: npt.ArrayLike) -> Signal:
    """Return the signal behind channel statistics, shape (C, len(COLUMNS)), in float64."""
    columns = np.ascontiguousarray(np.asarray(table, dtype=np.float64).T)
    elements, n, zeros, lowest, highest, scale, center, s1, s2, s3, s4 = columns
    # The center is a rounded mean; the first-order sum s1 says by how much it is off.
    shift = s1 / np.maximum(n, 1)
    shift2, scale2 = shift * shift, scale * scale
    moments = Moments(
        n,
        scale * (center + shift),
        scale2 * np.maximum(s2 - n * shift2, 0),
        scale2 * scale * (s3 - shift * (3 * s2 - 2 * n * shift2)),
        scale2 * scale2 * np.maximum(s4 - 4 * shift * s3 + shift2 * (6 * s2 - 3 * n * shift2), 0),
    )
    return Signal(moments, Activity(elements, elements - n, zeros, lowest, highest))


def merge(tables: Sequence[ChannelTable], others: Sequence[ChannelTable]) -> list[ChannelTable]:
    """Return the channel statistics over both sets of samples, pair by pair.

    Args:
        tables: statistics of each tap, shape (C, columns).
        others: those of further samples, in the same order.

    Raises:
        BadInput: the two of a pair have different numbers of channels.
    """
    for mine, theirs in zip(tables, others, strict=True):
        if len(mine) != len(theirs):
            raise BadInput(
                f"cannot merge a signal of {len(mine)} channels with one of {len(theirs)}"
            )
    if not tables:
        return []
    merged = interpret(np.concatenate(tables)).merge(interpret(np.concatenate(others)))
    return np.split(merged.table, _ends(tables)[:-1])


def pool(tables: Sequence[ChannelTable]) -> Pooled:
    """Return the sums over the channels of each table; the compiled library is asked first."""
    if native.LIBRARY is None or not tables:
        return pool_plain(tables)
    tables = [np.ascontiguousarray(table) for table in tables]
    addresses = [t.__array_interface__["data"][0] for t in tables]  # half the time of t.ctypes.data
    where = np.array([addresses, [len(t) for t in tables]], dtype=np.int64)
    rows = np.empty((len(tables), len(POOLED_COLUMNS)))
    pointers = (numbers.ctypes.data for numbers in (*where, rows))
    native.LIBRARY.sigprop_pool(len(tables), *pointers)
    return Pooled(*rows.T)


def pool_plain(tables: Sequence[ChannelTable]) -> Pooled:
    """Return the same by numpy."""
    if not tables:
        return Pooled(*np.empty((len(POOLED_COLUMNS), 0)))
    starts = np.concatenate(([0], _ends(tables)[:-1]))
    with np.errstate(over="ignore", invalid="ignore"):  # beyond 1e±72: quantities are undefined
        return interpret(np.concatenate(tables)).pooled(starts)


def alive(tables: Sequence[ChannelTable]) -> npt.NDArray[np.bool_]:
    """Return the units that were > 0 somewhere, or held a NaN: a broken unit is not a dead one.

    Args:
        tables: channel statistics; their units are returned one after the other.
    """
    elements, finite, _, _, highest = np.concatenate([table[:, :5] for table in tables]).T
    return (highest > 0) | (finite < elements)


def measure_signal(x: Tensor, channel_dim: int = 1) -> Signal:
    """Return the signal of one tensor now; it waits for the device.

    Args:
        x: a tensor.
        channel_dim: its channel axis.

    Raises:
        BadInput: ``x`` cannot be read, or has no such axis.

    Example:
        >>> import torch
        >>> signal = measure_signal(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
        >>> signal.number("second_moment"), signal.number("zero_fraction")
        (6.5, 0.25)
    """
    if not readable(x):
        raise BadInput(
            f"a signal is read from a non-empty real floating-point tensor, not from {x.dtype} "
            f"of shape {tuple(x.shape)} with layout {x.layout}"
        )
    return interpret(compute(x, channel_dim).cpu().numpy())


def _ends(tables: Sequence[ChannelTable]) -> npt.NDArray[np.intp]:
    return np.cumsum([len(table) for table in tables], dtype=np.intp)
