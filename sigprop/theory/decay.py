"""How a norm decays or grows with depth: exponentially, as a power law, or in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sigprop.errors import BadInput
from sigprop.theory.activations import Array

_DEPTHS: dict[str, Callable[[Array], Array]] = {
    "exponential": lambda depth: depth,
    "power law": np.log,
    "stretched exponential": np.sqrt,
}


@dataclass(frozen=True)
class Fit:
    """A straight line of ln J over a function of depth.

    Attributes:
        name: ``"exponential"``: J = A e^{-λl}, and χ = e^λ is the growth per layer on the way back;
            ``"power law"``: J = A l^{-λ}; ``"stretched exponential"``: J = A e^{-λ√l}.
        rate: λ; above 0 where J falls with depth.
        scale: A.
        error: root mean square of the residuals of ln J.
    """

    name: str
    rate: float
    scale: float
    error: float

    def __call__(self, depth: npt.ArrayLike) -> Array:
        """Return the fitted J at depths from 1."""
        made = _DEPTHS[self.name](np.asarray(depth, dtype=np.float64))
        return np.asarray(self.scale * np.exp(-self.rate * made))


def decay_fits(depth: npt.ArrayLike, norm: npt.ArrayLike) -> list[Fit]:
    """Return the three laws of partial Jacobian norms fitted by least squares, the best first.

    Off criticality J(l → L) = χ^{L-l} (Schoenholz et al. 2017); at criticality a power law, and
    with residual connections and LayerNorm a stretched exponential (Doshi, He & Gromov 2021). All
    have two parameters, so that their residuals compare directly.

    Args:
        depth: l, from 1 on, shape (n,).
        norm: J at each, above 0, shape (n,).

    Returns:
        The fits, in the order of their residuals.

    Raises:
        BadInput: fewer than three points, a depth below 1, or a norm that is not above 0.

    Example:
        >>> best = decay_fits(range(1, 21), [0.9 ** (20 - l) for l in range(1, 21)])[0]
        >>> best.name, round(float(np.exp(best.rate)), 6)  # chi
        ('exponential', 0.9)
    """
    l, j = np.asarray(depth, dtype=np.float64), np.asarray(norm, dtype=np.float64)  # noqa: E741
    if l.shape != j.shape or l.ndim != 1 or len(l) < 3:
        raise BadInput(f"a fit needs 3 depths and as many norms, got shapes {l.shape}, {j.shape}")
    if not (l >= 1).all() or not (np.isfinite(j) & (j > 0)).all():
        raise BadInput("a fit needs depths from 1 on, and norms that are finite and above 0")
    logs = np.log(j)
    found = []
    for name, function in _DEPTHS.items():
        made = function(l)
        slope, offset = np.polyfit(made, logs, 1)
        error = float(np.sqrt(np.mean((logs - slope * made - offset) ** 2)))
        found.append(Fit(name, -float(slope), float(np.exp(offset)), error))
    return sorted(found, key=lambda fit: fit.error)
