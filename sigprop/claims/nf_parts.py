"""The parts of normalizer-free networks: gammas, standardized weights, adaptive clipping."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from sigprop import networks, theory
from sigprop.claims import faults
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_most, close
from sigprop.claims.subjects import gaussian
from sigprop.networks.gains import OFFICIAL_GAMMAS, centered_gain

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
    source="Brock et al. 2021a, section 4; deepmind-research nfnets/base.py",
    conditions="torch's own activations on 800,001 points, against theory's closed forms and"
    " Gauss-Legendre quadrature; float64",
    statement="relu √(2/(1 - 1/pi)) = 1.712859, gelu 1.700926, silu 1.787187, tanh 1.592537, ...",
    note="the code's constants for elu and celu differ (1.271600, 1.270927), the functions do not",
    tags=["exact"],
    saboteurs={
        "He's gain taken for gamma": {"centered": False},
        "library: theory's gamma off by 10 %": faults.times("sigprop.theory.gaussian:gamma", 1.1),
        "library: the zoo's gamma off (He's gain)": faults.GAMMA,
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
    used = [name for name in found if name in OFFICIAL_GAMMAS]
    comparisons += [
        close(f"the zoo's gain of {name}", found[name], centered_gain(name), reason, by=1e-5)
        for name in used
    ]
    off = max(abs(OFFICIAL_GAMMAS[n] / v - 1) for n, v in found.items() if n in OFFICIAL_GAMMAS)
    official = at_most("largest error of DeepMind's constants", 1e-3, off, "as claimed")
    return [*comparisons, official]


@claim(
    "standardized-weights",
    "rows of standardized weights have mean 0 and sum of squares 1",
    source="Brock et al. 2021a, section 4.1; nfnets/base.py",
    conditions="networks.standardize_ on a convolution of 32 -> 64 channels, 3 x 3, around 0.3,"
    " float64",
    statement="What = (W - mu)/√(fan_in var), biased variance over fan_in, per output unit",
    tags=["exact"],
    saboteurs={
        "library: weights not standardized": faults.NOT_STANDARDIZED,
        "library: standardized weights off by 10 %": faults.STANDARDIZED,
        "unbiased for biased variance": {"correction": 1},
    },
)
def ws_rows(trial: Trial, correction: int = 0) -> list[Comparison]:
    """Standardize a kernel and look at its rows.

    Args:
        trial: seeds and sizes.
        correction: of the variance that the rows are compared with.

    Returns:
        One comparison per number.
    """
    kernel = gaussian(torch.Generator().manual_seed(trial.base), 64, 32, 3, 3, double=True) + 0.3
    layer = torch.nn.Conv2d(32, 64, 3).double()
    layer.weight.data.copy_(kernel)
    networks.standardize_(torch.nn.Sequential(layer), "identity")
    rows = layer.weight.detach().flatten(1)
    reason = "float64 rounding of 288 terms"
    raw = kernel.flatten(1)
    spread = (288 * raw.var(dim=1, correction=correction)).sqrt()
    expected = (raw - raw.mean(dim=1, keepdim=True)) / spread[:, None]
    return [
        at_most("largest mean of a row", 1e-12, float(rows.mean(dim=1).abs().max()), reason),
        close(
            "largest deviation of a row's sum of squares from 1",
            0.0,
            float((rows.square().sum(dim=1) - 1).abs().max()),
            reason,
            by=1e-12,
        ),
        at_most("largest deviation from it", 1e-12, float((rows - expected).abs().max()), reason),
    ]


Clip = Callable[[Tensor, Tensor], Tensor]


def clipped(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient that `networks.clip_adaptively` leaves, with λ = 0.01 and ε = 1e-3.

    Args:
        weight: of shape (out, ...).
        gradient: of the same shape.
    """
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = gradient.clone()
    networks.clip_adaptively([parameter], clipping=0.01, eps=1e-3)
    return parameter.grad


@claim(
    "agc",
    "adaptive clipping bounds each unit's gradient by lambda max(‖W_i‖, eps)",
    source="Brock et al. 2021b, section 4.1; nfnets/agc_optax.py",
    conditions="networks.clip_adaptively on a kernel of 16 x 8 x 3 x 3, gradients from .1 to 10"
    " times the limit, one unit of zero weights; lambda = .01, eps = 1e-3; float64",
    statement="G_i <- G_i lambda max(‖W_i‖, eps)/‖G_i‖ where ‖G_i‖ is larger; else G_i untouched",
    note="the summary prints a scalar without G_i, without eps and without the unit",
    tags=["exact"],
    saboteurs={
        "library: no clipping": faults.NO_CLIPPING,
        "library: lambda off by 10 %": faults.CLIPPING,
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
