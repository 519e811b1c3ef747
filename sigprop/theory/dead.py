"""Dead units: how many ReLUs of a random net are active on none of N samples."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from sigprop.theory.arguments import sample_count, whole, within
from sigprop.theory.meanfield import iterate_correlation
from sigprop.theory.quadrature import expectation


def dead_fraction(correlation: float, samples: float) -> float:
    """Return P(u_i <= 0 for all N) = int phi(t) Phi(-t sqrt(c/(1-c)))^N dt, equicorrelated u_i.

    1/2 at c = 1, 2^-N at c = 0, and 0 for an infinite population below c = 1.

    Args:
        correlation: c in [0, 1] between the pre-activations of two samples.
        samples: N of the data set; not the batch, and not the share of zeros (always 1/2).

    Raises:
        BadInput: a correlation outside [0, 1], fewer than 1 sample.

    Example:
        >>> dead_fraction(1.0, 128), round(dead_fraction(0.5, 2), 6)  # 1/4 + asin(c)/2 pi
        (0.5, 0.333333)
    """
    c, n = within("correlation", correlation, 0, 1), sample_count(samples)
    if c == 1:
        return 0.5
    if math.isinf(n):
        return 0.0
    slope = math.sqrt(c / (1 - c))
    if slope == 0:
        return float(0.5**n)
    # the integrand falls where Phi(-t slope)^N does: panels end there, on the scale of 1 / slope
    median = special.ndtri(0.5 ** (1 / n))
    steps = np.array([0.0, 0.25, 0.5, 1, 2, 4, 8, 16, 32])
    turns = np.concatenate([median - steps, median + steps]) / -slope
    return expectation(lambda t: np.exp(n * special.log_ndtr(-t * slope)), 1.0, turns.tolist())


def he_dead_fraction(layer: int, samples: float, *, start: float = 0.0) -> float:
    """Return the dead fraction at layer l of a deep He ReLU net on N independent inputs.

    The pre-activation of layer l has the correlation after l - 1 maps. With a bias that removes the
    batch mean before the matmul every unit has batch mean 0, so none is dead on that batch.

    Args:
        layer: l, from 1.
        samples: N.
        start: the correlation between inputs.

    Raises:
        BadInput: a layer below 1, fewer than 1 sample, a start outside [0, 1].

    Example:
        >>> [round(he_dead_fraction(l, 128), 3) for l in (5, 10, 20, 50)]
        [0.043, 0.146, 0.266, 0.385]
    """
    within("start", start, 0, 1)
    reached = iterate_correlation(whole("layer", layer, 1) - 1, "relu", start=start)[-1]
    return dead_fraction(min(float(reached), 1.0), samples)
