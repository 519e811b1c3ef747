"""Which weights a network is indifferent to the length of: found from gradients, not from names."""

from __future__ import annotations

import math

import pandas as pd
from torch import Tensor, nn

from sigprop.errors import BadInput
from sigprop.inputs.calling import Loss
from sigprop.inputs.devices import Device
from sigprop.objectives.objective import Objective


def find(
    model: nn.Module,
    loss: Loss,
    batch: object,
    tolerance: float = 0.01,
    *,
    device: Device = "cpu",
) -> pd.DataFrame:
    """Find the parameters that the loss is scale invariant in.

    Where L(c w) = L(w) for every c > 0, Euler's theorem gives <w, grad L> = 0 and the gradient at
    2 w is half of that at w. Both are tested, in float64, per parameter as a whole and per output
    unit (a row of a matrix, a filter of a kernel): behind batch normalization every unit is
    invariant by itself, behind layer normalization only the matrix as a whole.

    Args:
        model: a copy of it is evaluated.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``.
        tolerance: relative deviation of the gradient at 2 w from half of that at w that still
            counts as invariant. A normalization's eps leaves about eps over the variance that it
            divides by.
        device: where to compute; float64 needs the CPU or CUDA.

    Returns:
        A row per parameter: ``name, cosine`` of w and its gradient, ``unit_cosine`` the largest of
        its units', ``gradient_error`` the deviation described above, and ``invariant``: ``"unit"``,
        ``"tensor"`` or ``""``. A parameter without a gradient has NaN and is not invariant.

    Raises:
        BadInput: what `Objective` refuses, or a tolerance that is not in 0..1.

    Source: van Laarhoven 2017, section 2; Hoffer et al. 2018, section 3.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 2))
        >>> from sigprop.inputs.devices import normal
        >>> batch = normal((16, 4), seed=0), normal((16, 2), seed=1)
        >>> frame = find(net, nn.functional.mse_loss, batch)
        >>> frame["name"][frame["invariant"] == "unit"].tolist()
        ['0.weight']
    """
    if not 0 < tolerance < 1:
        raise BadInput(f"tolerance is between 0 and 1, not {tolerance!r}")
    objective = Objective(model, loss, batch, device, double=True)
    gradients = objective.split(objective.start_gradient)
    rows = []
    for name, w in objective.split(objective.start.clone()).items():
        g = gradients[name]
        length, steepness = float(w.norm()), float(g.norm())
        if not length > 0 or not steepness > 0:
            rows.append((name, math.nan, math.nan, math.nan, ""))
            continue
        cosine = float((w * g).sum()) / (length * steepness)
        unit = _unit_cosine(w, g)
        error = _gradient_error(objective, name, g)
        found = ""
        if abs(cosine) < tolerance and error < tolerance:
            found = "unit" if w.dim() > 1 and unit < tolerance else "tensor"
        rows.append((name, cosine, unit, error, found))
    columns = ["name", "cosine", "unit_cosine", "gradient_error", "invariant"]
    return pd.DataFrame(rows, columns=columns)


def _unit_cosine(w: Tensor, g: Tensor) -> float:
    """Return the largest |<w_i, g_i>| over output units, relative to the mean unit's lengths."""
    rows, slopes = w.reshape(len(w) if w.dim() else 1, -1), g.reshape(len(g) if g.dim() else 1, -1)
    scale = rows.norm() * slopes.norm() / len(rows)
    return float((rows * slopes).sum(dim=1).abs().max() / scale)


def _gradient_error(objective: Objective, name: str, g: Tensor) -> float:
    """Return ‖2 grad L(2 w) - grad L(w)‖/‖grad L(w)‖, with one parameter doubled."""
    doubled = objective.start.clone()
    objective.split(doubled)[name].mul_(2)
    twice = objective.split(objective.gradient(doubled))[name]
    return float((2 * twice - g).norm() / g.norm())
