"""The ways to write a sum of two tensors, and its two summands."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sigprop.capture.hooks.dataflow import Dataflow, Operands

Arguments = tuple[Any, ...]
Keywords = Mapping[str, Any]

#: Functions that write into their first argument.
WRITES = frozenset({"__setitem__", "index_add_", "index_copy_", "scatter_", "copy_"})

#: Makes the tensor whose sum over the new axis is the sum of its parts.
STACKS = frozenset({"stack"})


@dataclass(frozen=True)
class Summands:
    """Two tensors that are added.

    Attributes:
        first: one of them.
        second: the other.
        scales: what each is multiplied by in the sum.
        gates: tensors that scale them; gates that follow from the input make it no residual sum.
        symmetric: whether the second may be the skip.
    """

    first: Tensor
    second: Tensor
    scales: tuple[Any, Any] = (1, 1)
    gates: tuple[Tensor, ...] = field(default=())
    symmetric: bool = True

    def residual(self, dataflow: Dataflow, frame: int) -> Operands | None:
        """Return what is skip and branch, or None where the sum is no residual addition.

        Args:
            dataflow: how far the summands have come.
            frame: the call of a module in which they are added.
        """
        found = dataflow.operands(self.first, self.second, frame)
        if found is None or (found.swapped and not self.symmetric):
            return None
        if any(dataflow.distance(x, frame) is not None for x in self.gates):
            return None
        return found

    def taken(self, swapped: bool) -> tuple[Tensor, Tensor]:
        """Return skip and branch as they are added.

        Where they are scaled that is no tensor of the model, and has no gradient.

        Args:
            swapped: whether the skip is the second.
        """
        pairs = zip((self.first, self.second), self.scales, strict=True)
        a, b = (x if _is_one(scale) else x.detach() * scale for x, scale in pairs)
        return (b, a) if swapped else (a, b)


def _is_one(scale: Any) -> bool:
    return not isinstance(scale, Tensor) and scale == 1


class Stacks:
    """The parts of tensors that were stacked, while a sum over them may come."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], list[Tensor], int]] = {}

    def note(self, args: Arguments, kwargs: Keywords, out: Tensor) -> None:
        """Keep the parts of a stack of two tensors.

        Args:
            args: the arguments of the function.
            kwargs: those by name.
            out: what it returned.
        """
        parts = args[0] if args else kwargs.get("tensors", ())
        if not isinstance(parts, list | tuple) or len(parts) != 2:
            return
        axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        self._known[id(out)] = weakref.ref(out), list(parts), axis % out.ndim

    def take(self, x: object, axis: object) -> list[Tensor] | None:
        """Return the parts of a stack that is summed over its axis, and forget them.

        Args:
            x: what is summed.
            axis: over which, as the sum was given it.
        """
        if isinstance(axis, list | tuple) and len(axis) == 1:
            axis = axis[0]
        known = self._known.get(id(x))
        if known is None or not isinstance(x, Tensor) or not isinstance(axis, int):
            return None
        stacked, parts, over = known
        if stacked() is not x or axis % x.ndim != over:
            return None
        del self._known[id(x)]
        return parts


def _added(args: Arguments, kwargs: Keywords, _: Stacks) -> Summands | None:
    scale = kwargs.get("alpha", 1)
    return _pair(args[0], _second(args, kwargs), (1, scale))


def _subtracted(args: Arguments, kwargs: Keywords, _: Stacks) -> Summands | None:
    scale = -kwargs.get("alpha", 1)
    return _pair(args[0], _second(args, kwargs), (1, scale), symmetric=False)


def _interpolated(args: Arguments, kwargs: Keywords, _: Stacks) -> Summands | None:
    end = args[1] if len(args) > 1 else kwargs.get("end")
    weight = args[2] if len(args) > 2 else kwargs.get("weight")
    if weight is None:
        return None
    gates = (weight,) if isinstance(weight, Tensor) else ()
    weight = weight.detach() if isinstance(weight, Tensor) else weight
    return _pair(args[0], end, (1 - weight, weight), gates)


def _summed(args: Arguments, kwargs: Keywords, stacks: Stacks) -> Summands | None:
    axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    parts = stacks.take(args[0], axis) if args else None
    return None if parts is None else _pair(parts[0], parts[1])


def _second(args: Arguments, kwargs: Keywords) -> object:
    return args[1] if len(args) > 1 else kwargs.get("other")


def _pair(
    a: object,
    b: object,
    scales: tuple[Any, Any] = (1, 1),
    gates: tuple[Tensor, ...] = (),
    symmetric: bool = True,
) -> Summands | None:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape):
        return None
    return Summands(a, b, scales, gates, symmetric)


#: Function -> finds the two summands, or None where its arguments are no two alike tensors.
SUMS: Mapping[str, Callable[[Arguments, Keywords, Stacks], Summands | None]] = {
    **dict.fromkeys(("add", "add_", "__add__", "__radd__", "__iadd__"), _added),
    **dict.fromkeys(("sub", "sub_", "subtract", "__sub__", "__isub__"), _subtracted),
    **dict.fromkeys(("lerp", "lerp_"), _interpolated),
    "sum": _summed,
}
