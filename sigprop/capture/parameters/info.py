"""A model's parameters: what its optimizer does with each, where their units lie, their spectra."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sigprop.capture.model.naming import modules, parameters
from sigprop.capture.parameters.statistics import Known, whole
from sigprop.capture.torch_internals import TRANSPOSED_CONVOLUTIONS
from sigprop.signals import singular_values


class ParameterInfo:
    """Knows the axis of the output units of every parameter of a model.

    Args:
        model: the model; it is not kept.
    """

    def __init__(self, model: nn.Module) -> None:
        self._unit_dims = {
            f"{name}.weight": 1
            for name, module in modules(model)
            if isinstance(module, TRANSPOSED_CONVOLUTIONS)
        }

    def known(self, name: str, parameter: nn.Parameter, rate: float = math.nan) -> Known:
        """Return one parameter with what is known of it."""
        return Known(name, parameter, rate, self._unit_dims.get(name, 0))

    def updated(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Known]:
        """Yield every parameter with the optimizer's learning rate for it; NaN for none."""
        rates = {id(p): _rate(group) for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in parameters(model):
            rate = rates.get(id(parameter))
            known = self.known(name, parameter, math.nan if rate is None else rate)
            yield known if rate is None else replace(known, updated=True)


def gradient_scale(optimizer: torch.optim.Optimizer) -> float:
    """Return what gradients are still multiplied by: a fused optimizer unscales inside its step."""
    inside = getattr(optimizer, "grad_scale", None)
    return 1.0 if inside is None else float(inside)


def leaves_step_out(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a gradient scaler has a fused optimizer change nothing in this step."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _rate(group: Mapping[str, Any]) -> float:
    """Return the learning rate of a group of parameters; some optimizers have none."""
    rate = group.get("lr")
    return math.nan if rate is None else float(rate)


def spectra(model: nn.Module) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield (columns, rows) of the `spectra` frame for every weight with two axes or more."""
    for name, parameter in parameters(model):
        if is_lazy(parameter) or parameter.is_meta or not parameter.is_floating_point():
            continue
        if parameter.ndim < 2:
            continue
        values = singular_values(whole(parameter.detach())).numpy()
        with np.errstate(divide="ignore"):  # a singular value of 0 has the logarithm -inf
            logarithms = np.log(values)
        yield (
            {
                "name": name,
                "operator": "matrix",
                "index": np.arange(len(values)),
                "singular_value": values,
                "log_singular_value": logarithms,
            },
            len(values),
        )
