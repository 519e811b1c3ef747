"""Formulas that the source documents print wrongly, each beside the right one, at one example.

Six misprints (S1-S6) and a trap that has a formula (T1): negative tests, and rows of the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sigprop.registry import Registry
from sigprop.theory.arguments import non_negative, whole


@dataclass(frozen=True)
class Erratum:
    """One misprint.

    Args:
        key: S1-S6 or T1.
        subject: what the formula is of.
        wrong: as printed.
        right: as derived.
        source: where it is printed.
        wrong_value: the printed formula as a function, or None when it is words.
        right_value: the right one, of the same arguments.
        example: arguments at which the two differ.
    """

    key: str
    subject: str
    wrong: str
    right: str
    source: str
    wrong_value: Callable[..., float] | None = None
    right_value: Callable[..., float] | None = None
    example: tuple[float, ...] = ()

    def values(self) -> tuple[float, float] | None:
        """Return (wrong, right) at the example, or None when the erratum is words.

        Example:
            >>> [round(v, 3) for v in ERRATA["S2"].values()]
            [1.105, 2.594]
        """
        if self.wrong_value is None or self.right_value is None:
            return None
        return self.wrong_value(*self.example), self.right_value(*self.example)


ERRATA: Registry[Erratum] = Registry("erratum")


def _register(erratum: Erratum) -> None:
    ERRATA.register(erratum.key)(erratum)


def weight_norm_init_std(norm: float, gain: float, response: float) -> float:
    """Return the std of g v.x/|v| for a row of norm |v| whose v.x has std ``response``.

    Args:
        norm: |v| of the row.
        gain: g.
        response: the std of v.x over the batch.

    Example:
        >>> weight_norm_init_std(4.0, 2.0, 8.0)
        4.0
    """
    return abs(gain) * response / norm


_register(
    Erratum(
        "S1",
        "output std after data-dependent weight-norm initialization; arguments |v|, std(v.x)",
        "g = 1/sqrt(var(v.x)/|v|), which leaves std |v|^(-1/2)",
        "g = |v|/std(v.x), which leaves std 1 (g = 1/std(t) with t = v.x/|v|)",
        "slides; Salimans & Kingma 2016, section 3",
        lambda norm, std: weight_norm_init_std(norm, math.sqrt(norm) / std, std),
        lambda norm, std: weight_norm_init_std(norm, norm / std, std),
        (0.6, 0.6),
    )
)
_register(
    Erratum(
        "S2",
        "squared-norm growth of a scaled weight-norm ResNet; argument B",
        "branch divided by B: (1 + 1/B^2)^B",
        "branch divided by sqrt(B), as the authors' code does: (1 + 1/B)^B",
        "slides; Arpit, Campos & Bengio 2019 (the bound e^-2..e^2 is on squared norms)",
        lambda blocks: float((1 + 1 / blocks**2) ** blocks),
        lambda blocks: float((1 + 1 / blocks) ** blocks),
        (10.0,),
    )
)
_register(
    Erratum(
        "S3",
        "step size of the direction w/|w| of scale-invariant weights; arguments eta, |w|",
        "eta / |w|",
        "eta / |w|^2",
        "slides; Hoffer et al. 2018, section 3",
        lambda eta, norm: eta / norm,
        lambda eta, norm: eta / norm**2,
        (1e-5, 5.0),
    )
)
_register(
    Erratum(
        "S4",
        "what layer normalization is invariant to",
        "translation of the data set",
        "recentering of the weight matrix (the same row added to all rows), not a data-set shift",
        "slides; Ba, Kiros & Hinton 2016, Table 1",
    )
)
_register(
    Erratum(
        "S5",
        "norm of an output unit's gradient after AGC; arguments |W_i|, |G_i|, lambda, eps",
        "lambda |W_i| / |G_i|: a scalar, without G_i and without the floor eps",
        "|G_i| min(1, lambda max(|W_i|, eps) / |G_i|): at most lambda max(|W_i|, eps)",
        "NFNet summary; Brock et al. 2021b, section 4.1",
        lambda weight, gradient, clip, eps: clip * weight / gradient,
        lambda weight, gradient, clip, eps: min(gradient, clip * max(weight, eps)),
        (2.0, 5.0, 0.01, 1e-3),
    )
)
_register(
    Erratum(
        "S6",
        "SGD noise E |eta g - eta g_SGD|^2",
        "labels of true and estimated gradient exchanged",
        "g_SGD is the estimate; eta^2 C / |B| with C = E |g_i - g|^2, an equality when drawn with"
        " replacement, and (N - |B|)/(N - 1) of it without",
        "summary; Bjorck et al. 2018, section 3.2",
    )
)
_register(
    Erratum(
        "T1",
        "alpha^2 + beta_eff^2 of a multiplier-form RescaleNet block; arguments k, L, c, m",
        "exponent 1/6 whatever the number m of weight layers",
        "exponent 1/(2m): the sum is 1",
        "a public port with 2-convolution blocks; Shao et al. 2020",
        lambda k, depth, c, m: (k - 1 + c) / (k + c) + ((k + c) / depth) ** (-m / 3) / depth,
        lambda k, depth, c, m: (k - 1 + c) / (k + c) + 1 / (k + c),
        (4.0, 8.0, 8.0, 2.0),
    )
)


def sgd_noise(step: float, spread: float, batch: int, population: int | None = None) -> float:
    """Return eta^2 C / B: the mean squared error of an SGD step (Bjorck et al. 2018, section 3.2).

    Args:
        step: eta.
        spread: C = E |g_i - g|^2.
        batch: B.
        population: N when drawn without replacement, which multiplies by (N - B)/(N - 1).

    Raises:
        BadInput: a batch below 1, a negative spread, a population of 1 or smaller than the batch.

    Example:
        >>> round(sgd_noise(1.0, 1.0, 1, 512), 12), round(8 * sgd_noise(1.0, 1.0, 8, 512), 3)
        (1.0, 0.986)
    """
    noise = step * step * non_negative("spread", spread) / whole("batch", batch, 1)
    if population is not None:
        whole("population", population, max(batch, 2))
    return noise if population is None else noise * (population - batch) / (population - 1)
