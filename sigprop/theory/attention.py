"""Attention at initialization: how softmax mixes tokens, and the gradient back through it.

Queries and keys are Gaussian with independent weights, so that logits are: of variance
E q_i^2 (q - w), q - w what tokens do not share, for softmax does not see what all keys share.
Derived from Vaswani et al. 2017, eq. 1; cf. Hron et al. 2020 (infinite attention) and
Noci et al. 2022, appendix A.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sigprop.theory.kernel import Gradient, Kernel, spread

#: Seed and number of logits of the means over softmax weights, whose error is then about 0.2 %.
_SEED, _LOGITS = 0, 2**19


@dataclass(frozen=True)
class Mixing:
    """Moments of two rows A, B of attention weights over T tokens.

    Args:
        alone: E sum_j A_j^2.
        across: E sum_j A_j B_j.
        slope_alone: E sum_j A_j^2 (1 - 2 A_j + sum_m A_m^2), of softmax's derivative.
        slope_across: E sum_j A_j B_j (1 - A_j - B_j + sum_m A_m B_m).
    """

    alone: float
    across: float
    slope_alone: float
    slope_across: float


@lru_cache(maxsize=512)
def mixing(tokens: int, variance: float, correlation: float, head: int) -> Mixing:
    """Return the moments of softmax weights of Gaussian logits.

    Args:
        tokens: T.
        variance: of a logit.
        correlation: of two queries.
        head: d, over whose components a logit is a sum: queries' norms vary by 2/d.

    Returns:
        Means over draws of a fixed generator.

    Example:
        >>> even = mixing(4, 0.0, 0.0, 16)
        >>> even.alone, even.slope_alone
        (0.25, 0.1875)
    """
    rng = np.random.default_rng(_SEED)
    draws = max(64, _LOGITS // (2 * tokens))
    # two queries' Gram matrix over d, by Bartlett's decomposition of Wishart's distribution
    first = np.sqrt(rng.chisquare(head, draws) / head)
    second = np.sqrt(rng.chisquare(head - 1, draws) / head) if head > 1 else np.zeros(draws)
    between = rng.standard_normal(draws) / np.sqrt(head)
    rest = np.sqrt(max(0.0, 1 - correlation**2))
    z = rng.standard_normal((2, draws, tokens)) * np.sqrt(variance)
    one = first[:, None] * z[0]
    along = correlation * first + rest * between
    two = along[:, None] * z[0] + (rest * second)[:, None] * z[1]
    a, b = _softmax(one), _softmax(two)
    overlap, square = (a * b).sum(axis=1), (a * a).sum(axis=1)
    return Mixing(
        float(square.mean()),
        float(overlap.mean()),
        float((square + square**2 - 2 * (a**3).sum(axis=1)).mean()),
        float((overlap + overlap**2 - (a * b * (a + b)).sum(axis=1)).mean()),
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Attention:
    """Self-attention up to the concatenated heads, values' weights included.

    Args:
        logit_gain: g_q^2 g_k^2 d^(1 - 2 e), where logits are q.k/d^e.
        value_gain: g_v^2.
        head: d, the width of a head.
    """

    logit_gain: float
    value_gain: float
    head: int

    def forward(self, x: Kernel) -> Kernel:
        """Return the kernel of mixed values: (q - w) sum_j A_j B_j + w between two tokens."""
        q, w, own, apart = _levels(x)
        mixed = self._mixing(x)
        same = spread(len(x.same), (q - w) * mixed.alone + w, (q - w) * mixed.across + w)
        other = np.full_like(x.other, (own + (x.positions - 1) * apart) / x.positions)
        return x.replaced(
            same=self.value_gain * same,
            other=self.value_gain * other,
            means=np.zeros_like(x.means),
            gaussian=True,
        )

    def backward(self, x: Kernel, g: Gradient) -> Gradient:
        """Return the gradient through values, queries and keys, whose weights are independent."""
        q, w, _, _ = _levels(x)
        count, mixed = x.positions, self._mixing(x)
        here, there = float(g.same[0, 0]), float(g.same[0, -1])
        if count == 1:
            return Gradient.of(self.value_gain * g.same, self.value_gain * g.other)
        values = mixed.alone * here + (count - 1) * mixed.across * there
        values_apart = (1 - mixed.alone) / (count - 1) * here + (1 - mixed.across) * there
        # through softmax: logits of values that tokens do not share, times the other side's
        queries = (q - w) ** 2 * mixed.slope_alone * here
        queries_apart = (q - w) ** 2 * mixed.slope_across * there
        keys = (q - w) * (
            q * mixed.slope_alone * here + (count - 1) * w * mixed.slope_across * there
        )
        keys_apart = -keys / (count - 1)
        gain = self.logit_gain
        same = spread(
            2,
            values + gain * (queries + keys),
            values_apart + gain * (queries_apart + keys_apart),
        )
        other = np.full_like(g.other, x.average(g.other))
        return Gradient.of(self.value_gain * same, self.value_gain * other)

    def _mixing(self, x: Kernel) -> Mixing:
        q, w, _, _ = _levels(x)
        correlation = min(max(w / q, -1.0), 1.0) if q > 0 else 0.0
        variance = float(f"{self.logit_gain * q * max(q - w, 0.0):.6g}")
        return mixing(x.positions, variance, float(f"{correlation:.6g}"), self.head)


def _levels(x: Kernel) -> tuple[float, float, float, float]:
    """Return E x^2, E x_i x_j of two tokens, and both of two samples."""
    return (
        float(x.same[0, 0]),
        float(x.same[0, -1]),
        float(x.other[0, 0]),
        float(x.other[0, -1]),
    )
