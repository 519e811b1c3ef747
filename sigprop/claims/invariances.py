"""What batch, weight and layer normalization are invariant to, and what not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_least, at_most, close
from sigprop.claims.subjects import Norm, batch_norm, batch_norm_eps, gaussian, layer_norm


@claim(
    "bn-scale-invariance",
    "after BatchNorm a weight's scale does not matter, and its gradient is 1/c",
    source="Ioffe & Szegedy 2015, section 3.3; van Laarhoven 2017",
    conditions="64 samples, 20 -> 10 units, c = 1e-3, 1e-1, 10, 1e3; float64, eps = 0",
    statement="BN(cWx) = BN(Wx); dL/d(cW) = (1/c) dL/dW; <w_i, dL/dw_i> = 0",
    note="with eps = 1e-5 the deviation is eps/(2 c² var), and a negative c flips the sign",
    tags=["exact"],
    saboteurs={
        "eps left at 1e-5": {"norm": batch_norm_eps},
        "normalized over features": {"norm": layer_norm, "per_unit": True},
    },
)
def bn_scale(trial: Trial, norm: Norm = batch_norm, per_unit: bool = False) -> list[Comparison]:
    """Compare outputs and gradients of W and cW.

    Args:
        trial: seeds and sizes.
        norm: a normalization of (samples, units).
        per_unit: scale the first row only, which is what separates norms over samples from norms
            over units.

    Returns:
        One comparison per number.
    """
    generator = torch.Generator().manual_seed(trial.base)
    x, w = (gaussian(generator, *shape, double=True) for shape in ((64, 20), (10, 20)))
    r = gaussian(generator, 64, 10, double=True)
    scale = torch.ones(10, 1, dtype=torch.float64)
    worst = np.zeros(3)
    out, gradient = _response(norm, w, x, r)
    for c in (1e-3, 1e-1, 10.0, 1e3):
        factor = scale * c
        if per_unit:  # the two norms differ under the scale of one row
            factor[1:] = 1
        moved, steep = _response(norm, factor * w, x, r)
        inner = (steep * factor * w).sum(dim=1) / (steep.norm() * (factor * w).norm())
        found = (
            (moved - out).norm() / out.norm(),
            (factor * steep - gradient).norm() / gradient.norm(),
            inner.abs().max(),
        )
        worst = np.maximum(worst, [float(v) for v in found])
    names = (
        "change of the output, relative",
        "deviation of the gradient from 1/c, relative",
        "cosine of weight and gradient",
    )
    reason = "float64 rounding over 64 samples; eps would leave 1e-2 at c = 1e-3"
    return [at_most(name, 1e-10, value, reason) for name, value in zip(names, worst, strict=True)]


def _response(norm: Norm, w: Tensor, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    w = w.clone().requires_grad_()
    out = norm(x @ w.T)
    (gradient,) = torch.autograd.grad((out * r + 0.1 * out**3).sum(), w)
    return out.detach(), gradient


#: norm -> which transformations leave its output as it is (Ba, Kiros & Hinton 2016, Table 1).
TABLE: Mapping[str, Mapping[str, bool]] = {
    name: dict(
        zip(
            ("all weights", "weights recentered", "one row", "data", "data shifted", "one sample"),
            cells,
            strict=True,
        )
    )
    for name, cells in {
        "batch norm": (True, False, True, True, True, False),
        "weight norm": (True, False, True, False, False, False),
        "layer norm": (True, True, False, True, False, True),
    }.items()
}


def _table_layers(batch: Norm, layer: Norm) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    return {
        "batch norm": lambda w, x: batch(x @ w.T),
        "weight norm": lambda w, x: x @ (w / w.norm(dim=1, keepdim=True)).T,
        "layer norm": lambda w, x: layer(x @ w.T),
    }


def _transformed(how: str, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    if how == "all weights":
        return 3.0 * w, x
    if how == "weights recentered":
        return w + w[0] - 2.0, x
    if how == "one row":
        return torch.cat([3.0 * w[:1], w[1:]]), x
    if how == "data":
        return w, 3.0 * x
    if how == "data shifted":
        return w, x + torch.linspace(-1, 1, x.shape[1], dtype=x.dtype)
    return w, torch.cat([3.0 * x[:1], x[1:]])


@claim(
    "norm-invariances",
    "what batch, weight and layer normalization are invariant to",
    source="Ba, Kiros & Hinton 2016, Table 1",
    conditions="32 samples, 20 -> 10 units, factor 3 on weights, a row, the data or one sample, and"
    " shifts; float64, eps = 0",
    statement="18 cells: 10 where the output stays, 8 where it changes",
    note="layer normalization is not invariant to a shift of the data set, as the slides have it,"
    " but to recentering the weight matrix",
    tags=["exact"],
    saboteurs={
        "eps left at 1e-5": {"batch": batch_norm_eps},
        "layer norm over the batch": {"layer": batch_norm},
    },
)
def norm_invariances(
    trial: Trial, batch: Norm = batch_norm, layer: Norm = layer_norm
) -> list[Comparison]:
    """Transform weights and data, and see whether the output moves.

    Args:
        trial: seeds and sizes.
        batch: stands for batch normalization.
        layer: stands for layer normalization.

    Returns:
        One comparison per number.
    """
    generator = torch.Generator().manual_seed(trial.base)
    w, x = (gaussian(generator, n, 20, double=True) for n in (10, 32))
    comparisons = []
    for name, function in _table_layers(batch, layer).items():
        before = function(w, x)
        change = {
            how: float((function(*_transformed(how, w, x)) - before).abs().max())
            for how in TABLE[name]
        }
        stays = max(change[how] for how, same in TABLE[name].items() if same)
        moves = min(change[how] for how, same in TABLE[name].items() if not same)
        comparisons += [
            at_most(f"{name}: largest change where invariant", 1e-10, stays, "float64 rounding"),
            at_least(f"{name}: smallest change elsewhere", 0.1, moves, "outputs are of size 1"),
        ]
    return comparisons


@claim(
    "instance-norm-1x1",
    "instance normalization of a 1 x 1 map returns 0",
    source="derived: one position is its own mean",
    conditions="8 x 16 x 1 x 1, float64; and 2 x 2, where it does not",
    statement="IN(x) = 0 on a 1 x 1 map",
    tags=["exact"],
    saboteurs={"map of 2 x 2": {"side": 2}},
)
def instance_norm(trial: Trial, side: int = 1) -> list[Comparison]:
    """Normalize maps of one position, with the plain formula that torch refuses to run.

    Args:
        trial: seeds and sizes.
        side: of the map.

    Returns:
        One comparison per number.
    """
    x = gaussian(torch.Generator().manual_seed(trial.base), 8, 16, side, side, double=True)
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    out = (x - mean) / (variance + 1e-5).sqrt()
    worst = float(out.abs().max())
    return [close("largest output", 0.0, worst, "exact", by=0.0)]
