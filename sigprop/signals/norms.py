"""Norms of many weights, gradients and updates at once: pairs of CPU tensors in, a table out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sigprop.signals import native
from sigprop.signals.ratios import UNIT_FLOOR

Pair = tuple[Tensor, Tensor]
Array = npt.NDArray[np.float64]


def compute_norms(pairs: Sequence[Pair], copies: Mapping[int, Tensor] | None = None) -> Array:
    """Return (‖W‖², ‖G‖², max over units of ‖G_i‖/max(‖W_i‖, 1e-3)) of each weight and gradient.

    Units are on axis 0; a tensor of at most one axis longer than 1 is one unit, as in
    `ratios.unit_norms`. Sums are in float64, which float32 values of 1e±38 stay inside. One call of
    the compiled library computes all pairs that lie densely in CPU memory, in one type and order.

    Args:
        pairs: weights and gradients of like shapes.
        copies: tensors that weights are copied into on the way, by index; laid out like them.

    Returns:
        One row a pair, shape (P, 3).

    Example:
        >>> w, g = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 0.001]])
        >>> compute_norms([(w, g)]).round(6).tolist()
        [[25.0, 25.000001, 1.0]]
    """

    def compiled(count: int, layouts: int, out: int) -> None:
        """Write sums of squares by the compiled library."""
        assert native.LIBRARY is not None
        native.LIBRARY.sigprop_norms(count, layouts, UNIT_FLOOR, torch.get_num_threads(), out)

    return _table(pairs, compiled, norms_plain, copies or {})


def compute_updates(pairs: Sequence[Pair]) -> Array:
    """Return (‖a‖², ‖b‖², ‖b - a‖²) of each tensor before and after, in float64, shape (P, 3).

    `angles` gives the angle between them.

    Example:
        >>> compute_updates([(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0]))]).tolist()
        [[1.0, 5.0, 4.0]]
    """

    def compiled(count: int, layouts: int, out: int) -> None:
        """Write products of weights and updates by the compiled library."""
        assert native.LIBRARY is not None
        native.LIBRARY.sigprop_updates(count, layouts, torch.get_num_threads(), out)

    return _table(pairs, compiled, updates_plain, {})


def angles(updates: Array) -> Array:
    """Return the angles in radians behind rows of `compute_updates`; NaN where either norm is 0.

    For unit vectors u and v the angle is 2·asin(‖u - v‖/2), and
    ‖u - v‖² = (‖b - a‖² - (‖b‖ - ‖a‖)²)/(‖a‖‖b‖): small angles do not cancel as in arccos.

    Example:
        >>> angles(np.array([[1.0, 4.0, 5.0], [0.0, 1.0, 1.0]])).round(6).tolist()
        [1.570796, nan]
    """
    a, b, moved = np.sqrt(updates).T
    with np.errstate(invalid="ignore", divide="ignore"):
        # (x - y)(x + y) and not x² - y², which cancels where a step is mostly a change of length.
        chord = (moved - (b - a)) * (moved + (b - a)) / (a * b)
        angle = 2 * np.arcsin(np.minimum(np.sqrt(np.maximum(chord, 0)) / 2, 1))
    return np.where(a * b > 0, angle, np.nan)


def norms_plain(weight: Tensor, grad: Tensor) -> list[float]:
    """Return one row of `compute_norms` by plain torch, on any device; it waits for it.

    Args:
        weight: a parameter.
        grad: its gradient.
    """
    units = weight.shape[0] if weight.squeeze().ndim > 1 else 1
    w, g = (_exact(x).reshape(units, -1).square().sum(1) for x in (weight, grad))
    worst = (g.sqrt() / w.sqrt().clamp_min(UNIT_FLOOR)).amax()
    return [float(w.sum()), float(g.sum()), float(worst)]


def updates_plain(before: Tensor, after: Tensor) -> list[float]:
    """Return one row of `compute_updates` by plain torch, on any device; it waits for it.

    Args:
        before: a parameter before the step.
        after: the same parameter after it.
    """
    a, b = _exact(before), _exact(after)
    return [float(x.square().sum()) for x in (a, b, b - a)]


def _exact(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64)


def _table(
    pairs: Sequence[Pair],
    compiled: Callable[[int, int, int], None],
    plain: Callable[[Tensor, Tensor], list[float]],
    copies: Mapping[int, Tensor],
) -> Array:
    """Return a row per pair: those that the library supports in one call, the others one by one."""
    table = np.empty((len(pairs), 3))
    rows, layouts = [], []
    for row, (a, b) in enumerate(pairs):
        copy = copies.get(row)
        if native.supports_pair(a, b):
            units = a.shape[0] if a.ndim > 1 and a.squeeze().ndim > 1 else 1
            both = a.data_ptr(), b.data_ptr(), native.TYPES[a.dtype]
            into = 0 if copy is None else copy.data_ptr()
            layouts.append((*both, units, a.numel() // units, into))
            rows.append(row)
        else:
            table[row] = plain(a, b)
            if copy is not None:
                copy.copy_(a)
    if rows:
        out, memory = np.empty((len(rows), 3)), np.array(layouts, dtype=np.int64)
        compiled(len(rows), memory.ctypes.data, out.ctypes.data)
        table[rows] = out
    return table
