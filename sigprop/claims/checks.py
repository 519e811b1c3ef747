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
class Check:
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
        at: where on a curve, when several checks make one (depth, batch size); else missing.
        printed: what a source document prints instead, when it is wrong; else missing.
        own: a verdict reached elsewhere (by `sigprop.verify`), which then stands.
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
    own: str = ""

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
            >>> Check("growth", 2.0, 2.01, error=0.01, draws=9, tolerance=0.05).verdict
            'holds'
        """
        if self.own:
            return self.own
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
    def strain(self) -> float:
        """How much of what is allowed is used: -1..1 holds; 0 for an inequality met by far.

        Example:
            >>> Check("growth", 2.0, 2.01, tolerance=0.05).strain.__round__(6)
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
    at: float = math.nan,
    printed: float = math.nan,
) -> Check:
    """Return a check that the mean over draws equals a prediction.

    Args:
        what: the number, in words.
        predicted: what it should be.
        draws: one value per independent draw, or a single number that is not random.
        reason: why the tolerance is what it is.
        share: tolerance as a share of the prediction.
        by: absolute tolerance; the two add up.
        at: where on a curve.
        printed: what a source document prints instead.

    Example:
        >>> close("growth", 2.0, [1.98, 2.02, 2.0], "3 draws", share=0.1).verdict
        'holds'
    """
    measured, error, count = estimate(draws)
    tolerance = abs(predicted) * share + by
    return Check(what, predicted, measured, error, count, tolerance, reason, at=at, printed=printed)


def mean_ratio(
    what: str,
    predicted: float,
    ratios: npt.ArrayLike,
    reason: str,
    *,
    by: float,
    per: float = 1.0,
    at: float = math.nan,
) -> Check:
    """Return a check of log2 E[ratio] / per: growth per layer, without the bias of a mean of logs.

    Example:
        >>> mean_ratio("doublings", 3.0, [7.9, 8.1, 8.0], "3 draws", by=0.1).verdict
        'holds'
    """
    found = log_mean_interval(ratios, LEVEL)
    scale = 1 / (math.log(2) * per)
    return Check(
        what, predicted, found.estimate * scale, found.error * scale, found.draws, by, reason, at=at
    )


def at_least(what: str, bound: float, draws: npt.ArrayLike, reason: str) -> Check:
    """Return a check that the mean over draws is at least a bound."""
    return Check(what, bound, *estimate(draws), reason=reason, relation="≥")


def at_most(what: str, bound: float, draws: npt.ArrayLike, reason: str) -> Check:
    """Return a check that the mean over draws is at most a bound."""
    return Check(what, bound, *estimate(draws), reason=reason, relation="≤")


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


def together(verdicts: Sequence[str]) -> str:
    """Return the verdict of several: violated if one is, undecided if one is, else holds.

    Example:
        >>> together(["holds", "undecided"])
        'undecided'
    """
    for verdict in (VIOLATED, UNDECIDED):
        if verdict in verdicts:
            return verdict
    return HOLDS
