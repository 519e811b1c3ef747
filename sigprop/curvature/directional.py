"""Curvature along one step, from losses alone: how long the step may be before the loss rises."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sigprop.bisection import bracket
from sigprop.errors import BadInput
from sigprop.inputs.calling import Loss
from sigprop.inputs.devices import Device
from sigprop.objectives.objective import Objective
from sigprop.objectives.updates import next_update


def critical_sharpness(
    model: nn.Module,
    loss: Loss,
    batch: object,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    precision: float = 0.01,
    device: Device = "auto",
) -> float:
    """Return 2/eta_c: eta_c is the smallest rate whose step along the update raises the loss.

    On a quadratic this is u^T H u / g^T u for the update -eta u, and g^T H g/‖g‖² for gradient
    descent. The rate is doubled or halved until it brackets eta_c and then bisected: some ten to
    twenty forward passes, and one gradient for the update.

    Args:
        model: a copy of it is evaluated.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``.
        optimizer: whose next step is followed, with its state (momentum, Adam's moments, decay) and
            its learning rate; it and the model stay as they are. Gradient descent when not given.
        precision: relative error of eta_c at which bisection ends.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        The critical sharpness, in units of 1/rate; 0 where no rate raises the loss, infinite where
        every rate does (the update points uphill), NaN where the update is zero.

    Raises:
        BadInput: what `Objective` refuses, an optimizer of other parameters, or a precision that is
            not in 0..1.

    Source: Kalra & Barkeshli 2024 (critical learning rate), section 3.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> batch = (torch.tensor([[3.0]]), torch.tensor([[1.0]]))
        >>> found = critical_sharpness(layer, nn.functional.mse_loss, batch)  # H = 2 * 3²
        >>> round(found, 0)
        18.0
    """
    if not 0 < precision < 1:
        raise BadInput(f"precision is between 0 and 1, not {precision!r}")
    objective = Objective(model, loss, batch, device)
    if optimizer is None:
        rate, update = 1.0, -objective.start_gradient
    else:
        rate = float(optimizer.param_groups[0]["lr"])
        update = next_update(model, optimizer, objective)
    critical = rate * _critical(objective, update, precision)
    return 2 / critical if critical else math.inf


def _critical(objective: Objective, update: Tensor, precision: float) -> float:
    """Return the smallest factor of the update that raises the loss; NaN without an update."""
    if not bool(update.any()):
        return math.nan
    here = objective.value()

    def rises(factor: float) -> bool:
        value = objective.value(objective.start + factor * update)
        return not value <= here  # NaN is a rise

    low, high = bracket(rises, 1.0, precision)
    return math.sqrt(low * high)
