"""Random matrices: spectra of products of Gaussian matrices, and of Jacobians at criticality.

P = W_M ... W_1 with W of shape (N, N) and entries of variance 1/N (real Ginibre).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from sigprop.errors import BadInput
from sigprop.theory.activations import Array
from sigprop.theory.arguments import one_of, whole, within
from sigprop.theory.finite_width import LogMoments


@dataclass(frozen=True)
class Exponents:
    """Lyapunov exponents, largest first, and the sd of their estimate from M factors; ``(N,)``."""

    exponent: Array
    deviation: Array


def lyapunov_exponents(size: int, factors: int = 1) -> Exponents:
    """Return mu_i = (log(2/N) + psi((N-i+1)/2)) / 2 (Newman 1986) and sqrt(psi_1((N-i+1)/2) / 4M).

    Args:
        size: N.
        factors: M, of the QR estimate whose deviation is returned.

    Returns:
        Exponents in natural logarithm per factor, and their deviations.

    Raises:
        BadInput: a size or a number of factors below 1.

    Example:
        >>> lyapunov_exponents(2, 100).exponent.round(6).tolist()  # -gamma/2, -log 2 - gamma/2
        [-0.288608, -0.981755]
    """
    n, m = whole("size", size, 1), whole("factors", factors, 1)
    half = np.arange(n, 0, -1) / 2
    exponent = (math.log(2 / n) + special.psi(half)) / 2
    return Exponents(exponent, np.sqrt(special.polygamma(1, half) / (4 * m)))


def log_determinant(size: int, factors: int = 1) -> LogMoments:
    """Return mean and variance of log |det P|: M sum_j (log(2/N) + psi(j/2))/2, M sum_j psi_1/4.

    Args:
        size: N, of a square matrix.
        factors: M, number of matrices in the product.

    Raises:
        BadInput: a size or a number of factors below 1.

    Example:
        >>> round(log_determinant(1).mean, 6)  # E log |z|
        -0.635181
    """
    made = lyapunov_exponents(size, 1)
    return LogMoments(
        factors * float(made.exponent.sum()),
        whole("factors", factors, 1) * float(np.sum(made.deviation**2)),
    )


def log_norm(size: int, factors: int = 1) -> LogMoments:
    """Return mean and variance of log(|Px|^2 / |x|^2): M (log(2/N) + psi(N/2)) and M psi_1(N/2).

    Args:
        size: N, of a square matrix.
        factors: M, number of matrices in the product.

    Raises:
        BadInput: a size or a number of factors below 1.

    Example:
        >>> found = log_norm(100, 10)
        >>> round(found.mean, 4), round(found.variance, 4)
        (-0.1003, 0.202)
    """
    n, m = whole("size", size, 1), whole("factors", factors, 1)
    return LogMoments(
        m * float(math.log(2 / n) + special.psi(n / 2)), m * float(special.polygamma(1, n / 2))
    )


def fuss_catalan(factors: int, order: int) -> int:
    """Return C(Mk+k, k) / (Mk+1): the k-th moment of P's squared singular values, N -> infinity.

    1, M+1, (M+1)(3M+2)/2 for k = 1, 2, 3 (Penson & Zyczkowski 2011).

    Args:
        factors: M, number of matrices in the product.
        order: k, of the moment.

    Raises:
        BadInput: fewer than one factor, a negative order.

    Example:
        >>> [fuss_catalan(2, k) for k in (1, 2, 3)]
        [1, 3, 12]
    """
    m, k = whole("factors", factors, 1), whole("order", order)
    return math.comb(m * k + k, k) // (m * k + 1)  # always a whole number


def fuss_catalan_edge(factors: int) -> float:
    """Return (M+1)^(M+1) / M^M: the largest squared singular value, N -> infinity (about e M).

    Raises:
        BadInput: fewer than one factor.

    Example:
        >>> fuss_catalan_edge(1), fuss_catalan_edge(2)
        (4.0, 6.75)
    """
    m = whole("factors", factors, 1)
    return math.exp((m + 1) * math.log1p(1 / m)) * m if m > 50 else (m + 1) ** (m + 1) / m**m


def product_second_moment(size: int, factors: int) -> float:
    """Return E tr((PP')^2) / N at finite N, exactly: M + 1 and corrections of order 1/N.

    With a = tr A^2 / N and b = (tr A / N)^2 a factor maps a -> (1 + 1/N) a + b, b -> b + 2a/N^2.

    Args:
        size: N, of a square matrix.
        factors: M, number of matrices in the product.

    Raises:
        BadInput: a size or a number of factors below 1.

    Example:
        >>> product_second_moment(10, 1)  # 2 + 1/N
        2.1
    """
    n = whole("size", size, 1)
    a = b = 1.0
    for _ in range(whole("factors", factors, 1)):
        a, b = (1 + 1 / n) * a + b, b + 2 * a / n**2
    return a


def jacobian_dispersion(depth: int, *, active: float = 0.5, weights: str = "gaussian") -> float:
    """Return m_2/m_1^2 - 1 of the Jacobian's squared singular values at criticality, N -> infinity.

    L (1/p - 1 + [weights gaussian]) for slopes that are 1 with chance p and else 0: linear Gaussian
    L, linear orthogonal 0, ReLU Gaussian 2L, ReLU orthogonal L (Pennington et al. 2017, section 3).

    Args:
        depth: L.
        active: p; 1 for a linear net, 1/2 for ReLU.
        weights: ``"gaussian"`` or ``"orthogonal"``.

    Raises:
        UnknownName: other weights.
        BadInput: a negative depth, or p outside (0, 1].

    Example:
        >>> jacobian_dispersion(16), jacobian_dispersion(16, weights="orthogonal")
        (32.0, 16.0)
    """
    p = within("active", active, 0, 1)
    if p == 0:
        raise BadInput("active must be above 0; got 0: a net without active units has no spectrum")
    extra = float(one_of("weights", weights, ("gaussian", "orthogonal")) == "gaussian")
    return whole("depth", depth) * (1 / p - 1 + extra)


def stack_growth(blocks: int, power: float) -> float:
    """Return (1 + B^(-2 power))^B: a ResNet's squared norm when branches are scaled by B^(-power).

    Arpit, Campos & Bengio 2019: 1/B gives (1 + 1/B^2)^B; their code's 1/sqrt(B) tends to e.

    Args:
        blocks: B, number of residual blocks.
        power: of B that divides a branch: 1/2, 1 or 0.

    Raises:
        BadInput: fewer than one block.

    Example:
        >>> [round(stack_growth(b, 1), 3) for b in (10, 40, 100)]
        [1.105, 1.025, 1.01]
    """
    return float((1 + whole("blocks", blocks, 1) ** (-2 * power)) ** blocks)
