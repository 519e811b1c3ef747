"""Mean field: phases, correlation maps, dead units, and what a finite width adds."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sigprop import theory
from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, close
from sigprop.claims.subjects import Array, gaussian

POINTS = ((1.0, 0.05), (2.5, 0.05), (4.0, 0.05))
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(120)


def _gauss(values: Array) -> float:
    return float(values @ _WEIGHTS / math.sqrt(2 * math.pi))


def _pair(f: np.ufunc, q: float, c: float) -> float:
    """Return E f(u) f(v) by a two-dimensional Gauss-Hermite rule."""
    z, w = _NODES, _WEIGHTS / math.sqrt(2 * math.pi)
    u = math.sqrt(q) * z[:, None]
    v = math.sqrt(q) * (c * z[:, None] + math.sqrt(1 - c * c) * z[None, :])
    return float((f(u) * f(v) * w[:, None] * w[None, :]).sum())


@claim(
    "tanh-critical-line",
    "where a deep tanh net converges, and where it is critical",
    source="Poole et al. 2016; Schoenholz et al. 2017, sections 3-4",
    conditions="Gauss-Hermite quadrature with 120 nodes (theory: Gauss-Legendre with split panels);"
    " sb² = .05, sw² = 1, 2.5, 4",
    statement="q = sw² E tanh² + sb²; chi_1 = sw² E tanh'² (1 at 1.760955); c* = .446804 at 2.5",
    note="chi_c* at (2.5, .05) is .918717 by two integrators, not .918723",
    tags=["exact"],
    saboteurs={
        "sw for sw²": {"power": 0.5},
        "sb² forgotten": {"bias": 0.0},
    },
)
def tanh_critical(trial: Trial, power: float = 1.0, bias: float = 0.05) -> list[Comparison]:
    """Iterate the maps by another quadrature until they converge.

    Args:
        trial: seeds and sizes.
        power: of sw² in the maps; 1/2 is the mistake of taking sw.
        bias: sb².

    Returns:
        One comparison per number.
    """
    reason = "1e-4 asked for; both quadratures are exact to 1e-8"
    comparisons = []
    for weight, sb2 in POINTS:
        q, c = 1.0, 0.5
        used = weight**power
        for _ in range(300):
            q = used * _gauss(np.tanh(math.sqrt(q) * _NODES) ** 2) + bias
        for _ in range(120):
            c = min((used * _pair(np.tanh, q, c) + bias) / q, 1.0)
        made = theory.mean_field("tanh", weight, sb2)
        chi1 = used * _gauss(np.cosh(math.sqrt(q) * _NODES) ** -4.0)
        name = f"(sw², sb²) = ({weight:g}, {sb2:g})"
        comparisons += [
            close(f"q* at {name}", made.q, q, reason, by=1e-4),
            close(f"chi_1 at {name}", made.chi1, chi1, reason, by=1e-4),
            close(f"c* at {name}", made.c, c, reason, by=1e-4),
        ]
    critical = theory.critical_weight_variance("tanh", 0.05)
    q = 1.0
    for _ in range(3000):
        q = critical**power * _gauss(np.tanh(math.sqrt(q) * _NODES) ** 2) + bias
    chi1 = critical**power * _gauss(np.cosh(math.sqrt(q) * _NODES) ** -4.0)
    return [*comparisons, close(f"chi_1 at sw² = {critical:.6f}", 1.0, chi1, reason, by=1e-4)]


@claim(
    "tanh-gradient-rate",
    "the squared gradient of a deep tanh net grows by chi_1 per layer",
    source="Schoenholz et al. 2017, section 4",
    conditions="n = 1000, 32 layers, rate over layers 5 to 30, 8 inputs, 10 seeds, sb² = .05;"
    " sw² = 1 and 2.5",
    statement="E g_{l-1}²/E g_l² = chi_1",
    saboteurs={
        "sw for sw²": {"power": 0.5},
        "bias forgotten": {"bias": 0.0},
    },
)
def tanh_gradient(trial: Trial, power: float = 1.0, bias: float = 0.05) -> list[Comparison]:
    """Send a random gradient back through a wide tanh net.

    Args:
        trial: seeds and sizes.
        power: of sw² in the weights; 1/2 is the mistake of taking sw.
        bias: sb².

    Returns:
        One comparison per number.
    """
    comparisons = []
    for weight in (1.0, 2.5):
        rates = [
            _tanh_rate(g, trial.pick(1000, 300), weight**power, bias)
            for g in trial.generators(10, 5)
        ]
        chi1 = theory.mean_field("tanh", weight, 0.05).chi1
        reason = "5 standard errors; one net's rate over 25 layers scatters by .5 %"
        share = trial.pick(0.015, 0.04)
        comparisons.append(close(f"rate at sw² = {weight:g}", chi1, rates, reason, share=share))
    return comparisons


def _tanh_rate(generator: torch.Generator, width: int, weight: float, bias: float) -> float:
    h = gaussian(generator, 8, width)
    kept: list[tuple[Tensor, Tensor]] = []
    for _ in range(32):
        w = gaussian(generator, width, width) * math.sqrt(weight / width)
        b = gaussian(generator, width) * math.sqrt(bias)
        kept.append((w, h))
        h = torch.tanh(h) @ w.T + b
    g = gaussian(generator, 8, width)
    sizes = []
    for w, before in reversed(kept):
        g = (g @ w) * (1 - torch.tanh(before) ** 2)
        sizes.append(float(g.square().mean()))
    sizes.reverse()
    return float((sizes[5] / sizes[30]) ** (1 / 25))


@claim(
    "relu-correlation-map",
    "two inputs of a deep He ReLU net grow alike",
    source="Cho & Saul 2009; Daniely et al. 2016",
    conditions="kappa by an integral over the angle (20,000 points), iterated to l = 1000; and a"
    " simulated net, n = 1000, 32 independent inputs, 16 seeds, to l = 50",
    statement="c_l = kappa(c_{l-1}): .318310, .493731, .604826, ...; 1 - c_l -> 9 pi²/(2 l²)",
    saboteurs={
        "slope map for the map": {"slopes": True, "gain2": 2.0},
        "leaky slope of .2": {"leak": 0.2},
    },
)
def relu_map(
    trial: Trial, slopes: bool = False, leak: float = 0.0, gain2: float = 2.0
) -> list[Comparison]:
    """Integrate the map directly, and simulate it.

    Args:
        trial: seeds and sizes.
        slopes: integrate the map of the slopes instead.
        leak: slope of the simulated ReLU below 0.
        gain2: gain² of the simulated weights.

    Returns:
        One comparison per number.
    """
    made = theory.iterate_correlation(1000)
    c, trajectory = 0.0, [0.0]
    for _ in range(1000):
        c = _kappa(c, slopes)
        trajectory.append(c)
    comparisons = [
        close(f"kappa iterated {n} times", float(made[n]), trajectory[n], "20,000 points", by=1e-6)
        for n in (1, 2, 3, 10, 100)
    ]
    gap = close(
        "gap 1 - c at l = 1000 over its limit",
        1.0,
        (1 - trajectory[1000]) / theory.relu_correlation_gap(1000),
        "the next term is of order log(l)/l",
        by=0.04,
    )
    layers = trial.pick((1, 2, 3, 5, 7, 10, 15, 20, 30, 50), (1, 3, 10))
    found = np.array(
        [
            _cosines(g, trial.pick(1000, 300), max(layers), leak, gain2)
            for g in trial.generators(16, 6)
        ]
    )
    reason = "width: a cosine is off by up to 1/√(8n), and 5 standard errors"
    simulated = [
        close(
            f"cosine in a net at layer {n}",
            float(made[n]),
            found[:, n],
            reason,
            by=trial.pick(0.025, 0.06),
            at=n,
        )
        for n in layers
    ]
    return [*comparisons, gap, *simulated]


def _kappa(c: float, slopes: bool) -> float:
    """Return 2 E relu(u) relu(v), u and v at an angle: u = r cos t, v = r cos(t - a)."""
    angle = math.acos(min(1.0, c))
    low, high = angle - math.pi / 2, math.pi / 2  # where both cosines are positive
    points = 20_000
    t = low + (np.arange(points) + 0.5) * (high - low) / points
    inner = np.ones_like(t) if slopes else np.cos(t) * np.cos(t - angle)
    mean_r = 0.5 if slopes else 1.0  # E r²/2 of a plane Gaussian over E 1/2
    return float(inner.mean() * (high - low) * 2 * mean_r / math.pi)


def _cosines(
    generator: torch.Generator, width: int, depth: int, leak: float, gain2: float
) -> list[float]:
    x = gaussian(generator, 32, width)
    found = []
    for _ in range(depth + 1):
        unit = x / x.norm(dim=1, keepdim=True)
        gram = unit @ unit.T
        found.append(float((gram.sum() - 32) / (32 * 31)))
        w = gaussian(generator, width, width) * math.sqrt(gain2 / (1 + leak**2) / width)
        x = torch.nn.functional.leaky_relu(x, leak) @ w.T
    return found
