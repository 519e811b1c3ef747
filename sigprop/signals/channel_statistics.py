"""Channel statistics of one tensor, computed on its own device; nothing waits for the result."""

from __future__ import annotations

import ctypes
import itertools
import math

import numpy as np
import torch
from torch import Tensor

from sigprop.errors import BadInput
from sigprop.signals import native
from sigprop.signals.columns import COLUMNS
from sigprop.signals.precision import full_precision, in_safe_range, widened

#: Elements per part: with its two temporaries 1.5 MB in float32, inside a core's cache.
_PART = 1 << 17

#: Floating-point types with several numbers in an element, which torch computes nothing of.
_PACKED = (getattr(torch, "float4_e2m1fn_x2", None),)


def readable(x: Tensor) -> bool:
    """Return whether ``x`` has statistics: real floating point, strided, with data and elements."""
    return (
        x.is_floating_point()
        and x.layout == torch.strided
        and x.dtype not in _PACKED
        and not x.is_meta
        and x.numel() > 0
    )


def compute(x: Tensor, channel_dim: int = 1) -> Tensor:
    """Return the sums from which every signal number follows, shape (C, len(COLUMNS)).

    Values are shifted by a value near their channel's mean before they are raised to powers, and
    divided by a power of two near their spread or magnitude where that is far from 1: nothing
    cancels when mean ≫ std, nothing over- or underflows at 1e±30. Non-finite values are counted
    and left out. An accelerator is never waited for.

    On the CPU a compiled library passes over the tensor once and sums in float64; everywhere else,
    and where it was not compiled, plain torch does it, in float32 or wider.

    Args:
        x: a readable tensor, any shape; a scalar is one channel of one sample.
        channel_dim: which axis holds the channels.

    Raises:
        BadInput: ``x`` has no such axis.
    """
    axis = _axis(x, channel_dim)
    return _compute_native(x, axis) if native.supports(x) else compute_plain(x, axis)


def _axis(x: Tensor, channel_dim: int) -> int:
    """Return the channel axis counted from the front; 0 for a scalar.

    Raises:
        BadInput: the tensor has no such axis.
    """
    if x.ndim == 0:
        return 0
    if not -x.ndim <= channel_dim < x.ndim:
        raise BadInput(f"channel_dim {channel_dim} is outside a tensor of shape {tuple(x.shape)}")
    return channel_dim % x.ndim


def compute_into(table: Tensor, x: Tensor, channel_dim: int) -> None:
    """Write what `compute` returns into a contiguous float64 table on the CPU, shape (C, 11).

    Args:
        table: of shape (C, columns), written to.
        x: a tensor.
        channel_dim: its channel axis.
    """
    axis = _axis(x, channel_dim)
    if native.supports(x):
        _compute_native(x, axis, table)
    else:
        table.copy_(compute_plain(x, axis))


def _compute_native(x: Tensor, axis: int, table: Tensor | None = None) -> Tensor:
    assert native.LIBRARY is not None
    if dense_layout(x, axis) is None:
        x = x.detach().contiguous()
    sizes = dense_layout(x, axis)
    assert sizes is not None
    if table is None:
        table = torch.from_numpy(np.empty((sizes[2], len(COLUMNS))))
    layout, threads = (ctypes.c_int64 * 4)(*sizes), torch.get_num_threads()
    native.LIBRARY.sigprop_channel_statistics(layout, x.data_ptr(), threads, table.data_ptr())
    return table


def dense_layout(x: Tensor, axis: int) -> tuple[int, int, int, int] | None:
    """Return (element type, outer, channels, inner) of a tensor as it lies in memory.

    The axes are taken in the order of the memory: a channels-last image is (type, N·H·W, C, 1).
    None for a tensor that has gaps, which must be copied first.

    Args:
        x: what the library supports.
        axis: which axis holds the channels, counted from the front.
    """
    shape = x.shape
    if not x.is_contiguous():
        order = sorted(range(x.ndim), key=x.stride().__getitem__, reverse=True)
        dense = x.detach().permute(order)
        if not dense.is_contiguous():
            return None
        axis, shape = order.index(axis), dense.shape
    channels = shape[axis] if shape else 1
    inner = math.prod(shape[axis + 1 :])
    return native.TYPES[x.dtype], x.numel() // (channels * inner), channels, inner


