"""The cells of a sweep: every combination of a grid's values, each with a name and a seed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sigprop.errors import BadInput
from sigprop.inputs.devices import derived_seed

#: The longest name of a folder; beyond it the end is a number made from the whole.
_LONGEST = 100

#: Axis -> its values; where they are no numbers and no text, label -> value.
Grid = Mapping[str, Sequence[Any] | Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One combination of a grid's values.

    Attributes:
        labels: axis -> the value, as a table shows it.
        values: axis -> the value itself.
        seed: of everything random in it, the same wherever and whenever it runs.
    """

    labels: Mapping[str, Any]
    values: Mapping[str, Any]
    seed: int

    @property
    def name(self) -> str:
        """Its name, and that of its folder.

        Example:
            >>> Cell({"net": "a/b", "depth": 4}, {}, 0).name
            'net=a_b,depth=4-12f7fe'
        """
        whole = ",".join(f"{axis}={label}" for axis, label in self.labels.items())
        safe = "".join(c if c.isalnum() or c in "-_.,=+" else "_" for c in whole)
        if safe == whole and len(safe) <= _LONGEST:
            return safe
        return f"{safe[: _LONGEST - 7]}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def cells(grid: Grid, seed: int = 0) -> list[Cell]:
    """Return every combination of a grid's values, the last axis fastest.

    Args:
        grid: axis -> values, or label -> value.
        seed: that of each cell is made from this one and its labels.

    Raises:
        BadInput: an axis is empty, has a value twice, or values without a name.

    Example:
        >>> [cell.name for cell in cells({"depth": [2, 4], "seed": [0]})]
        ['depth=2,seed=0', 'depth=4,seed=0']
    """
    if not grid:
        raise BadInput("a sweep needs at least one axis: {'depth': [4, 16]}")
    axes = {axis: _labeled(axis, values) for axis, values in grid.items()}
    found = []
    for labels in itertools.product(*axes.values()):
        named = dict(zip(axes, labels, strict=True))
        values = {axis: axes[axis][label] for axis, label in named.items()}
        found.append(Cell(named, values, derived_seed(seed, "sweep", *named.items())))
    return found


def _labeled(axis: str, values: Sequence[Any] | Mapping[str, Any]) -> dict[Any, Any]:
    """Return label -> value.

    Raises:
        BadInput: there is no value, one is there twice, or one has no name.
    """
    if isinstance(values, str) or not isinstance(values, Mapping | Sequence | range):
        raise BadInput(f"axis {axis!r} of a grid is a list of values, not {values!r}")
    if not values:
        raise BadInput(f"axis {axis!r} of the grid has no values")
    if isinstance(values, Mapping):
        return dict(values)
    labels = [_label(axis, value) for value in values]
    twice = next((label for i, label in enumerate(labels) if label in labels[:i]), None)
    if twice is not None:
        raise BadInput(f"axis {axis!r} of the grid has {twice!r} twice")
    return dict(zip(labels, values, strict=True))


def plain(value: object) -> bool:
    """Return whether a value is a number, text or nothing: what JSON and a table hold as it is."""
    return value is None or isinstance(value, str | bool | int | float)


def _label(axis: str, value: Any) -> Any:
    if plain(value):
        return value
    name = getattr(value, "__name__", "")
    if callable(value) and name not in ("", "<lambda>"):
        return name
    raise BadInput(
        f"axis {axis!r} of the grid has a value without a name, {value!r}; give label -> value: "
        f"{{{axis!r}: {{'first': ...}}}}"
    )
