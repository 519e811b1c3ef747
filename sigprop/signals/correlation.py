"""How two operands of one addition relate: their uncentered correlation, mergeable."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sigprop.signals import native
from sigprop.signals.pooled import SMALLEST
from sigprop.signals.precision import full_precision, in_safe_range, widened


@dataclass(frozen=True)
class Products:
    """Sums of a², b² and ab over the elements of two tensors; disjoint sets merge by adding."""

    aa: float
    bb: float
    ab: float

    def merge(self, other: Products) -> Products:
        """Return the sums over both sets of elements."""
        return Products(self.aa + other.aa, self.bb + other.bb, self.ab + other.ab)

    @property
    def correlation(self) -> float:
        """E[ab]/sqrt(E[a²]E[b²]); NaN when either operand is 0 throughout, or beyond 1e±145.

        Uncentered, because this is the term that a residual law on the second moment leaves out:
        E[(a+b)²] = E[a²] + E[b²] + 2·correlation·sqrt(E[a²]·E[b²]), exactly.
        """
        return float(correlations(np.array([[self.aa, self.bb, self.ab]]))[0])


def compute_products(a: Tensor, b: Tensor) -> Tensor:
    """Return five device sums for `interpret_products`, shape (5,); any broadcastable shapes.

    Elements where either operand is non-finite are left out. On the CPU a compiled library adds up
    in float64 what lies side by side in memory; plain torch does the rest.

    Args:
        a: a tensor.
        b: a tensor of the same shape.
    """
    if native.LIBRARY is not None and supports_products(a, b):
        sums = torch.ones(5, dtype=torch.float64, device="cpu")
        layout, threads = (
            (ctypes.c_int64 * 2)(native.TYPES[a.dtype], a.numel()),
            torch.get_num_threads(),
        )
        pointers = a.data_ptr(), b.data_ptr()
        native.LIBRARY.sigprop_products(layout, *pointers, threads, sums.data_ptr())
        return sums
    return compute_products_plain(a, b)


def supports_products(a: Tensor, b: Tensor) -> bool:
    """Return whether the library can compute the products of two operands.

    Squares of float64 may leave float64's range; plain torch scales them first.

    Args:
        a: a tensor.
        b: a tensor of the same shape.
    """
    return a.dtype != torch.float64 and native.supports_pair(a, b)


def compute_products_plain(a: Tensor, b: Tensor) -> Tensor:
    """Return the same five sums by plain torch, on any device, in float32 or wider.

    Args:
        a: a tensor.
        b: a tensor of the same shape.
    """
    with full_precision(a):
        a, b = torch.broadcast_tensors(widened(a), widened(b))
        size_a, size_b = torch.ones((), device=a.device), torch.ones((), device=a.device)
        if not (in_safe_range(a.amin(), a.amax()) and in_safe_range(b.amin(), b.amax())):
            finite = a.isfinite() & b.isfinite()
            a, b = a.where(finite, 0), b.where(finite, 0)
            tiny = torch.finfo(a.dtype).tiny
            size_a, size_b = a.abs().amax().clamp_min(tiny), b.abs().amax().clamp_min(tiny)
            a, b = a / size_a, b / size_b
        norm = torch.linalg.vector_norm
        return torch.stack([norm(a) ** 2, norm(b) ** 2, (a * b).sum(), size_a, size_b])


def decode_products(numbers: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return (Σa², Σb², Σab) behind rows of fetched `compute_products`, shape (P, 5) to (P, 3).

    Disjoint sets of elements merge by adding.
    """
    aa, bb, ab, size_a, size_b = np.asarray(numbers, dtype=np.float64).reshape(-1, 5).T
    with np.errstate(over="ignore"):
        return np.stack([aa * size_a**2, bb * size_b**2, ab * size_a * size_b], axis=1)


def correlations(products: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return `Products.correlation` of each row of (Σa², Σb², Σab), shape (P,).

    Example:
        >>> correlations(np.array([[2.0, 2.0, 1.0], [1.0, 0.0, 0.0]])).round(6).tolist()
        [0.5, nan]
    """
    aa, bb, ab = products.T
    known = (np.minimum(aa, bb) > SMALLEST) & (np.maximum(aa, bb) < np.inf)
    scale = np.sqrt(np.where(known, aa, np.nan)) * np.sqrt(np.where(known, bb, np.nan))
    return np.asarray(ab / scale)


def interpret_products(numbers: npt.ArrayLike) -> Products:
    """Return the sums behind fetched `compute_products`, in float64.

    Example:
        >>> a, b = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0])
        >>> round(interpret_products(compute_products(a, b)).correlation, 6)
        0.707107
    """
    return Products(*map(float, decode_products(numbers)[0]))
