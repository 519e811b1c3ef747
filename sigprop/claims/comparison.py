"""What a claim comes down to: a predicted number, a measured one, and a verdict on the two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sigprop.verification.intervals import HOLDS, UNDECIDED, VIOLATED, log_mean_interval, quantile

#: Confidence of the interval that a verdict rests on.
LEVEL = 0.95


@dataclass(frozen=True)
class Comparison:
    """A prediction, its measurement, and how far apart the two may be.

    Attributes:
        what: the number, in words.
        predicted: from theory; of an inequality, its bound.
        measured: the mean over draws.
        error: its standard error; 0 for what is not random.
        draws: independent draws that it rests on; 0 for what is not random.
        tolerance: the absolute deviation that still holds; missing for an inequality.
        reason: why that much.
        relation: how the measured number relates to the predicted one: ``"="``, ``"≥"``, ``"≤"``.
        at: where on a curve, when several comparisons make one (depth, batch size); else missing.
        printed: what a source document prints instead, when it is wrong; else missing.
        verdict_elsewhere: a verdict reached elsewhere (by `sigprop.verify`), which then stands.
    """

    what: str
    predicted: float
    measured: float
    error: float = 0.0
    draws: int = 0
    tolerance: float = math.nan
    reason: str = ""
    relation: str = "="
    at: float = math.nan
    printed: float = math.nan
    verdict_elsewhere: str = ""

    @property
    def half_width(self) -> float:
        """Half of the confidence interval (Student's t); 0 for what is not random."""
        if self.draws < 2 or not self.error > 0:
            return 0.0
        return quantile(LEVEL, self.draws) * self.error

    @property
    def verdict(self) -> str:
        """Holds: the interval lies inside what is allowed; violated: outside; else undecided.

        Example:
            >>> Comparison("growth", 2.0, 2.01, error=0.01, draws=9, tolerance=0.05).verdict
            'holds'
        """
        if self.verdict_elsewhere:
            return self.verdict_elsewhere
        if math.isnan(self.measured):
            return VIOLATED
        below, above = self._allowed
        low, high = self.measured - self.half_width, self.measured + self.half_width
        if below <= low and high <= above:
            return HOLDS
        return VIOLATED if high < below or low > above else UNDECIDED

    @property
    def _allowed(self) -> tuple[float, float]:
        if self.relation == "=":
            return self.predicted - self.tolerance, self.predicted + self.tolerance
        return (self.predicted, math.inf) if self.relation == "≥" else (-math.inf, self.predicted)

    @property
    def tolerance_used(self) -> float:
        """How much of what is allowed is used: -1..1 holds; 0 for an inequality met by far.

        Example:
            >>> Comparison("growth", 2.0, 2.01, tolerance=0.05).tolerance_used.__round__(6)
            0.2
        """
        if math.isnan(self.measured):
            return math.inf
        if self.relation == "=":
            return _share(self.measured - self.predicted, self.tolerance)
        used = (self.predicted, self.measured)
        return _share(*used) if self.relation == "≥" else _share(*used[::-1])


def _share(part: float, whole: float) -> float:
    if math.isinf(whole):
        return 0.0
    if whole == 0:
        return 0.0 if part == 0 else math.copysign(math.inf, part)
    return part / whole


def close(
    what: str,
    predicted: float,
    draws: npt.ArrayLike,
    reason: str,
    *,
    share: float = 0.0,
    by: float = 0.0,
    errors: float = 0.0,
    at: float = math.nan,
    printed: float = math.nan,
) -> Comparison:
    """Return a comparison that the mean over draws equals a prediction.

    Args:
        what: the number, in words.
        predicted: what it should be.
        draws: one value per independent draw, or a single number that is not random.
        reason: why the tolerance is what it is.
        share: tolerance as a share of the prediction.
        by: absolute tolerance.
        errors: tolerance in measured standard errors, of which the verdict's own 95 % interval
            takes about 2; the three add up.
        at: where on a curve.
        printed: what a source document prints instead.

    Returns:
        A comparison of the mean over draws.

    Example:
        >>> close("growth", 2.0, [1.98, 2.02, 2.0], "3 draws", share=0.1).verdict
        'holds'
    """
    measured, error, count = estimate(draws)
    tolerance = abs(predicted) * share + by + errors * error
    return Comparison(
        what, predicted, measured, error, count, tolerance, reason, at=at, printed=printed
    )


def mean_ratio(
    what: str,
    predicted: float,
    ratios: npt.ArrayLike,
    reason: str,
    *,
    by: float = 0.0,
    errors: float = 0.0,
    per: float = 1.0,
    at: float = math.nan,
) -> Comparison:
    """Return a comparison of log2 E[ratio] / per, which has no bias as a mean of logs has.

    Args:
        what: the number, in words.
        predicted: log2 of the mean ratio, over ``per``.
        ratios: one ratio per independent draw.
        reason: why the tolerance is what it is.
        by: absolute tolerance.
        errors: tolerance in measured standard errors; the two add up.
        per: number of layers that the ratio spans.
        at: where on a curve.

    Returns:
        A comparison in doublings per layer.

    Example:
        >>> mean_ratio("doublings", 3.0, [7.9, 8.1, 8.0], "3 draws", by=0.1).verdict
        'holds'
    """
    found = log_mean_interval(ratios, LEVEL)
    scale = 1 / (math.log(2) * per)
    error = found.error * scale
    tolerance = by + errors * error
    return Comparison(
        what, predicted, found.estimate * scale, error, found.draws, tolerance, reason, at=at
    )


def at_least(what: str, bound: float, draws: npt.ArrayLike, reason: str) -> Comparison:
    """Return a comparison that the mean over draws is at least a bound.

    Args:
        what: the number, in words.
        bound: the smallest that holds.
        draws: one value per independent draw, or a single number that is not random.
        reason: why the bound is what it is.
    """
    return Comparison(what, bound, *estimate(draws), reason=reason, relation="≥")


def at_most(what: str, bound: float, draws: npt.ArrayLike, reason: str) -> Comparison:
    """Return a comparison that the mean over draws is at most a bound.

    Args:
        what: the number, in words.
        bound: the largest that holds.
        draws: one value per independent draw, or a single number that is not random.
        reason: why the bound is what it is.
    """
    return Comparison(what, bound, *estimate(draws), reason=reason, relation="≤")


def estimate(draws: npt.ArrayLike) -> tuple[float, float, int]:
    """Return mean, standard error and number of draws; of one number itself, 0 and 0.

    Example:
        >>> estimate(3.0), estimate([1.0, 3.0])
        ((3.0, 0.0, 0), (2.0, 1.0, 2))
    """
    values = np.asarray(draws, dtype=np.float64)
    if values.ndim == 0:
        return float(values), 0.0, 0
    if len(values) < 2 or not np.isfinite(values).all():
        return float(values.mean()), 0.0, len(values)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))), len(values)


def overall_verdict(verdicts: Sequence[str]) -> str:
    """Return the verdict of several: violated if one is, undecided if one is, else holds.

    Example:
        >>> overall_verdict(["holds", "undecided"])
        'undecided'
    """
    for verdict in (VIOLATED, UNDECIDED):
        if verdict in verdicts:
            return verdict
    return HOLDS