def compute_plain(x: Tensor, axis: int) -> Tensor:
    """Return the same numbers by plain torch, on any device; ``axis`` is counted from the front.

    Every channel has a scale of its own, and zeros are counted before values are divided by it.

    Args:
        x: a tensor.
        axis: its channel axis, counted from the front.
    """
    with full_precision(x):
        values, others = _spread(x, axis)
        lowest, highest = values.amin(others), values.amax(others)
        elements = torch.full_like(lowest, values.numel() // lowest.numel())
        if in_safe_range(lowest, highest):
            scale, samples, finite, scaled = torch.ones_like(lowest), elements, None, values
        else:
            finite = values.isfinite()
            values = values.where(finite, 0)
            samples = finite.to(values.dtype).sum(others)
            lowest, highest = values.amin(others), values.amax(others)
            scale = _power_of_two(lowest, highest)
            scaled = values / _along(scale, values, others)
        center = scaled.sum(others) / samples.clamp_min(1)
        nonzero, *powers = _sums(values, scaled, others, center, finite)
        columns = [elements, samples, samples - nonzero, lowest, highest, scale, center]
        return torch.stack([*columns, *powers], dim=1)


def _spread(x: Tensor, axis: int) -> tuple[Tensor, tuple[int, ...]]:
    """Return ``x`` in float32 or wider, and the axes over which a channel spreads."""
    x = x.reshape(1) if x.ndim == 0 else x
    x = x.unsqueeze(-1) if x.ndim == 1 else x
    others = tuple(other for other in range(x.ndim) if other != axis)
    return widened(x), others


def _power_of_two(lowest: Tensor, highest: Tensor) -> Tensor:
    """Return 2^(e-1) for each channel's largest magnitude of m·2^e with m in [0.5, 1).

    It never overflows, and dividing by it is exact.
    """
    peak = torch.maximum(-lowest, highest)
    peak = peak.clamp_min(torch.finfo(peak.dtype).tiny)
    return torch.ldexp(torch.ones_like(peak), peak.frexp().exponent - 1)


def _along(numbers: Tensor, values: Tensor, others: tuple[int, ...]) -> Tensor:
    """Return one number a channel with the axes of the values."""
    return numbers.reshape([1 if axis in others else -1 for axis in range(values.ndim)])


def _sums(
    values: Tensor,
    scaled: Tensor,
    others: tuple[int, ...],
    center: Tensor,
    finite: Tensor | None,
) -> Tensor:
    """Return the count of non-zeros and the sums of four powers about the center, shape (5, C).

    Works through the tensor in parts that stay in the processor's cache with their temporaries,
    which is three times as fast as one pass over all, and needs hardly any memory.
    """
    longest = max(others, key=lambda axis: values.shape[axis])
    stride = max(1, values.shape[longest] * _PART // max(1, values.numel()))
    about = _along(center, values, others)
    masks = finite.split(stride, longest) if finite is not None else itertools.repeat(None)
    total = values.new_zeros(5, len(center))
    parts = (x.split(stride, longest) for x in (values, scaled))
    for raw, part, mask in zip(*parts, masks, strict=False):
        d = part - about
        if mask is not None:
            d = d.where(mask, 0)
        square = d * d
        s1, s2 = d.sum(others), square.sum(others)
        s3 = d.mul_(square).sum(others)  # in place: the temporaries are ours
        s4 = square.mul_(square).sum(others)
        total += torch.stack([raw.sign().abs_().sum(others), s1, s2, s3, s4])
    return total
