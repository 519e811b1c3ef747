"""A model's parameters: what its optimizer does with each, and where their units lie."""

from __future__ import annotations

import torch
from torch import nn

from sigprop.capture.model.naming import modules, parameters
from sigprop.capture.parameters.known import Known
from sigprop.capture.parameters.plan import ParameterPlan
from sigprop.capture.torch_internals import TRANSPOSED_CONVOLUTIONS


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
