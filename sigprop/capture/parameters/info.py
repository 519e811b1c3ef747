"""A model's parameters: what its optimizer does with each, where their units lie, their spectra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sigprop.capture.model.naming import modules, parameters
from sigprop.capture.parameters.known import Known, whole
from sigprop.capture.parameters.plan import ParameterPlan
from sigprop.capture.torch_internals import TRANSPOSED_CONVOLUTIONS
from sigprop.signals import singular_values


class ParameterInfo:
    """What is known of a model's parameters: the axes of their output units, and how they are read.

    Args:
        model: the model; it is not kept.
    """

    def __init__(self, model: nn.Module) -> None:
        self._plan: ParameterPlan | None = None
        self._unit_dims = {
            f"{name}.weight": 1
            for name, module in modules(model)
            if isinstance(module, TRANSPOSED_CONVOLUTIONS)
        }

    def known(self, name: str, parameter: nn.Parameter, updated: bool = False) -> Known:
        """Return one parameter with what is known of it.

        Args:
            name: of the parameter.
            parameter: itself.
            updated: whether the optimizer that steps has it.
        """
        return Known(name, parameter, self._unit_dims.get(name, 0), updated)

    def plan(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> ParameterPlan:
        """Return what is read at a step of an optimizer; the same as before while that fits.

        Args:
            model: the probed model.
            optimizer: the one that steps.
        """
        if self._plan is None or not self._plan.fits(optimizer):
            trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
            known = [self.known(n, p, id(p) in trained) for n, p in parameters(model)]
            self._plan = ParameterPlan(model, known, optimizer)
        return self._plan

    def forget(self) -> None:
        """Let go of the parameters."""
        self._plan = None


def gradient_scale(optimizer: torch.optim.Optimizer) -> float:
    """Return what gradients are still multiplied by: a fused optimizer unscales inside its step."""
    inside = getattr(optimizer, "grad_scale", None)
    return 1.0 if inside is None else float(inside)


def leaves_step_out(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a gradient scaler has a fused optimizer change nothing in this step."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


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
