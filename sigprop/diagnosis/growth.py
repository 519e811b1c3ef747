"""How a quantity changes over blocks: geometrically, along a line, or neither. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Shape = Literal["geometric", "linear", "uneven"]

#: Share of the variance of log values over blocks that a curve has to explain to describe them.
EXPLAINED = 0.9
#: The criterion in words, for the page.
CRITERION = (
    "growth is called linear where a straight line over the blocks leaves a smaller mean squared "
    f"relative error than a geometric curve, geometric otherwise, and uneven where both explain "
    f"less than {EXPLAINED:.0%} of the variance of the logarithm over blocks or where fewer than "
    "three blocks are known"
)


@dataclass(frozen=True)
class Line:
    """A straight line: ``start + step * block``."""

    start: float
    step: float


def slope(blocks: pd.Series[int], values: pd.Series[float]) -> float:
    """Return the least-squares slope of log ``values`` over ``blocks``; NaN for fewer than two.

    Values that are not finite and positive have no logarithm and are left out.

    Args:
        blocks: positions.
        values: one value per position.

    Example:
        >>> round(slope(pd.Series([0, 1, 2]), pd.Series([1.0, 2.0, 4.0])), 6)
        0.693147
    """
    x, y = _placed(blocks, values)
    if len(x) < 2:
        return float("nan")
    logs, centered = np.log(y), x - x.mean()
    return float((centered * (logs - logs.mean())).sum() / (centered**2).sum())


def line(blocks: pd.Series[int], values: pd.Series[float]) -> Line:
    """Return the straight line with the smallest squared *relative* error.

    It minimizes Σ((start + step·k − y_k) / y_k)²: a line is judged by the same error as a
    geometric curve, whose logarithm is fitted. Values that are not finite and positive are left
    out; of fewer than two there is no line (NaN).

    Args:
        blocks: positions.
        values: one value per position.

    Example:
        >>> round(line(pd.Series([0, 1, 2]), pd.Series([1.0, 2.5, 4.0])).step, 9)
        1.5
    """
    x, y = _placed(blocks, values)
    if len(x) < 2:
        return Line(float("nan"), float("nan"))
    scale = float(y.max())
    with np.errstate(over="ignore"):
        weights = np.stack([scale / y, x * scale / y], axis=1)
    if not np.isfinite(weights).all():  # values from one end of the float range to the other
        return Line(float("nan"), float("nan"))
    start, step = np.linalg.lstsq(weights, np.ones(len(x)), rcond=None)[0]
    return Line(float(start) * scale, float(step) * scale)


def shape(blocks: pd.Series[int], values: pd.Series[float]) -> Shape:
    """Return which curve describes ``values`` over ``blocks``; see `CRITERION`.

    Args:
        blocks: positions.
        values: one value per position.

    Example:
        >>> blocks = pd.Series(range(8))
        >>> there_and_back = 2.0 ** (4 - (blocks - 4).abs())
        >>> shape(blocks, 2.0**blocks), shape(blocks, 1.0 + blocks), shape(blocks, there_and_back)
        ('geometric', 'linear', 'uneven')
    """
    x, y = _placed(blocks, values)
    if len(x) < 3:
        return "uneven"
    logs = np.log(y)
    rate = slope(blocks, values)
    curve = logs.mean() + rate * (x - x.mean())
    straight = line(blocks, values)
    on_line = straight.start + straight.step * x
    errors = {"geometric": float(((logs - curve) ** 2).mean())}
    if (on_line > 0).all():
        errors["linear"] = float(((logs - np.log(on_line)) ** 2).mean())
    variance, best = float(logs.var()), min(errors, key=lambda name: errors[name])
    if errors[best] > (1 - EXPLAINED) * variance and variance > 1e-20:
        return "uneven"
    return "linear" if best == "linear" else "geometric"


def _placed(
    blocks: pd.Series[int], values: pd.Series[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(blocks, dtype=float), np.asarray(values, dtype=float)
    kept = np.isfinite(y) & (y > 0)
    return x[kept], y[kept]
