"""Reads weights, gradients and updates around an optimizer's step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sigprop.capture.parameters.known import Known, has_norms, real
from sigprop.capture.parameters.plan import ParameterPlan, sizes
from sigprop.capture.parameters.sharded import sharded
from sigprop.signals import ratios
from sigprop.signals.norms import angles, compute_norms, compute_updates

Array = npt.NDArray[np.float64]


class NamedRows:
    """Rows of numbers by parameter, some at hand, others still on their device.

    Args:
        width: how many numbers a row has.
        decode: turns fetched device sums, one row a parameter, into rows of numbers.
    """

    def __init__(self, width: int, decode: Callable[[Array], Array]) -> None:
        self._width, self._decode = width, decode
        self._rows: dict[str, Array] = {}
        self._waiting: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __bool__(self) -> bool:
        return bool(self._rows)

    def put(self, names: Iterable[str], rows: Array) -> None:
        """Keep rows; a name's older one is replaced.

        Args:
            names: of parameters.
            rows: their numbers, of shape (names, numbers).
        """
        self._rows.update(zip(names, rows, strict=True))

    def wait(self, name: str, sums: Tensor) -> None:
        """Keep device sums until they are fetched.

        Args:
            name: of the parameter.
            sums: on its device.
        """
        self._waiting[name] = sums

    def waiting(self) -> list[Tensor]:
        """Return the device sums that wait, to be fetched with all else."""
        return list(self._waiting.values())

    def receive(self, fetched: Sequence[Array]) -> None:
        """Take what was fetched."""
        if fetched:
            self.put(list(self._waiting), self._decode(np.stack(fetched)))
            self._waiting.clear()

    def rows(self, names: Sequence[str]) -> Array:
        """Return a row a name, NaN for none."""
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
        self._norms, self._moves = NamedRows(3, _products), NamedRows(3, _moved)
        self._plan: ParameterPlan | None = None
        self._dense = np.empty((0, 6))
        self._rates: Array = np.empty(0)
        self._sharded: tuple[Array, npt.NDArray[np.int64]] | None = None
        self._copying: ParameterPlan | None = None

    def read_all(
        self, plan: ParameterPlan, optimizer: torch.optim.Optimizer, remember: bool = False
    ) -> None:
        """Read all parameters of a plan and their gradients.

        Args:
            plan: what to read.
            optimizer: gives the learning rates.
            remember: keep copies of those with gradients that the optimizer updates, until
                `compare`: the price of an update.
        """
        self._plan, self._rates = plan, plan.rates(optimizer)
        if remember:
            self._before.clear()  # there are some if an optimizer's step raised
        norms, odd = plan.dense.read(remember)
        norms[:, :2] = np.sqrt(norms[:, :2])
        self._dense = np.full((len(plan.known), 6), np.nan)
        self._dense[plan.dense.rows, :3] = norms
        plan.sharded.read(remember)
        if odd or plan.others:
            self._read([plan.known[row] for row in (*plan.others, *odd)], remember)

    def read(self, known: Known) -> None:
        """Read one parameter and its gradient, if this rank has it as a whole and with numbers."""
        if has_norms(known.parameter) and not sharded(known.parameter):
            self._known[known.name] = known
            self._read([known], remember=False)

    def _read(self, parameters: Iterable[Known], remember: bool) -> None:
        names, without = [], []
        pairs: list[tuple[Tensor, Tensor]] = []
        copies: dict[int, Tensor] = {}
        for known in parameters:
            weight, grad = real(known.parameter.detach()), known.parameter.grad
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
            grad = weight if grad is None else real(grad)
            axis = known.unit_dim
            pairs.append((_units_first(weight, axis), _units_first(grad, axis)))
        rows = compute_norms(pairs, copies)
        rows[:, :2] = np.sqrt(rows[:, :2])
        rows[np.array(without, dtype=bool), 1:] = math.nan
        self._norms.put(names, rows)

    def remember(self, parameters: Iterable[Known]) -> None:
        """Keep copies until `compare`, where it is not known yet which will have a gradient."""
        self._before = [
            (known, real(known.parameter.detach()).clone())
            for known in parameters
            if known.updated and has_norms(known.parameter) and not sharded(known.parameter)
        ]

    def compare(self) -> None:
        """Read how far and by what angle each remembered parameter moved; drop the copies."""
        if self._plan is not None:
            moves, rows = self._plan.dense.compare()
            self._dense[rows, 3:] = _movement(moves)
            self._plan.sharded.compare()
        if not self._before:
            return
        names, pairs = [], []
        for known, before in self._before:
            if known.parameter.grad is None:  # nothing moved it
                continue
            after = real(known.parameter.detach())
            if after.is_cpu:
                names.append(known.name)
                pairs.append((before, after))
            else:
                moved, norm = ratios.norm(after - before), ratios.norm(before)
                turned = ratios.angle(before, after).reshape(1)
                sums = torch.cat([moved, turned.to(moved.dtype), norm.to(moved.dtype)])
                self._moves.wait(known.name, sums)
        self._moves.put(names, _movement(compute_updates(pairs)))
        self._before.clear()

    def waiting(self) -> list[Tensor]:
        """Return the numbers that are still on their device, to be fetched with all else."""
        return [*self._norms.waiting(), *self._moves.waiting()]

    def receive(self, fetched: Sequence[Array]) -> None:
        """Take what was fetched, in the order of `waiting`."""
        count = len(self._norms.waiting())
        self._norms.receive(fetched[:count])
        self._moves.receive(fetched[count:])

    def sharded(self) -> Array:
        """Return what was read of parts of parameters: numbers that add over ranks."""
        return np.zeros(0) if self._plan is None else self._plan.sharded.packed()

    def receive_sharded(self, summed: Array) -> None:
        """Take the sums over ranks of `sharded`."""
        if self._plan is not None and self._plan.split:
            self._sharded = self._plan.sharded.norms(summed)

    def numbers(self, gradient_scale: float = 1.0) -> tuple[list[str], dict[str, Any]]:
        """Fetch everything that was read so far.

        A number that is undefined is NaN.

        Args:
            gradient_scale: what the gradients that were read are multiples of.

        Returns:
            The parameters' names, and by column an array with a value for each.
        """
        names, columns, rates, numbers = self._rows()
        weight, grad, unit, moved, turned, before = numbers.T
        # An optimizer that perturbs the weights for its closure (SAM) moves them from where they
        # were before that.
        weight = np.where(np.isnan(before), weight, before)
        return names, {
            **columns,
            "weight_norm": weight,
            "grad_norm": grad / gradient_scale,
            "grad_to_weight": ratios.ratio(grad / gradient_scale, weight),
            "update_to_weight": ratios.ratio(moved, weight),
            "unit_grad_to_weight_max": unit / gradient_scale,
            "angular_update": turned,
            "effective_lr": ratios.ratio(rates, weight**2),
        }

    def _rows(self) -> tuple[list[str], dict[str, Any], Array, Array]:
        """Return names, columns of sizes, learning rates, and norms with moves, a row each."""
        plan = self._plan
        if plan is None:
            known = list(self._known.values())
            names, rates = list(self._known), np.full(len(known), np.nan)
            numbers = np.concatenate([self._norms.rows(names), self._moves.rows(names)], axis=1)
            return names, sizes(known), rates, numbers
        numbers, columns = self._dense.copy(), plan.sizes
        if self._sharded is not None:
            numbers[plan.split], counts = self._sharded
            columns = {**columns, "count": columns["count"].copy()}
            columns["count"][plan.split] = counts
        for row, name in enumerate(plan.names) if self._norms or self._moves else ():
            if name in self._norms:
                numbers[row, :3] = self._norms.rows([name])
            if name in self._moves:
                numbers[row, 3:] = self._moves.rows([name])
        return plan.names, columns, self._rates, numbers

    def clear(self) -> None:
        """Forget everything read: the step is over."""
        if self._copying is not None and self._plan is None:
            self._copying.dense.forget_copies()  # nothing was read in this step, nor may be soon
        self._copying, self._plan = self._plan, None
        self._sharded = None
        self._known.clear()
        self._before.clear()
        self._norms.clear()
        self._moves.clear()


def _units_first(x: Tensor, axis: int) -> Tensor:
    return x.movedim(axis, 0) if axis else x


def _norms(parameter: nn.Parameter, unit_dim: int) -> Tensor:
    """Return norm pairs of weight, gradient and worst unit, shape (6,), NaN without gradient."""
    weight, grad = real(parameter.detach()), parameter.grad
    norm = ratios.norm(weight)
    if grad is None:
        return torch.cat([norm, norm.new_full((4,), math.nan)])
    grad = real(grad)
    if grad.is_sparse:  # only the touched rows have a gradient; uncoalesced values would not add
        grad = grad.coalesce()
        weight, grad = weight[grad.indices()[0]], grad.values()
        if grad.numel() == 0:
            return torch.cat([norm, norm.new_zeros(4)])
    unit = ratios.unit_ratio_max(weight, grad, unit_dim)
    return torch.cat([norm, ratios.norm(grad).to(norm.dtype), unit.to(norm.dtype)])


def _products(pairs: Array) -> Array:
    """Return the norms behind pairs (norm of x/size, size), shape (P, 6) to (P, 3)."""
    return pairs[:, 0::2] * pairs[:, 1::2]


def _moved(sums: Array) -> Array:
    """Return (distance, angle, norm before) behind norms as (norm of x/size, size) and an angle."""
    return np.stack([sums[:, 0] * sums[:, 1], sums[:, 2], sums[:, 3] * sums[:, 4]], axis=1)


def _movement(updates: Array) -> Array:
    """Return (distance, angle, norm before) behind rows of `compute_updates`."""
    return np.stack([np.sqrt(updates[:, 2]), angles(updates), np.sqrt(updates[:, 0])], axis=1)
