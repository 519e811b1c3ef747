"""Random matrices: products, Lyapunov exponents, Jacobians, and convolutions as operators."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sigprop import spectra, theory
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_most, close
from sigprop.claims.subjects import Array, gaussian
from sigprop.spectra import product


@claim(
    "lyapunov-exponents",
    "exponents of a product of Gaussian matrices, by QR",
    source="Newman 1986; Bjorck et al. 2018, appendix",
    conditions="N = 10, M = 2000 factors, float64, one run",
    statement="mu_i = (log(2/N) + psi((N-i+1)/2))/2, each within 4 deviations √(psi_1/(4M))",
    note="the deviation of the first exponent is .0053 at M = 2000",
    saboteurs={
        "entries of variance 2/N": {"scale": 2.0},
        "direct product instead of QR": {"orthogonalize": False},
    },
)
def lyapunov(trial: Trial, scale: float = 1.0, orthogonalize: bool = True) -> list[Comparison]:
    """Take the exponents of a product, factor by factor.

    Args:
        trial: seeds and sizes.
        scale: variance of an entry times N.
        orthogonalize: QR after every factor; otherwise the product itself.

    Returns:
        One comparison per number.
    """
    size, factors = 10, trial.pick(2000, 400)
    rng = np.random.default_rng(trial.base)
    drawn = (rng.normal(0, math.sqrt(scale / size), (size, size)) for _ in range(factors))
    if orthogonalize:
        found = product(drawn, "lyapunov")["log_singular_value"].to_numpy()
    else:  # saturates near 1e17, and underflows to 0
        found = product(drawn, "svd")["log_singular_value"].to_numpy() / factors
    made = theory.lyapunov_exponents(size, factors)
    return [
        close(
            f"exponent {i + 1}",
            float(made.exponent[i]),
            float(found[i]),
            "5 standard deviations of the estimate, exact at any N and M",
            by=5 * float(made.deviation[i]),
            at=i + 1,
        )
        for i in range(size)
    ]


@claim(
    "fuss-catalan",
    "moments and edge of a product's squared singular values",
    source="Penson & Zyczkowski 2011; Bjorck et al. 2018",
    conditions="N = 400, M = 1 ... 4 factors, 24 seeds, float64",
    statement="moments 1, M+1, (M+1)(3M+2)/2; largest value (M+1)^(M+1)/M^M",
    note="the finite product; the Lyapunov exponents are the limit of many factors",
    saboteurs={
        "one factor too many": {"extra": 1},
        "singular values not squared": {"power": 1},
    },
)
def fuss_catalan(trial: Trial, extra: int = 0, power: int = 2) -> list[Comparison]:
    """Average the spectra of products.

    Args:
        trial: seeds and sizes.
        extra: factors more than predicted for.
        power: of the singular values.

    Returns:
        One comparison per number.
    """
    size = trial.pick(400, 120)
    comparisons = []
    for factors in range(1, 5):
        squares = np.stack(
            [_spectrum(g, size, factors + extra) ** power for g in trial.generators(24, 6)]
        )
        for order in (1, 2, 3):
            value = theory.fuss_catalan(factors, order)
            by = trial.pick(0.008, 0.04) * factors * order
            reason = "5 standard errors, and corrections of the order of M k²/N"
            draws = (squares**order).mean(axis=1)
            comparisons.append(
                close(f"M = {factors}: moment {order}", value, draws, reason, share=by)
            )
        edge = theory.fuss_catalan_edge(factors)
        below = "the largest of N values lies N^(-2/3) below the edge, about 2 to 5 %"
        share = trial.pick(0.08, 0.2)
        comparisons.append(
            close(f"M = {factors}: edge", edge, squares.max(axis=1), below, share=share, at=factors)
        )
    return comparisons


def _spectrum(generator: torch.Generator, size: int, factors: int) -> Array:
    drawn = [gaussian(generator, size, size, double=True) for _ in range(factors)]
    return product([m / math.sqrt(size) for m in drawn])["singular_value"].to_numpy()


@claim(
    "jacobian-moments",
    "a ReLU Jacobian cannot be an isometry",
    source="Pennington, Schoenholz & Ganguli 2017, section 3",
    conditions="n = 400, L = 1, 4, 48 seeds, at criticality; float32",
    statement="m_2/m_1² - 1 = L (Gaussian), 0 (orthogonal); with ReLU 2L and L",
    saboteurs={
        "orthogonal and Gaussian exchanged": {"exchange": True},
        "mask forgotten": {"masked": False},
    },
)
def jacobian(trial: Trial, exchange: bool = False, masked: bool = True) -> list[Comparison]:
    """Decompose Jacobians and take two moments.

    Args:
        trial: seeds and sizes.
        exchange: measure orthogonal weights where Gaussian ones are predicted, and the reverse.
        masked: whether the ReLU's mask is applied.

    Returns:
        One comparison per number.
    """
    size = trial.pick(400, 160)
    comparisons = []
    for depth in (1, 4):
        for weights in ("gaussian", "orthogonal"):
            for active in (1.0, 0.5):
                used = (
                    {"gaussian": "orthogonal", "orthogonal": "gaussian"}[weights]
                    if exchange
                    else weights
                )
                draws = [
                    _dispersion(g, size, depth, used, active < 1 and masked)
                    for g in trial.generators(48, 12)
                ]
                predicted = theory.jacobian_dispersion(depth, active=active, weights=weights)
                name = f"{'ReLU ' if active < 1 else ''}{weights}, L = {depth}"
                reason = "masks scatter by 2/√n = .1, moments by L/n; 5 standard errors of 48 nets"
                by = trial.pick(0.03, 0.1)
                comparisons.append(close(name, predicted, draws, reason, share=1.7 * by, by=by))
    return comparisons


def _dispersion(
    generator: torch.Generator, size: int, depth: int, weights: str, masked: bool
) -> float:
    """Return m_2/m_1² - 1 of the Jacobian of a net at a random input."""
    layers: list[nn.Module] = []
    x = gaussian(generator, 1, size)
    for _ in range(depth):
        w = gaussian(generator, size, size) / math.sqrt(size)
        if weights == "orthogonal":
            w = torch.linalg.qr(w)[0] * torch.sign(gaussian(generator, size))
        layer = nn.Linear(size, size, bias=False)
        layer.weight = nn.Parameter(w * math.sqrt(2) if masked else w)
        layers += [layer, nn.ReLU()] if masked else [layer]
    squares = spectra.jacobian(nn.Sequential(*layers), x, device="cpu")["singular_value"] ** 2
    return float((squares**2).mean() / squares.mean() ** 2 - 1)


def instrument(kernel: Tensor, side: int) -> Tensor:
    """Return the singular values of a circular convolution, by `sigprop.spectra`.

    Args:
        kernel: of shape (out, in, k, k).
        side: of the square map.

    Returns:
        Singular values, largest first.
    """
    out, into, size, _ = kernel.shape
    layer = nn.Conv2d(into, out, size, padding=size // 2, padding_mode="circular", bias=False)
    layer.weight = nn.Parameter(kernel)
    found = spectra.convolution(layer, (into, side, side))["singular_value"]
    return torch.from_numpy(found.to_numpy(copy=True))


def by_reshape(kernel: Tensor, side: int) -> Tensor:
    """Return the singular values of the kernel as a matrix: those of no convolution.

    Args:
        kernel: of shape (out, in, k, k).
        side: of the square map.

    Returns:
        Singular values, largest first.
    """
    values = torch.linalg.svdvals(kernel.flatten(1))
    return values.repeat_interleave(side * side).sort(descending=True).values


def _operator(kernel: Tensor, side: int, mode: str) -> Tensor:
    """Return a convolution as a dense matrix: its outputs for every unit image."""
    channels = kernel.shape[1]
    units = torch.eye(channels * side * side, dtype=kernel.dtype).view(-1, channels, side, side)
    padded = functional.pad(units, (1, 1, 1, 1), mode=mode)
    return functional.conv2d(padded, kernel).flatten(1).T


@claim(
    "conv-singular-values",
    "singular values of a convolution by FFT",
    source="Sedghi, Gupta & Long 2019",
    conditions="kernel 4 x 3 x 3 x 3, maps of 6 x 6, against the dense circular operator; float64",
    statement="svd of fft2(K) at every frequency; sum s² = n² ‖K‖_F²",
    note="for circular padding; with zero padding the largest value is a little smaller",
    tags=["exact"],
    saboteurs={
        "reshaped kernel": {"method": by_reshape},
        "zero padding": {"mode": "constant"},
    },
)
def conv_values(
    trial: Trial, method: Callable[[Tensor, int], Tensor] = instrument, mode: str = "circular"
) -> list[Comparison]:
    """Compare with the operator written out as a matrix.

    Args:
        trial: seeds and sizes.
        method: computes singular values from a kernel and the size of the map.
        mode: padding of the dense operator.

    Returns:
        One comparison per number.
    """
    kernel = gaussian(torch.Generator().manual_seed(trial.base), 4, 3, 3, 3, double=True)
    side = 6
    dense = torch.linalg.svdvals(_operator(kernel, side, mode))
    values = method(kernel, side)[: len(dense)]
    energy = float(side**2 * kernel.square().sum())
    reason = "float64 rounding of a 144 x 108 svd"
    return [
        at_most(
            "largest difference of a value", 1e-10, float((dense - values).abs().max()), reason
        ),
        close(
            "sum of squares of the operator",
            energy,
            float(dense.square().sum()),
            reason,
            share=1e-10,
        ),
    ]
