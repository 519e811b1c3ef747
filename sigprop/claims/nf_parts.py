"""The parts of normalizer-free networks: gammas, standardized weights, adaptive clipping."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from sigprop import theory
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_most, close
from sigprop.claims.subjects import gaussian
from sigprop.networks.gains import OFFICIAL_GAMMAS

#: torch's own activations under the names that they have in theory.
TORCH: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "elu": functional.elu,
    "celu": functional.celu,
    "selu": functional.selu,
    "leaky_relu": functional.leaky_relu,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "logsigmoid": functional.logsigmoid,
    "erf": torch.erf,
}


def _gamma(f: Callable[[Tensor], Tensor], centered: bool = True) -> float:
    """Return 1/std f(z) by the trapezoidal rule on 800,001 points of [-10, 10]."""
    z = torch.linspace(-10, 10, 800_001, dtype=torch.float64)
    weight = torch.exp(-z * z / 2)
    weight /= weight.sum()
    values = f(z)
    mean = (weight * values).sum() if centered else torch.zeros(())
    return float(1 / (weight * (values - mean) ** 2).sum().sqrt())


@claim(
    "nf-gammas",
    "gamma = 1/std f(z), and DeepMind's Monte-Carlo constants are within .1 % of it",
    number=16,
    source="Brock et al. 2021a, section 4; deepmind-research nfnets/base.py",
    conditions="torch's own activations on 800,001 points, against theory's closed forms and"
    " Gauss-Legendre quadrature; float64",
    statement="relu √(2/(1 - 1/pi)) = 1.712859, gelu 1.700926, silu 1.787187, tanh 1.592537, ...",
    note="the code's constants for elu and celu differ (1.271600, 1.270927), the functions do not",
    tags=["exact"],
    saboteurs={
        "He's gain taken for gamma": {"centered": False},
        "gammas of another activation": {"functions": {"relu": functional.gelu}},
    },
)
def gammas(
    trial: Trial,
    centered: bool = True,
    functions: Mapping[str, Callable[[Tensor], Tensor]] = TORCH,
) -> list[Comparison]:
    """Integrate torch's activations on a fine grid.

    Args:
        trial: seeds and sizes.
        centered: subtract the mean, as gamma asks for.
        functions: torch's activations by theory's names.

    Returns:
        One comparison per number.
    """
    found = {name: _gamma(f, centered) for name, f in functions.items()}
    reason = "1e-5 asked for; the grid's own error is 1e-9"
    comparisons = [
        close(f"gamma of {name}", theory.gamma(name), value, reason, by=1e-5)
        for name, value in found.items()
    ]
    off = max(abs(OFFICIAL_GAMMAS[n] / v - 1) for n, v in found.items() if n in OFFICIAL_GAMMAS)
    official = at_most("largest error of DeepMind's constants", 1e-3, off, "as claimed")
    return [*comparisons, official]


def standardized(weight: Tensor, correction: int = 0) -> Tensor:
    """Return scaled weight standardization: each row (W - mean)/√(fan_in var).

    Args:
        weight: of shape (out, ...).
        correction: of the variance: 0 biased, 1 unbiased.

    Returns:
        A tensor of the weight's shape.
    """
    rows = weight.flatten(1)
    variance, mean = torch.var_mean(rows, dim=1, correction=correction, keepdim=True)
    return ((rows - mean) / (rows.shape[1] * variance).sqrt()).view_as(weight)


@claim(
    "standardized-weights",
    "rows of standardized weights have mean 0 and sum of squares 1",
    number=19,
    source="Brock et al. 2021a, section 4.1; nfnets/base.py",
    conditions="a kernel of 64 x 32 x 3 x 3 around 0.3, float64",
    statement="What = (W - mu)/√(fan_in var), biased variance over fan_in, per output unit",
    tags=["exact"],
    saboteurs={"unbiased for biased variance": {"correction": 1}},
)
def ws_rows(trial: Trial, correction: int = 0) -> list[Comparison]:
    """Standardize a kernel and look at its rows.

    Args:
        trial: seeds and sizes.
        correction: of the variance.

    Returns:
        One comparison per number.
    """
    kernel = gaussian(torch.Generator().manual_seed(trial.base), 64, 32, 3, 3, double=True) + 0.3
    rows = standardized(kernel, correction).flatten(1)
    reason = "float64 rounding of 288 terms"
    return [
        at_most("largest mean of a row", 1e-12, float(rows.mean(dim=1).abs().max()), reason),
        at_most(
            "largest deviation of a row's sum of squares from 1",
            1e-12,
            float((rows.square().sum(dim=1) - 1).abs().max()),
            reason,
        ),
    ]


Clip = Callable[[Tensor, Tensor], Tensor]


def clipped(
    weight: Tensor, gradient: Tensor, most: float = 0.01, eps: float = 1e-3, units: bool = True
) -> Tensor:
    """Return AGC's gradient: each unit's G_i cut to ``most`` max(‖W_i‖, eps).

    Args:
        weight: of shape (out, ...).
        gradient: of the same shape.
        most: lambda.
        eps: the floor of a norm.
        units: one norm per output unit; otherwise one of the whole tensor.

    Returns:
        The clipped gradient.
    """
    axes = list(range(1, weight.dim())) if units else list(range(weight.dim()))
    w, g = (x.square().sum(dim=axes, keepdim=True).sqrt() for x in (weight, gradient))
    limit = most * w.clamp_min(eps)
    return torch.where(g > limit, gradient * (limit / g.clamp_min(1e-6)), gradient)


@claim(
    "agc",
    "adaptive clipping bounds each unit's gradient by lambda max(‖W_i‖, eps)",
    number=20,
    source="Brock et al. 2021b, section 4.1; nfnets/agc_optax.py",
    conditions="a kernel of 16 x 8 x 3 x 3, gradients from .1 to 10 times the limit, one unit of"
    " zero weights; lambda = .01, eps = 1e-3; float64",
    statement="G_i <- G_i lambda max(‖W_i‖, eps)/‖G_i‖ where ‖G_i‖ is larger; else G_i untouched",
    note="the summary prints a scalar without G_i, without eps and without the unit",
    tags=["exact"],
    saboteurs={
        "eps missing": {"clip": lambda w, g: clipped(w, g, eps=0.0)},
        "whole tensor for a unit": {"clip": lambda w, g: clipped(w, g, units=False)},
        "G_i forgotten": {"clip": lambda w, g: torch.ones_like(g) * 0.01 * w.norm() / g.norm()},
        "everything scaled": {"clip": lambda w, g: 0.5 * clipped(w, g)},
    },
)
def agc(trial: Trial, clip: Clip = clipped) -> list[Comparison]:
    """Clip gradients on either side of the limit.

    Args:
        trial: seeds and sizes.
        clip: returns the clipped gradient of a weight and a gradient.

    Returns:
        One comparison per number.
    """
    generator = torch.Generator().manual_seed(trial.base)
    w = gaussian(generator, 16, 8, 3, 3, double=True)
    w[0] = 0
    g = gaussian(generator, 16, 8, 3, 3, double=True)
    norms = w.flatten(1).norm(dim=1).clamp_min(1e-3)
    wanted = 0.01 * norms * torch.logspace(-1, 1, 16, dtype=torch.float64).flip(0)
    g *= (wanted / g.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    out = clip(w, g)
    ratio = out.flatten(1).norm(dim=1) / norms
    over = wanted > 0.01 * norms
    direction = functional.cosine_similarity(out.flatten(1), g.flatten(1), dim=1)
    return [
        at_most(
            "clipped units: deviation from lambda",
            1e-12,
            float((ratio[over] - 0.01).abs().max()),
            "float64 rounding",
        ),
        close(
            "other units: change",
            0.0,
            float((out - g)[~over].abs().max()),
            "untouched, bit by bit",
            by=0.0,
        ),
        close(
            "unit of zero weights: ‖G‖", 1e-5, float(out[0].norm()), "float64 rounding", by=1e-15
        ),
        close(
            "smallest cosine with the raw gradient",
            1.0,
            float(direction.min()),
            "float64 rounding",
            by=1e-12,
        ),
    ]
