"""Chooses blocks by what one forward pass showed: residual units, and what is repeated like them.

A unit is a module whose own code adds to its stream. Sublayers of a layer are no units of their
own, stages are opened until the units in them are single, and modules of a unit's class are units
where they do not add, as the first block of a stage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from torch import nn

from sigprop.capture.model.call_tree import CallTree
from sigprop.capture.model.naming import ROOT

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NUMBER = re.compile(r"\d+")


def residual_units(everything: Mapping[str, nn.Module], tree: CallTree) -> list[str]:
    """Return the names of the residual units, and of loops; none where nothing adds.

    Args:
        everything: the model's modules by name.
        tree: what one forward pass showed.
    """
    adding = {name for name, module in tree.modules.items() if module.additions}
    units = _Units(everything, tree, adding - {ROOT}).chosen()
    return [name for name in everything if name in units]


def repeated_units(everything: Mapping[str, nn.Module], tree: CallTree) -> list[str]:
    """Return the innermost modules of several weights that are repeated, where nothing adds.

    Beside them those that stand in the same place: the odd ones among Inception's modules.

    Args:
        everything: the model's modules by name.
        tree: what one forward pass showed.
    """
    own = [
        name
        for name in tree.modules
        if name != ROOT
        and not type(everything[name]).__module__.startswith("torch.nn")
        and affine_layers(everything[name]) > 1
    ]
    kinds = [type(everything[name]) for name in own]
    twins = {name for name in own if kinds.count(type(everything[name])) > 1}
    units = {name for name in twins if not any(name in tree.above(other) for other in twins)}
    places = {name.rpartition(".")[0] for name in units}
    units |= {
        name
        for name in own
        if name.rpartition(".")[0] in places
        and not any(name in tree.above(other) for other in units)
        and not tree.inside(name, units)
    }
    return [name for name in everything if name in units]


class _Units:
    """The units of one model while they are looked for.

    Args:
        everything: the model's modules by name.
        tree: what one forward pass showed.
        adding: the modules with additions of their own.
    """

    def __init__(
        self, everything: Mapping[str, nn.Module], tree: CallTree, adding: set[str]
    ) -> None:
        self._everything, self._tree, self._adding = everything, tree, adding
        self._weights = {name: affine_layers(module) for name, module in everything.items()}

    def chosen(self) -> set[str]:
        units = {name for name in self._adding if not self._contains(name, self._adding)}
        while True:
            lifted = self._lifted(units)
            if lifted == units:
                break
            units = lifted
        if not units:
            return set()
        units |= self._mates(units)
        units |= self._peers(units)
        units = self._without_odd_ones(units)
        return units | self._loops(units)

    # --- sublayers ----------------------------------------------------------------------------

    def _lifted(self, units: set[str]) -> set[str]:
        """Return the units with the sublayers of one layer replaced by the layer."""
        parents: dict[str, list[str]] = {}
        for name in sorted(units):
            parent = next(self._tree.above(name), None)
            if parent is not None and parent != ROOT:
                parents.setdefault(parent, []).append(name)
        for parent, inner in parents.items():
            if self._is_layer(parent, inner, units):
                within = {name for name in units if self._within(name, parent)}
                return (units - within) | {parent}
        return units

    def _is_layer(self, parent: str, inner: list[str], units: set[str]) -> bool:
        """Return whether a module is one layer and what adds in it are its sublayers."""
        within = [name for name in units if self._within(name, parent)]
        if len(within) != len(inner) or self._stacked(inner):
            return False
        if parent in self._adding:
            return True
        kinds = [type(self._everything[name]) for name in inner]
        if not self._repeated(parent):
            return False
        if isinstance(self._everything[parent], nn.Sequential):
            # One unit with weights of the layer's own behind it.
            return len(inner) == 1 and self._weights[parent] > self._weights[inner[0]]
        return len(set(kinds)) == len(kinds) > 1

    def _stacked(self, names: Iterable[str]) -> bool:
        """Return whether any of these stands in a list of modules of its class alone."""
        for name in names:
            siblings = self._list_of(name)
            kind = type(self._everything[name])
            if siblings and all(type(self._everything[other]) is kind for other in siblings):
                return True
        return False

    def _repeated(self, name: str) -> bool:
        """Return whether a module stands in a list of modules alike."""
        siblings = self._list_of(name)
        return bool(siblings) and all(
            shape(self._everything[other]) == shape(self._everything[name]) for other in siblings
        )

    def _list_of(self, name: str) -> list[str]:
        """Return the members of the list that holds a module; nothing where none does."""
        parent = name.rpartition(".")[0] or ROOT
        holder = self._everything.get(parent)
        if not isinstance(holder, _LISTS):
            return []
        prefix = "" if parent == ROOT else f"{parent}."
        names = [prefix + child for child, _ in holder.named_children()]
        return [other for other in names if other in self._everything]

    # --- more of the same ---------------------------------------------------------------------

    def _mates(self, units: set[str]) -> set[str]:
        """Return the called modules of a unit's class that lie in no unit, and hold none."""
        kinds = {type(self._everything[name]) for name in units} - set(_LISTS)
        return {
            name
            for name in self._tree.modules
            if type(self._everything[name]) in kinds and self._is_free(name, units)
        }

    def _peers(self, units: set[str]) -> set[str]:
        """Return the modules of several layers whose names differ from a unit's by numbers only."""
        patterns = {_NUMBER.sub("#", name) for name in units if _NUMBER.search(name)}
        return {
            name
            for name in self._tree.modules
            if _NUMBER.sub("#", name) in patterns
            and self._weights[name] > 1
            and not type(self._everything[name]).__module__.startswith("torch.nn")
            and self._is_free(name, units)
        }

    def _without_odd_ones(self, units: set[str]) -> set[str]:
        """Return the units without those that stand alone beside repeated ones: heads and stems."""
        kinds = [type(self._everything[name]) for name in units]
        odd = {
            name
            for name in units
            if kinds.count(type(self._everything[name])) == 1
            and self._tree.modules[name].calls == 1
            and not _NUMBER.search(name.rpartition(".")[2])
        }
        return units - odd if units - odd else units

    def _loops(self, units: set[str]) -> set[str]:
        """Return the outermost modules that are called on what they returned before."""
        found = {
            name
            for name, module in self._tree.modules.items()
            if module.loops
            and name != ROOT
            and self._weights[name] > 1
            and name not in units
            and self._is_free(name, units)
        }
        return {name for name in found if not self._tree.inside(name, found)}

    # --- where a module lies ------------------------------------------------------------------

    def _within(self, name: str, other: str) -> bool:
        return other in self._tree.above(name)

    def _contains(self, name: str, others: set[str]) -> bool:
        return any(self._within(other, name) for other in others)

    def _is_free(self, name: str, units: set[str]) -> bool:
        if name in units or self._tree.inside(name, units):
            return False
        return not self._contains(name, units)


def affine_layers(module: nn.Module) -> int:
    """Return how many weights with several inputs a module holds, those of embeddings apart.

    A gain or bias per channel is none, whatever its shape: (C, 1, 1) has one input per output.

    Args:
        module: with what lies in it.
    """
    embedded = {
        id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)
    }
    return sum(
        p.ndim > 1 and math.prod(p.shape[1:]) > 1 and id(p) not in embedded
        for p in module.parameters()
    )


def shape(module: nn.Module) -> tuple[type, ...]:
    """Return the class of a module; of a Sequential those of its members too."""
    if isinstance(module, nn.Sequential):
        return (type(module), *(type(child) for child in module))
    return (type(module),)
