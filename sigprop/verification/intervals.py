"""Confidence intervals of mean ratios, and the three verdicts of an equivalence test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import special

HOLDS, VIOLATED, UNDECIDED = "holds", "violated", "undecided"

#: More draws than this are not worth suggesting: the deviation sits on the edge of the tolerance.
MOST_DRAWS = 10_000

#: The upper half of an interval is this much wider than Student's t makes it. A few draws of a
#: positive ratio miss what is rare and large: their mean is too low, and their spread with it. For
#: weights from Student's t with 3 degrees of freedom, whose squares have no variance, the quantile
#: of (estimate - truth)/error is 1.3 to 1.5 times that of Gaussian weights, from 3 draws to 128,
#: at 2 % and at 0.4 %; on the other side it is smaller. Networks do not say which of them they are.
UPPER = 1.4

#: Confidence with which deviation and spread are taken when further draws are counted.
_RANGE = 0.8


@dataclass(frozen=True)
class Interval:
    """A confidence interval of the logarithm of a mean ratio.

    Attributes:
        estimate: log of the mean.
        error: its standard error.
        low: lower end.
        high: upper end.
        draws: how many independent draws it rests on.
    """

    estimate: float
    error: float
    low: float
    high: float
    draws: int


@cache
def quantile(level: float, draws: int) -> float:
    """Return Student's t for a two-sided interval of ``level`` over ``draws`` draws.

    Args:
        level: confidence of a two-sided interval, such as 0.95.
        draws: independent draws, at least 2.

    Example:
        >>> round(quantile(0.95, 16), 3)
        2.131
    """
    return float(special.stdtrit(draws - 1, (1 + level) / 2))


def log_mean_interval(ratios: npt.ArrayLike, level: float) -> Interval:
    """Return the interval of log E[ratio] over independent draws, shape (draws,).

    A law on a variance is about the expectation over weights, so it is the mean ratio that must
    be 1, and not the mean of its logarithm, which lies half its variance lower (Jensen). The
    standard error follows from the delta method, the quantile from Student's t; the upper half is
    `UPPER` times as wide.

    Args:
        ratios: one ratio per draw.
        level: confidence.

    Example:
        >>> interval = log_mean_interval([0.9, 1.1, 1.0, 1.0], level=0.95)
        >>> round(interval.estimate, 6), round(interval.high, 3)
        (0.0, 0.182)
    """
    r = np.asarray(ratios, dtype=np.float64)
    mean = r.mean()
    error = float(r.std(ddof=1) / (mean * math.sqrt(len(r))))
    estimate, half = math.log(mean), quantile(level, len(r)) * error
    return Interval(estimate, error, estimate - half, estimate + UPPER * half, len(r))


def judge(interval: Interval, target: float, tolerance: float) -> str:
    """Return the verdict on log E[ratio] = ``target`` within log(1 + tolerance).

    Holds: the whole interval lies inside the tolerance, an equivalence test; violated: it lies
    outside; undecided: it crosses an edge, and more draws are needed.

    Args:
        interval: of a log ratio.
        target: the log ratio that the law predicts.
        tolerance: relative deviation that still holds.

    Example:
        >>> judge(log_mean_interval([1.2, 1.21, 1.19], 0.95), target=0.0, tolerance=0.05)
        'violated'
    """
    edge = math.log1p(tolerance)
    low, high = interval.low - target, interval.high - target
    if -edge <= low and high <= edge:
        return HOLDS
    return VIOLATED if low > edge or high < -edge else UNDECIDED


def more_draws(
    interval: Interval, target: float, tolerance: float, level: float
) -> tuple[int, int]:
    """Return between how many further draws and how many would decide.

    The interval must fit between the true deviation and the edges of the tolerance. Neither
    the deviation nor the spread is known: each is taken at both ends of its own 80 % interval
    (Student's t and chi-square), so that the truth lies between the two numbers.

    Args:
        interval: of a log ratio, over at least 2 draws.
        target: the log ratio that the law predicts.
        tolerance: relative deviation that still holds.
        level: confidence at which is judged.

    Returns:
        The smaller number, at least 1, and the larger one; `MOST_DRAWS` stands for "or more".

    Example:
        >>> interval = log_mean_interval([0.9, 1.1, 1.0, 1.0], level=0.95)
        >>> more_draws(interval, target=0.0, tolerance=0.05, level=0.95)
        (6, 10000)
    """
    n, edge = interval.draws, math.log1p(tolerance)
    spread = interval.error * math.sqrt(n)
    wide, narrow = (
        spread * math.sqrt((n - 1) / special.chdtri(n - 1, p))
        for p in ((1 + _RANGE) / 2, (1 - _RANGE) / 2)
    )
    half = quantile(_RANGE, n) * interval.error
    low, high = interval.estimate - target - half, interval.estimate - target + half
    ends = [_allowed(low, edge), _allowed(high, edge)]
    best = edge * (1 - UPPER) / (1 + UPPER)  # as far from the upper edge as from the lower one
    farthest = max([*ends, _allowed(best, edge)] if low < best < high else ends)
    on_edge = any(low < at < high for at in (-edge, edge))
    nearest = 0.0 if on_edge else min(ends)
    return _needed(farthest, narrow, level, n), _needed(nearest, wide, level, n)


def _allowed(deviation: float, edge: float) -> float:
    """Return how wide the lower half of an interval around a deviation may be to be decided."""
    if deviation > edge:
        return deviation - edge
    if deviation < -edge:
        return (-edge - deviation) / UPPER
    return min((edge - deviation) / UPPER, edge + deviation)


def _needed(gap: float, spread: float, level: float, there: int) -> int:
    """Return how many more draws make the lower half of an interval no wider than ``gap``."""

    def fits(draws: int) -> bool:
        return quantile(level, draws) * spread / math.sqrt(draws) <= gap

    low, high = 1, 2
    while high < MOST_DRAWS and not fits(high):
        low, high = high, min(2 * high, MOST_DRAWS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return MOST_DRAWS if high >= MOST_DRAWS else max(1, high - there)
