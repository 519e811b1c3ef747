"""Reads weights, gradients and updates around an optimizer's step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sigprop.signals import ratios


@dataclass(frozen=True)
class ParameterNumbers:
    """What one step did to one parameter; a number that is undefined is NaN."""

    count: int
    weight_norm: float
    grad_norm: float
    grad_to_weight: float
    update_to_weight: float
    unit_grad_to_weight_max: float
    angular_update: float
    effective_lr: float

    @classmethod
    def columns(cls) -> list[str]:
        """Return the names of the numbers, in order."""
        return [field.name for field in fields(cls)]


class ParameterReadings:
    """Device sums of parameters, taken before and after a step and fetched together.

    The gradient is read as the optimizer receives it in ``step``: summed over micro-batches,
    reduced over ranks and unscaled; clipping that the user applied before ``step`` is in it.
    """

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}
        self._norms: dict[str, Tensor] = {}
        self._updates: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._rates: dict[str, float] = {}

    def read(
        self, name: str, parameter: nn.Parameter, rate: float = math.nan, unit_dim: int = 0
    ) -> None:
        """Read one parameter and its gradient.

        Args:
            name: the parameter's name.
            parameter: the parameter; passed over when it has no numbers (lazy, meta, empty).
            rate: the optimizer's learning rate for it.
            unit_dim: the axis of its output units.
        """
        if not _normable(parameter):
            return
        self._counts[name] = parameter.numel()
        self._rates[name] = rate
        self._norms[name] = _norms(parameter, unit_dim)

    def remember(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Keep copies of the parameters until `compare`; the price of one step's update."""
        self._before = {
            name: whole(parameter.detach()).clone()
            for name, parameter in parameters
            if name in self._norms and parameter.grad is not None
        }

    def compare(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Read how far each remembered parameter moved, shape (3,), and drop the copies."""
        for name, parameter in parameters:
            if name in self._before:
                before = self._before.pop(name)
                after = whole(parameter.detach())
                moved, turned = ratios.norm(after - before), ratios.angle(before, after)
                self._updates[name] = torch.cat([moved, turned.reshape(1).to(moved.dtype)])
        self._before.clear()

    def numbers(self, gradient_scale: float = 1.0) -> dict[str, ParameterNumbers]:
        """Fetch everything read so far and return it by parameter name.

        Args:
            gradient_scale: what the gradients that were read are multiples of.
        """
        norms, updates = _fetch(self._norms), _fetch(self._updates)
        for values in norms.values():
            values[2] /= gradient_scale
            values[4] /= gradient_scale
        return {name: self._numbers(name, norms[name], updates.get(name)) for name in norms}

    def clear(self) -> None:
        """Forget everything read: the step is over."""
        for kept in (self._before, self._norms, self._updates, self._counts, self._rates):
            kept.clear()

    def _numbers(
        self, name: str, values: list[float], update: list[float] | None
    ) -> ParameterNumbers:
        weight, grad, unit = (values[i] * values[i + 1] for i in (0, 2, 4))
        moved, turned = (update[0] * update[1], update[2]) if update else (math.nan, math.nan)
        return ParameterNumbers(
            count=self._counts[name],
            weight_norm=weight,
            grad_norm=grad,
            grad_to_weight=ratios.ratio(grad, weight),
            update_to_weight=ratios.ratio(moved, weight),
            unit_grad_to_weight_max=unit,
            angular_update=turned,
            effective_lr=ratios.ratio(self._rates[name], weight * weight),
        )


def _normable(parameter: nn.Parameter) -> bool:
    return (
        not is_lazy(parameter)
        and parameter.is_floating_point()
        and not parameter.is_meta
        and parameter.numel() > 0
    )


def _norms(parameter: nn.Parameter, unit_dim: int) -> Tensor:
    """Return norm pairs of weight, gradient and worst unit, shape (6,), NaN without gradient."""
    weight, grad = whole(parameter.detach()), parameter.grad
    norm = ratios.norm(weight)
    if grad is None:
        return torch.cat([norm, norm.new_full((4,), math.nan)])
    grad = whole(grad)
    if grad.is_sparse:  # only the touched rows have a gradient; uncoalesced values would not add
        grad = grad.coalesce()
        weight, grad = weight[grad.indices()[0]], grad.values()
        if grad.numel() == 0:
            return torch.cat([norm, norm.new_zeros(4)])
    unit = ratios.unit_ratio_max(weight, grad, unit_dim)
    return torch.cat([norm, ratios.norm(grad).to(norm.dtype), unit.to(norm.dtype)])


def whole(x: Tensor) -> Tensor:
    """Return a tensor that FSDP or tensor parallelism has spread over ranks, put together.

    A collective: every rank reads the same parameters in the same order. The norm of a DTensor
    taken as it is would be that of the local shard, silently.
    """
    gather = getattr(x, "full_tensor", None)
    return x if gather is None else gather()


def _fetch(sums: dict[str, Tensor]) -> dict[str, list[float]]:
    by_device: dict[torch.device, list[str]] = {}
    for name, values in sums.items():
        by_device.setdefault(values.device, []).append(name)
    fetched: dict[str, list[float]] = {}
    for names in by_device.values():
        rows = torch.stack([sums[name].double() for name in names]).tolist()
        fetched.update(zip(names, rows, strict=True))
    return {name: fetched[name] for name in sums}
