"""Internal covariate shift: a layer's gradient before and after the update of earlier layers."""

from __future__ import annotations

import math

import pandas as pd
import torch
from torch import Tensor, nn

from sigprop.inputs.calling import Loss
from sigprop.inputs.devices import Device
from sigprop.objectives.objective import Objective
from sigprop.objectives.updates import next_update


def covariate_shift(
    model: nn.Module,
    loss: Loss,
    batch: object,
    optimizer: torch.optim.Optimizer,
    *,
    device: Device = "auto",
) -> pd.DataFrame:
    """Compare each layer's gradient before and after the update of the layers in front of it.

    G_i is the gradient of layer i's parameters at the present weights; G'_i is the same with the
    layers before i where the optimizer's next step takes them, and i and those behind it as
    they are.

    Args:
        model: a copy of it is moved.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``.
        optimizer: whose next step moves the layers; it stays as it is.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        A row per module that owns trainable parameters, in the order of their first call:
        ``index, layer, gradient_norm`` ‖G‖, ``distance`` ‖G - G'‖, ``cosine`` of G and G' (NaN
        where one is 0). The first layer has none before it: distance 0.

    Raises:
        BadInput: what `Objective` refuses, or an optimizer of other parameters.

    Source: Santurkar et al. 2018, definition 2.1.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> batch = torch.ones(4, 2), torch.zeros(4, 1)
        >>> frame = covariate_shift(net, nn.functional.mse_loss, batch, sgd)
        >>> frame["layer"].tolist(), float(frame["distance"][0])
        (['0', '2'], 0.0)
    """
    objective = Objective(model, loss, batch, device)
    update = objective.split(next_update(model, optimizer, objective))
    before = objective.split(objective.start_gradient)
    here = objective.split(objective.start.clone())
    rows = []
    for index, (layer, names) in enumerate(_layers(objective).items()):
        after = objective.split(objective.gradient(_joined(objective, here)))
        rows.append(
            (index, layer, *_compared([before[n] for n in names], [after[n] for n in names]))
        )
        for name in names:
            here[name] = here[name] + update[name]
    return pd.DataFrame(rows, columns=["index", "layer", "gradient_norm", "distance", "cosine"])


def _joined(objective: Objective, parts: dict[str, Tensor]) -> Tensor:
    return torch.cat([parts[name].reshape(-1) for name in objective.names])


def _compared(before: list[Tensor], after: list[Tensor]) -> tuple[float, float, float]:
    one, two = (torch.cat([g.reshape(-1).double() for g in gs]) for gs in (before, after))
    lengths = float(one.norm()), float(two.norm())
    product = lengths[0] * lengths[1]
    cosine = float(one @ two) / product if product > 0 else math.nan
    return lengths[0], float((one - two).norm()), cosine


def _layers(objective: Objective) -> dict[str, list[str]]:
    """Return the modules that own trainable parameters, in calling order, and these by name."""
    owners: dict[str, list[str]] = {}
    for name in objective.names:
        owners.setdefault(name.rpartition(".")[0], []).append(name)
    called = objective.calling_order()
    late = len(called)
    return {
        owner: owners[owner] for owner in sorted(owners, key=lambda name: called.get(name, late))
    }
