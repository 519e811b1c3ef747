"""Reads weights, gradients and updates around an optimizer's step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sigprop.signals import ratios

Array = npt.NDArray[np.float64]


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

    def numbers(self, gradient_scale: float = 1.0) -> tuple[list[str], dict[str, Array]]:
        """Fetch everything read so far; return the names and, by column, a number for each.

        A number that is undefined is NaN.

        Args:
            gradient_scale: what the gradients that were read are multiples of.
        """
        names = list(self._norms)
        weight, grad, unit = _products(_fetch(self._norms, names, 6))
        updates = _fetch(self._updates, names, 3)
        moved = updates[:, 0] * updates[:, 1]
        return names, {
            "count": np.array([self._counts[name] for name in names], dtype=np.int64),
            "weight_norm": weight,
            "grad_norm": grad / gradient_scale,
            "grad_to_weight": ratios.ratio(grad / gradient_scale, weight),
            "update_to_weight": ratios.ratio(moved, weight),
            "unit_grad_to_weight_max": unit / gradient_scale,
            "angular_update": updates[:, 2],
            "effective_lr": ratios.ratio([self._rates[name] for name in names], weight**2),
        }

    def clear(self) -> None:
        """Forget everything read: the step is over."""
        for kept in (self._before, self._norms, self._updates, self._counts, self._rates):
            kept.clear()


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


def _products(pairs: Array) -> tuple[Array, ...]:
    """Return the numbers behind pairs (norm of x/size, size), one array a pair of columns."""
    return tuple(pairs[:, i] * pairs[:, i + 1] for i in range(0, pairs.shape[1], 2))


def _fetch(sums: dict[str, Tensor], names: Sequence[str], width: int) -> Array:
    """Return one row a name, NaN where it has no sums, in one transfer per device."""
    by_device: dict[torch.device, list[str]] = {}
    for name in sums:
        by_device.setdefault(sums[name].device, []).append(name)
    fetched: dict[str, Array] = {}
    for known in by_device.values():
        rows = torch.stack([sums[name].double() for name in known]).cpu().numpy()
        fetched.update(zip(known, rows, strict=True))
    missing = np.full(width, np.nan)
    return np.array([fetched.get(name, missing) for name in names]).reshape(-1, width)
