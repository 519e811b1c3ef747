"""Reads weights, gradients and updates around an optimizer's step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sigprop.signals import ratios
from sigprop.signals.norms import angles, compute_norms, compute_updates

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """One parameter as the model knows it.

    Attributes:
        name: its name.
        parameter: the parameter.
        rate: the optimizer's learning rate for it.
        unit_dim: the axis of its output units.
        updated: whether the optimizer updates it.
    """

    name: str
    parameter: nn.Parameter
    rate: float = math.nan
    unit_dim: int = 0
    updated: bool = False


class Table:
    """Rows of numbers by parameter, some at hand, others still on their device.

    Args:
        width: how many numbers a row has.
        decode: turns fetched device sums, one row a parameter, into rows of numbers.
    """

    def __init__(self, width: int, decode: Callable[[Array], Array]) -> None:
        self._width, self._understand = width, decode
        self._rows: dict[str, Array] = {}
        self._waiting: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._rows or name in self._waiting

    def put(self, names: Iterable[str], rows: Array) -> None:
        """Keep rows; a name's older one is replaced."""
        self._rows.update(zip(names, rows, strict=True))

    def wait(self, name: str, sums: Tensor) -> None:
        """Keep device sums until they are fetched."""
        self._waiting[name] = sums

    def rows(self, names: Sequence[str]) -> Array:
        """Fetch what waits, in one transfer per device; return a row a name, NaN for none."""
        by_device: dict[torch.device, list[str]] = {}
        for name, sums in self._waiting.items():
            by_device.setdefault(sums.device, []).append(name)
        for known in by_device.values():
            fetched = torch.stack([self._waiting[name] for name in known]).cpu().double().numpy()
            self.put(known, self._understand(fetched))
        self._waiting.clear()
        missing = np.full(self._width, np.nan)
        return np.array([self._rows.get(name, missing) for name in names]).reshape(-1, self._width)

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._waiting.clear()


class ParameterStatistics:
    """Norms of parameters, taken before and after a step.

    Those on the CPU are read at once, all in one call; on an accelerator sums wait until the step's
    end. The gradient is read as the optimizer receives it in ``step``: summed over micro-batches,
    reduced over ranks and unscaled; clipping that the user applied before ``step`` is in it.
    """

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._before: list[tuple[Known, Tensor]] = []
        self._norms, self._moves = Table(3, _products), Table(2, _moved)

    def read(self, parameters: Iterable[Known], remember: bool = False) -> None:
        """Read parameters and their gradients; those without numbers are passed over.

        Args:
            parameters: what to read.
            remember: keep copies of those with gradients that the optimizer updates, until
                `compare`: the price of an update.
        """
        names, without = [], []
        pairs: list[tuple[Tensor, Tensor]] = []
        copies: dict[int, Tensor] = {}
        if remember:
            self._before.clear()  # there are some if an optimizer's step raised
        for known in parameters:
            if not _normable(known.parameter):
                continue
            self._known[known.name] = known
            weight, grad = whole(known.parameter.detach()), known.parameter.grad
            moves = remember and known.updated and grad is not None
            if not (weight.is_cpu and (grad is None or grad.layout == torch.strided)):
                self._norms.wait(known.name, _norms(known.parameter, known.unit_dim))
                if moves:
                    self._before.append((known, weight.clone()))
                continue
            if moves:  # filled when the weight is read
                self._before.append((known, torch.empty_like(weight)))
                copies[len(pairs)] = _units_first(self._before[-1][1], known.unit_dim)
            names.append(known.name)
            without.append(grad is None)
            grad = weight if grad is None else whole(grad)
            axis = known.unit_dim
            pairs.append((_units_first(weight, axis), _units_first(grad, axis)))
        rows = compute_norms(pairs, copies)
        rows[:, :2] = np.sqrt(rows[:, :2])
        rows[np.array(without, dtype=bool), 1:] = math.nan
        self._norms.put(names, rows)

    def remember(self, parameters: Iterable[Known]) -> None:
        """Keep copies until `compare`, where it is not known yet which will have a gradient."""
        self._before = [
            (known, whole(known.parameter.detach()).clone())
            for known in parameters
            if known.updated and _normable(known.parameter)
        ]

    def compare(self) -> None:
        """Read how far and by what angle each remembered parameter moved; drop the copies."""
        names, pairs = [], []
        for known, before in self._before:
            if known.parameter.grad is None:  # nothing moved it
                continue
            after = whole(known.parameter.detach())
            if after.is_cpu:
                names.append(known.name)
                pairs.append((before, after))
            else:
                moved, turned = ratios.norm(after - before), ratios.angle(before, after)
                sums = torch.cat([moved, turned.reshape(1).to(moved.dtype)])
                self._moves.wait(known.name, sums)
        moves = compute_updates(pairs)
        self._moves.put(names, np.stack([np.sqrt(moves[:, 2]), angles(moves)], axis=1))
        self._before.clear()

    def numbers(self, gradient_scale: float = 1.0) -> tuple[list[str], dict[str, Any]]:
        """Fetch everything read so far; return the names and, by column, a value for each.

        A number that is undefined is NaN.

        Args:
            gradient_scale: what the gradients that were read are multiples of.
        """
        names = list(self._known)
        weight, grad, unit = self._norms.rows(names).T
        moved, turned = self._moves.rows(names).T
        shapes = [tuple(known.parameter.shape) for known in self._known.values()]
        return names, {
            "shape": ["x".join(map(str, shape)) for shape in shapes],
            "ndim": np.array([len(shape) for shape in shapes], dtype=np.int64),
            "count": np.array([k.parameter.numel() for k in self._known.values()], dtype=np.int64),
            "weight_norm": weight,
            "grad_norm": grad / gradient_scale,
            "grad_to_weight": ratios.ratio(grad / gradient_scale, weight),
            "update_to_weight": ratios.ratio(moved, weight),
            "unit_grad_to_weight_max": unit / gradient_scale,
            "angular_update": turned,
            "effective_lr": ratios.ratio([k.rate for k in self._known.values()], weight**2),
        }

    def clear(self) -> None:
        """Forget everything read: the step is over."""
        self._known.clear()
        self._before.clear()
        self._norms.clear()
        self._moves.clear()


def _units_first(x: Tensor, axis: int) -> Tensor:
    return x.movedim(axis, 0) if axis else x


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


def _products(pairs: Array) -> Array:
    """Return the norms behind pairs (norm of x/size, size), shape (P, 6) to (P, 3)."""
    return pairs[:, 0::2] * pairs[:, 1::2]


def _moved(sums: Array) -> Array:
    """Return (distance, angle) behind (norm of x/size, size, angle)."""
    return np.stack([sums[:, 0] * sums[:, 1], sums[:, 2]], axis=1)
