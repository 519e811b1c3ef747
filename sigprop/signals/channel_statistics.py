"""One tensor read into per-channel sums on its own device; nothing waits for the result."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from sigprop.errors import BadInput
from sigprop.signals import native
from sigprop.signals.precision import full_precision, in_safe_range, widened

#: The columns of a reading, one row a channel.
COLUMNS = (
    "elements",
    "finite",
    "zeros",
    "lowest",
    "highest",
    "scale",
    "center",
    "s1",
    "s2",
    "s3",
    "s4",
)

#: Elements per part: with its two temporaries 1.5 MB in float32, inside a core's cache.
_PART = 1 << 17


def readable(x: Tensor) -> bool:
    """Return whether ``x`` can be read: real floating point, strided, with data and elements."""
    return x.is_floating_point() and x.layout == torch.strided and not x.is_meta and x.numel() > 0


def read(x: Tensor, channel_dim: int = 1) -> Tensor:
    """Return the sums from which every signal number follows, shape (C, len(COLUMNS)).

    Values are shifted by a value near their channel's mean before they are raised to powers, and
    divided by a power of two near their spread or magnitude where that is far from 1: nothing
    cancels when mean ≫ std, nothing over- or underflows at 1e±30. Non-finite values are counted
    and left out. An accelerator is never waited for.

    On the CPU a compiled library reads the tensor once, into float64; everywhere else, and where it
    was not compiled, plain torch does it, into float32 or wider.

    Args:
        x: a readable tensor, any shape; a scalar is one channel of one sample.
        channel_dim: which axis holds the channels.

    Raises:
        BadInput: ``x`` has no such axis.
    """
    axis = _axis(x, channel_dim)
    return _read_compiled(x, axis) if native.supports(x) else read_plain(x, axis)


def _axis(x: Tensor, channel_dim: int) -> int:
    """Return the channel axis counted from the front; 0 for a scalar."""
    if x.ndim == 0:
        return 0
    if not -x.ndim <= channel_dim < x.ndim:
        raise BadInput(f"channel_dim {channel_dim} is outside a tensor of shape {tuple(x.shape)}")
    return channel_dim % x.ndim


def read_into(table: Tensor, x: Tensor, channel_dim: int) -> None:
    """Write what `read` returns into a contiguous float64 table on the CPU, shape (C, 11)."""
    axis = _axis(x, channel_dim)
    if native.supports(x):
        _read_compiled(x, axis, table)
    else:
        table.copy_(read_plain(x, axis))


def _read_compiled(x: Tensor, axis: int, table: Tensor | None = None) -> Tensor:
    assert native.LIBRARY is not None
    if not x.is_contiguous():
        x, axis = _as_it_lies(x.detach(), axis)
    shape = x.shape
    channels = shape[axis] if shape else 1
    inner = math.prod(shape[axis + 1 :])
    outer = x.numel() // (channels * inner)
    if table is None:
        table = torch.from_numpy(np.empty((channels, len(COLUMNS))))
    where = (x.data_ptr(), native.TYPES[x.dtype], outer, channels, inner)
    native.LIBRARY.sigprop_read(*where, torch.get_num_threads(), table.data_ptr())
    return table


def _as_it_lies(x: Tensor, axis: int) -> tuple[Tensor, int]:
    """Return ``x`` with its axes in the order of its memory, copied only if it has gaps."""
    order = sorted(range(x.ndim), key=x.stride().__getitem__, reverse=True)
    dense = x.permute(order)
    return (dense, order.index(axis)) if dense.is_contiguous() else (x.contiguous(), axis)


def read_plain(x: Tensor, axis: int) -> Tensor:
    """Return the same numbers by plain torch, on any device; ``axis`` is counted from the front."""
    with full_precision(x):
        values, others = _spread(x, axis)
        lowest, highest = values.amin(others), values.amax(others)
        elements = torch.full_like(lowest, values.numel() // lowest.numel())
        if in_safe_range(lowest, highest):
            scale, samples, finite = torch.ones_like(lowest), elements, None
        else:
            finite = values.isfinite()
            values = values.where(finite, 0)
            samples = finite.to(values.dtype).sum(others)
            lowest, highest = values.amin(others), values.amax(others)
            scale = _power_of_two(lowest, highest).expand_as(lowest)
            values = values / scale[0]
        center = values.sum(others) / samples.clamp_min(1)
        nonzero, *powers = _sums(values, others, center, finite)
        columns = [elements, samples, samples - nonzero, lowest, highest, scale, center]
        return torch.stack([*columns, *powers], dim=1)


def _spread(x: Tensor, axis: int) -> tuple[Tensor, tuple[int, ...]]:
    """Return ``x`` in float32 or wider, and the axes over which a channel spreads."""
    x = x.reshape(1) if x.ndim == 0 else x
    x = x.unsqueeze(-1) if x.ndim == 1 else x
    others = tuple(other for other in range(x.ndim) if other != axis)
    return widened(x), others


def _power_of_two(lowest: Tensor, highest: Tensor) -> Tensor:
    """Return 2^(e-1), shape (1,), for a largest magnitude of m·2^e with m in [0.5, 1).

    It never overflows, and dividing by it is exact.
    """
    peak = torch.maximum(-lowest, highest).amax(0, keepdim=True)
    peak = peak.clamp_min(torch.finfo(peak.dtype).tiny)
    return torch.ldexp(torch.ones_like(peak), peak.frexp().exponent - 1)


def _sums(values: Tensor, others: tuple[int, ...], center: Tensor, finite: Tensor | None) -> Tensor:
    """Return the count of non-zeros and the sums of four powers about the center, shape (5, C).

    Works through the tensor in parts that stay in the processor's cache with their temporaries,
    which is three times as fast as one pass over all, and needs no memory to speak of.
    """
    longest = max(others, key=lambda axis: values.shape[axis])
    stride = max(1, values.shape[longest] * _PART // max(1, values.numel()))
    about = center.reshape([1 if axis in others else -1 for axis in range(values.ndim)])
    masks = finite.split(stride, longest) if finite is not None else itertools.repeat(None)
    total = values.new_zeros(5, len(center))
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
