"""Confidence intervals of mean ratios, and the three verdicts of an equivalence test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

HOLDS, VIOLATED, UNDECIDED = "holds", "violated", "undecided"

#: More draws than this are not worth suggesting: the deviation sits on the edge of the tolerance.
_MOST_DRAWS = 10_000


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
    standard error follows from the delta method, the quantile from Student's t.

    Args:
        ratios: one ratio per draw.
        level: confidence.

    Example:
        >>> interval = log_mean_interval([0.9, 1.1, 1.0, 1.0], level=0.95)
        >>> round(interval.estimate, 6), round(interval.high, 3)
        (0.0, 0.13)
    """
    r = np.asarray(ratios, dtype=np.float64)
    mean = r.mean()
    error = float(r.std(ddof=1) / (mean * math.sqrt(len(r))))
    estimate, half = math.log(mean), quantile(level, len(r)) * error
    return Interval(estimate, error, estimate - half, estimate + half, len(r))


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


def more_draws(interval: Interval, target: float, tolerance: float, level: float) -> int:
    """Return about how many further draws would decide; 10,000 stands for "that or more".

    The estimate and the spread are taken as they are; the interval must then fit between the
    estimate and the nearest edge of the tolerance.

    Args:
        interval: of a log ratio.
        target: the log ratio that the law predicts.
        tolerance: relative deviation that still holds.
        level: confidence.
    """
    gap = abs(abs(interval.estimate - target) - math.log1p(tolerance))
    spread = interval.error * math.sqrt(interval.draws)
    draws = interval.draws
    while draws < _MOST_DRAWS and quantile(level, draws) * spread / math.sqrt(draws) > gap:
        draws = math.ceil(draws * 1.1)
    return min(draws, _MOST_DRAWS) - interval.draws
