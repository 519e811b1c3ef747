"""What a weight's gradient is summed from: parts per sample and position, and how they cancel."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from sigprop.errors import BadInput, suggestion
from sigprop.inputs.calling import Loss
from sigprop.inputs.devices import Device
from sigprop.objectives.objective import Objective

#: A layer's calls, each with its input and the gradient at its output.
Calls = list[tuple[Tensor, Tensor]]


def cancellation(
    model: nn.Module, loss: Loss, batch: object, *, device: Device = "auto"
) -> pd.DataFrame:
    """Compare the sum of magnitudes with the magnitude of the sum, weight by weight.

    The gradient of a kernel is the sum of d I over samples and positions, d the gradient at the
    output and I the input that the weight meets there. Where the parts point one way the two sums
    agree; where they cancel, sum|d I| is much larger than |sum d I|.

    Args:
        model: a copy of it is evaluated.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        A row per ``nn.Conv2d`` and ``nn.Linear`` that takes part: ``name, sum_of_magnitudes,
        magnitude_of_sum, ratio``, sums over all entries of the weight; NaN without a gradient.

    Raises:
        BadInput: what `Objective` refuses, or a model without such a layer.

    Source: Bjorck et al. 2018, section 3.3 and table 1.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> batch = torch.ones(3, 1), torch.tensor([[1.0], [1.0], [-1.0]])
        >>> frame = cancellation(layer, lambda out, y: (out * y).sum(), batch)
        >>> frame[["sum_of_magnitudes", "magnitude_of_sum", "ratio"]].values.tolist()
        [[3.0, 1.0, 3.0]]
    """
    objective = Objective(model, loss, batch, device)
    rows = []
    for name, (layer, calls) in _calls(objective).items():
        parts, total = torch.zeros_like(layer.weight), torch.zeros_like(layer.weight)
        for inputs, slope in calls:
            parts += _contributions(layer, inputs.abs(), slope.abs())
            total += _contributions(layer, inputs, slope)
        whole, left = float(parts.double().sum()), float(total.abs().double().sum())
        rows.append((name, whole, left, whole / left if left > 0 else math.nan))
    columns = ["name", "sum_of_magnitudes", "magnitude_of_sum", "ratio"]
    return pd.DataFrame(rows, columns=columns)


def by_channel_and_position(
    model: nn.Module, loss: Loss, batch: object, layer: str, *, device: Device = "auto"
) -> pd.DataFrame:
    """Return the gradient at a layer's output, averaged over the batch, channel by channel.

    Args:
        model: a copy of it is evaluated.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``.
        layer: name of an ``nn.Conv2d`` or ``nn.Linear``.
        device: where to compute, as in `sigprop.measure`.

    Returns:
        A row per channel and position: ``channel, row, column``, ``mean`` over samples of the
        gradient there (with its sign), ``mean_magnitude``; of several calls, their sum.

    Raises:
        BadInput: what `Objective` refuses, or no such layer takes part.

    Source: Bjorck et al. 2018, section 3.3, figure 5.
    """
    found = _calls(Objective(model, loss, batch, device))
    if layer not in found:
        raise BadInput(
            f"no convolution or linear layer called {layer!r} takes part; "
            f"{suggestion(layer, found)}"
        )
    slopes = [slope.double() for _, slope in found[layer][1]]
    slope = torch.stack([_as_map(found[layer][0], s) for s in slopes]).sum(dim=0)
    mean, magnitude = slope.mean(dim=0), slope.abs().mean(dim=0)
    channel, row, column = (axis.reshape(-1) for axis in np.indices(mean.shape))
    return pd.DataFrame(
        {
            "channel": channel,
            "row": row,
            "column": column,
            "mean": mean.reshape(-1).cpu().numpy(),
            "mean_magnitude": magnitude.reshape(-1).cpu().numpy(),
        }
    )


def _as_map(layer: nn.Module, slope: Tensor) -> Tensor:
    """Return (samples, channels, rows, columns); a linear layer has positions in one column."""
    if isinstance(layer, nn.Conv2d):
        return slope
    return slope.reshape(slope.shape[0], -1, slope.shape[-1]).movedim(-1, 1).unsqueeze(-1)


def _calls(objective: Objective) -> dict[str, tuple[nn.Conv2d | nn.Linear, Calls]]:
    """Return the layers that take part by name, with every call's input and gradient.

    Raises:
        BadInput: the model has none.
    """
    found: dict[str, tuple[nn.Conv2d | nn.Linear, Calls]] = {}
    handles = [
        module.register_forward_hook(partial(_keep, found, name))
        for name, module in objective.model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.requires_grad
    ]
    try:
        objective.gradient()
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise BadInput("this model calls no nn.Conv2d and no nn.Linear that receives a gradient")
    return found


def _keep(
    found: dict[str, tuple[nn.Conv2d | nn.Linear, Calls]],
    name: str,
    layer: nn.Conv2d | nn.Linear,
    args: tuple[Tensor, ...],
    out: Tensor,
) -> None:
    """Keep a call's input with the gradient that comes back to its output.

    A hook on the tensor gives the gradient before whatever changes the output in place.
    """
    inputs = args[0].detach()

    def note(slope: Tensor) -> None:
        found.setdefault(name, (layer, []))[1].append((inputs, slope.detach()))

    if out.requires_grad:
        out.register_hook(note)


def _contributions(layer: nn.Conv2d | nn.Linear, inputs: Tensor, slope: Tensor) -> Tensor:
    """Return the sum of d I over samples and positions, in the shape of the layer's weight."""
    if isinstance(layer, nn.Linear):
        return slope.reshape(-1, slope.shape[-1]).T @ inputs.reshape(-1, inputs.shape[-1])
    if layer.padding_mode != "zeros":
        inputs = functional.pad(inputs, _padding(layer), mode=layer.padding_mode)
        padding: tuple[int, ...] = (0, 0)
    elif isinstance(layer.padding, str):
        inputs = functional.pad(inputs, _padding(layer))
        padding = (0, 0)
    else:
        padding = layer.padding
    return conv2d_weight(
        inputs,
        layer.weight.shape,
        slope,
        layer.stride,
        padding,
        layer.dilation,
        layer.groups,
    )


def _padding(layer: nn.Conv2d) -> list[int]:
    """Return what a convolution adds on each side, as `torch.nn.functional.pad` takes it."""
    if not isinstance(layer.padding, str):
        return [size for size in reversed(layer.padding) for _ in range(2)]
    whole = layer.padding == "same"
    sizes = zip(reversed(layer.dilation), reversed(layer.kernel_size), strict=True)
    totals = [whole * dilation * (kernel - 1) for dilation, kernel in sizes]
    return [side for total in totals for side in (total // 2, total - total // 2)]
