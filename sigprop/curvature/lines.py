"""Stability lines: the largest curvature along which an optimizer still converges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sigprop.curvature.hessian import Array, preconditioned
from sigprop.errors import BadInput
from sigprop.inputs.calling import Loss
from sigprop.inputs.devices import Device
from sigprop.linear_operators import largest_eigenvalues
from sigprop.objectives.objective import Objective


@dataclass(frozen=True)
class Stability:
    """How a loss's curvature stands to what an optimizer can follow.

    Attributes:
        sharpness: the Hessian's largest eigenvalue, of either sign: only a positive one makes an
            optimizer unstable.
        preconditioned: the same after the optimizer's own scaling of coordinates, P^-1 H; equal to
            `sharpness` for SGD with one learning rate.
        line: the value of `preconditioned` above which the optimizer diverges on a quadratic.
        vector: the eigenvector of `preconditioned`, for a warm start of the next call.
    """

    sharpness: float
    preconditioned: float
    line: float
    vector: Array

    @property
    def ratio(self) -> float:
        """Preconditioned sharpness over the line: above 1 the step is too long for a quadratic."""
        return self.preconditioned / self.line


def stability(
    model: nn.Module,
    loss: Loss,
    batch: object,
    optimizer: torch.optim.Optimizer,
    *,
    guess: Array | None = None,
    device: Device = "auto",
) -> Stability:
    """Return the sharpness beside the line up to which the optimizer is stable.

    Args:
        model: a copy of it is evaluated.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``.
        optimizer: `torch.optim.SGD`, `Adam` or `AdamW`, with its state; it stays as it is.
        guess: a vector to start from: `Stability.vector` of an earlier step.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        Sharpness, preconditioned sharpness, line, and the vector.

    Raises:
        BadInput: what `Objective` refuses, or an optimizer without a known line.

    Source: Cohen et al. 2021, section 2 (SGD); Cohen et al. 2022, section 2 (Adam).
    """
    line = stability_line(optimizer)
    objective = Objective(model, loss, batch, device)
    inverse = _inverse_preconditioner(model, optimizer, objective)
    scaled = preconditioned(objective, None if inverse is None else inverse.sqrt())
    found = largest_eigenvalues(scaled, by="algebraic", start=guess)
    top = float(found.values[0])
    if inverse is None:
        return Stability(top, top, line, found.start)
    plain = largest_eigenvalues(objective.hessian(), by="algebraic")
    return Stability(float(plain.values[0]), top, line, found.start)


def look_at_stability(
    model: nn.Module,
    loss: Loss,
    batch: object,
    optimizer: torch.optim.Optimizer,
    *,
    device: Device = "auto",
) -> pd.DataFrame:
    """Return `stability` and the loss as a row, for `sigprop.experiments.observed.observe`.

    Args:
        model: a copy of it is evaluated.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``.
        optimizer: as `stability` takes it.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        ``loss, sharpness, preconditioned, line, ratio``.
    """
    found = stability(model, loss, batch, optimizer, device=device)
    row = {
        "loss": Objective(model, loss, batch, device).value(),
        "sharpness": found.sharpness,
        "preconditioned": found.preconditioned,
        "line": found.line,
        "ratio": found.ratio,
    }
    return pd.DataFrame([row])


def stability_line(optimizer: torch.optim.Optimizer) -> float:
    """Return the curvature above which the optimizer diverges on a quadratic.

    ========================  =============================================================
    gradient descent          2/eta
    SGD with momentum beta    (2 + 2 beta)/((1 - dampening) eta)
    Nesterov momentum         (2 + 2 beta)/((1 + 2 beta) eta)
    Adam, AdamW               (2 + 2 beta_1)/((1 - beta_1) eta), of P^-1 H; 38/eta at .9
    ========================  =============================================================

    The weight decay lambda of SGD and Adam is a penalty of curvature lambda: it is taken off the
    line of SGD, and left out for Adam, whose coordinates it meets differently.

    Args:
        optimizer: of several groups the smallest line is returned, at the largest of their rates,
            relative to which `stability` scales the coordinates.

    Raises:
        BadInput: another class of optimizer, a rate of 0, or ``maximize``.

    Example:
        >>> weights = [nn.Parameter(torch.ones(1))]
        >>> round(stability_line(torch.optim.SGD(weights, lr=0.1, momentum=0.9)), 6)
        38.0
        >>> round(stability_line(torch.optim.Adam(weights, lr=0.1)), 6)
        380.0
    """
    return min(_line(optimizer, group) for group in optimizer.param_groups)


def _line(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float:
    rate = float(max(g["lr"] for g in optimizer.param_groups))
    if not rate > 0 or group.get("maximize", False):
        raise BadInput(
            "a stability line needs a positive learning rate that minimizes, got "
            f"lr={rate:g}, maximize={group.get('maximize', False)}"
        )
    if type(optimizer) is torch.optim.SGD:
        beta = float(group["momentum"])
        if group["nesterov"]:
            limit = (2 + 2 * beta) / (1 + 2 * beta)
        else:
            damped = 1 - group["dampening"] if beta else 1.0
            limit = (2 + 2 * beta) / damped if damped > 0 else math.inf
        return limit / rate - float(group["weight_decay"])
    if type(optimizer) in (torch.optim.Adam, torch.optim.AdamW):
        beta = float(group["betas"][0])
        return (2 + 2 * beta) / ((1 - beta) * rate)
    raise BadInput(
        f"no stability line is known for {type(optimizer).__name__}; there is one for SGD, Adam "
        "and AdamW. critical_sharpness follows the step of any optimizer"
    )


def _inverse_preconditioner(
    model: nn.Module, optimizer: torch.optim.Optimizer, objective: Objective
) -> Tensor | None:
    """Return the diagonal of P^-1 relative to the largest rate; None where it is the identity.

    Adam moves by -eta m/P with P = (1 - beta_1^t)(sqrt(v/(1 - beta_2^t)) + eps), with amsgrad the
    largest v so far. Before its first step it has no v, and the one that this batch would give is
    taken. A parameter that the optimizer does not hold does not move: its entry is 0.
    """
    groups = optimizer.param_groups
    names = {id(p): name.removeprefix("_orig_mod.") for name, p in model.named_parameters()}
    held = {names.get(id(p)): (p, group) for group in groups for p in group["params"]}
    plain = type(optimizer) is torch.optim.SGD
    if plain and len({group["lr"] for group in groups}) == 1 and set(objective.names) <= set(held):
        return None
    gradients = None if plain else objective.split(objective.start_gradient)
    top = max(group["lr"] for group in groups)
    parts = []
    for name, start in objective.split(objective.start).items():
        if name not in held:
            parts.append(torch.zeros_like(start))
            continue
        p, group = held[name]
        part = torch.full_like(start, float(group["lr"] / top))
        if gradients is not None:
            part = part / _adam(optimizer.state.get(p, {}), group, gradients[name]).to(start)
        parts.append(part)
    return torch.cat([part.reshape(-1) for part in parts])


def _adam(state: dict[str, Any], group: dict[str, Any], gradient: Tensor) -> Tensor:
    beta1, beta2 = group["betas"]
    if "exp_avg_sq" in state:
        second = state.get("max_exp_avg_sq", state["exp_avg_sq"])
        steps = float(state["step"])
    else:
        second, steps = (1 - beta2) * gradient**2, 1.0
    root = (second / (1 - beta2**steps)).sqrt() + group["eps"]
    return root * (1 - beta1**steps)
