"""Modules whose code is PyTorch's own and adds nothing: what they do need not be watched."""

from __future__ import annotations

from torch import nn

from sigprop.capture.hooks.dataflow import LIGHT, WEIGHT

_WEIGHTS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_LIGHT: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.Threshold,
    nn.LeakyReLU,
    nn.PReLU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Softplus,
    nn.Tanh,
    nn.Sigmoid,
)
_FREE: tuple[type[nn.Module], ...] = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Flatten,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)
#: What each adds to the distance of a tensor, as the functions that it calls do.
_COSTS: dict[type[nn.Module], int] = {
    **dict.fromkeys(_WEIGHTS, WEIGHT),
    **dict.fromkeys(_LIGHT, LIGHT),
    **dict.fromkeys(_FREE, 0),
}


def closed_cost(module: nn.Module) -> int | None:
    """Return what passing a module adds to a tensor's distance; None if it must be watched.

    Closed are PyTorch's own simple layers, Sequentials of them, and addition modules (`ports`),
    whose operands their own hook takes. A subclass or a patched forward may do anything.

    Example:
        >>> closed_cost(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == WEIGHT + LIGHT
        True
        >>> closed_cost(nn.LSTM(2, 2)) is None
        True
    """
    if "forward" in vars(module):
        return None
    if hasattr(module, "ports"):
        return 0 if next(module.children(), None) is None else None
    if type(module) is nn.Sequential:
        costs = [closed_cost(child) for child in module]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if known and len(known) == len(costs) else None
    return _COSTS.get(type(module))
