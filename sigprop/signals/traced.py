"""Channel statistics inside a compiled graph: the same sums, without a look at any value.

Everything here is traced along with the model, so that a compiler fuses it into the model's own
kernels. Nothing depends on a number: there is one graph for every input.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sigprop.signals import native
from sigprop.signals.channel_statistics import compute, compute_into
from sigprop.signals.columns import COLUMNS
from sigprop.signals.correlation import Products, compute_products, interpret_products
from sigprop.signals.precision import widened

#: How many numbers a channel, and a pair of operands, have.
ROWS = len(COLUMNS)
PRODUCTS = 6

#: Samples from which a center and a scale are guessed; the sums themselves are exact about any.
_FEW = 4


#: Integers of a type's width, and the bits of its exponent.
_EXPONENT = {
    torch.float32: (torch.int32, 0x7F800000),
    torch.float64: (torch.int64, 0x7FF0000000000000),
}


def compute_traced(x: Tensor, channel_dim: int) -> Tensor:
    """Return the channel statistics of ``x``, transposed: shape (len(COLUMNS), C).

    The center is the mean of a few samples, and the scale a power of two near their largest
    magnitude, so that one pass over all values suffices: a center within k standard deviations of
    the mean costs k² roundings of the variance. What is 0 in all these samples is summed at scale
    1, which under- or overflows where the rest is beyond 1e±9.

    Args:
        x: a tensor.
        channel_dim: its channel axis.
    """
    x = x.detach().reshape(-1, 1) if x.ndim < 2 else x.detach()
    others = [axis for axis in range(x.ndim) if axis != channel_dim % x.ndim]
    values = widened(x)
    center, scale = _guess(values.narrow(others[0], 0, min(_FEW, x.shape[others[0]])), others)
    finite = values.abs() < torch.inf
    count = finite.to(values.dtype).sum(others)
    known = values.where(finite, center)
    d = (known - center) * (1 / scale)
    square = d * d
    return torch.stack(
        [
            torch.full_like(count, x.numel() // x.shape[channel_dim]),
            count,
            (values == 0).to(values.dtype).sum(others),
            known.amin(others),
            known.amax(others),
            scale.reshape(()).expand_as(count),
            (center / scale).reshape(-1),
            d.sum(others),
            square.sum(others),
            (square * d).sum(others),
            (square * square).sum(others),
        ]
    )


def _guess(few: Tensor, others: list[int]) -> tuple[Tensor, Tensor]:
    """Return a center per channel and one scale for all, both with the axes of ``few``."""
    finite = few.abs() < torch.inf
    few = few.where(finite, 0.0)
    scale = _power_of_two(few.abs().amax())
    # Divided first: the sum of a few values at 1e38 would overflow.
    few = few / scale
    count = finite.to(few.dtype).sum(others, keepdim=True)
    return few.sum(others, keepdim=True) / count.clamp_min(1) * scale, scale


def _power_of_two(size: Tensor) -> Tensor:
    """Return ``size`` with its mantissa cut off, and 1 for 0: to divide by it is exact.

    A center in units of it keeps every bit, so that two centers can be subtracted.
    """
    whole, exponent = _EXPONENT[size.dtype]
    scale = (size.view(whole) & exponent).view(size.dtype)
    return torch.where(scale > 0, scale, 1.0)


def add_sums(old: Tensor, new: Tensor) -> Tensor:
    """Return the sums over two sets of samples, about the old center where there is one.

    Sums move to another center by the binomial formula: Σ(x-a)² = Σ(x-b)² + 2dΣ(x-b) + nd² with
    d = b - a, and so on.

    Args:
        old: sums so far.
        new: sums of further samples.
    """
    fresh = old[0] == 0
    unit = new[5].where(fresh, old[5])
    ratio = new[5] / unit
    center = new[6] * ratio
    about = center.where(fresh, old[6])
    d, n = center - about, new[1]
    s1, s2, s3, s4 = (new[6 + p] * ratio**p for p in range(1, 5))
    powers = [
        s1 + n * d,
        s2 + d * (2 * s1 + n * d),
        s3 + d * (3 * s2 + d * (3 * s1 + n * d)),
        s4 + d * (4 * s3 + d * (6 * s2 + d * (4 * s1 + n * d))),
    ]
    lowest = new[3].where(fresh, torch.minimum(old[3], new[3]))
    highest = new[4].where(fresh, torch.maximum(old[4], new[4]))
    kept = torch.stack([lowest, highest, unit, about])
    return torch.cat([old[:3] + new[:3], kept, old[7:] + torch.stack(powers)])


def compute_products_traced(a: Tensor, b: Tensor) -> Tensor:
    """Return what `compute_products` does, and a count of 1 in front; shape (PRODUCTS,).

    Args:
        a: a tensor.
        b: a tensor of the same shape.
    """
    a, b = torch.broadcast_tensors(widened(a), widened(b))
    sizes = [_size(v) for v in (a, b)]
    finite = (a.abs() < torch.inf) & (b.abs() < torch.inf)
    p, q = (v.where(finite, 0.0) * (1 / size) for v, size in zip((a, b), sizes, strict=True))
    one = torch.ones((), dtype=a.dtype, device=a.device)
    return torch.stack([one, (p * p).sum(), (q * q).sum(), (p * q).sum(), *sizes])


def add_products(old: Tensor, new: Tensor) -> Tensor:
    """Return the products over two sets of elements, in the old units where there are any.

    Args:
        old: sums so far.
        new: sums of further samples.
    """
    fresh = old[0] == 0
    unit_a, unit_b = new[4].where(fresh, old[4]), new[5].where(fresh, old[5])
    a, b = new[4] / unit_a, new[5] / unit_b
    sums = (old[1] + new[1] * a * a, old[2] + new[2] * b * b, old[3] + new[3] * a * b)
    return torch.stack([old[0] + 1, *sums, unit_a, unit_b])


def interpret_counted_products(numbers: npt.ArrayLike) -> Products:
    """Return the sums behind fetched `compute_products_traced`."""
    return interpret_products(np.asarray(numbers)[1:])


def _size(x: Tensor) -> Tensor:
    few = x.narrow(0, 0, min(_FEW, x.shape[0])) if x.ndim else x
    size = few.where(few.abs() < torch.inf, 0.0).abs().amax()
    return torch.where(size > 0, size, 1.0)


def runs_native(x: Tensor) -> bool:
    """Return whether the compiled library will work on ``x`` when the graph runs.

    On the CPU one pass of it costs less than what a compiler makes of these sums, and far less time
    to compile: eight reductions a tap.
    """
    return native.LIBRARY is not None and x.is_cpu and x.dtype in native.TYPES


def _add_statistics(sums: Tensor, x: Tensor, channel_dim: int) -> None:
    with torch.no_grad():
        sums.data.copy_(add_sums(sums, compute_traced(x, channel_dim)))


def _add_products(sums: Tensor, a: Tensor, b: Tensor) -> None:
    with torch.no_grad():
        sums.data.copy_(add_products(sums, compute_products_traced(a, b)))


def _add_statistics_native(table: Tensor, x: Tensor, channel_dim: int) -> None:
    if table[0, 0].item():
        table.data.copy_(add_sums(table.T, compute(x, channel_dim).T).T)
    else:
        compute_into(table, x, channel_dim)


def _add_products_native(sums: Tensor, a: Tensor, b: Tensor) -> None:
    new = torch.cat([torch.ones(1, dtype=sums.dtype), compute_products(a, b).to(sums.dtype)])
    sums.data.copy_(add_products(sums, new) if sums[0] else new)


def _nothing(*_: object) -> None:
    """Stand in for an operator while tensors have shapes and no numbers."""


# Operators, so that tracing a tap is one step of a slow interpreter and not a hundred. Two are made
# of others ("composite"): what compiles a graph sees those, and fuses them. The other two are calls
# of the library, which takes tensors however they lie in memory. All write through `data`, past the
# version counter: a backward pass still to come may have saved the sums, and finds them added to.
_LIBRARY = torch.library.Library("sigprop", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)
_STATISTICS, _PRODUCTS = (
    "(Tensor(a!) sums, Tensor x, int channel_dim) -> ()",
    "(Tensor(a!) sums, Tensor a, Tensor b) -> ()",
)
_LIBRARY.define(f"add_statistics{_STATISTICS}")
_LIBRARY.define(f"add_products{_PRODUCTS}")
_LIBRARY.impl("add_statistics", _add_statistics, "CompositeImplicitAutograd")
_LIBRARY.impl("add_products", _add_products, "CompositeImplicitAutograd")
_LIBRARY.define(f"add_statistics_native{_STATISTICS}", tags=_TAGS)
_LIBRARY.define(f"add_products_native{_PRODUCTS}", tags=_TAGS)
for _key, _one, _two in (
    ("CPU", _add_statistics_native, _add_products_native),
    ("Meta", _nothing, _nothing),
):
    _LIBRARY.impl("add_statistics_native", _one, _key)
    _LIBRARY.impl("add_products_native", _two, _key)
