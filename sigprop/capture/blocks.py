"""Chooses which modules are blocks: the units whose inputs and outputs are recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from fnmatch import fnmatchcase

from torch import nn

from sigprop.capture.naming import ROOT, modules
from sigprop.errors import BadInput, UnknownName, suggestion

Blocks = str | Sequence[str] | Callable[[str, nn.Module], bool]

#: Modules whose output is zero exactly where a unit is off.
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Threshold)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def select(model: nn.Module, blocks: Blocks = "auto") -> dict[str, nn.Module]:
    """Return the modules that ``blocks`` asks for, by name, in the model's own order.

    Args:
        model: the model.
        blocks: ``"auto"`` (repeated siblings: residual blocks, Transformer layers; the leaves of
            a model without any), ``"leaves"`` (every module without children), one glob or
            several over module names (``"layer*"``, ``["stem", "blocks.*"]``), or a callable
            ``(name, module) -> bool``.

    Raises:
        UnknownName: a glob matches nothing; the nearest names are offered.
        BadInput: a callable chose nothing, or ``blocks`` is none of the above.
    """
    everything = dict(modules(model))
    if callable(blocks):
        chosen = {name: module for name, module in everything.items() if blocks(name, module)}
        if not chosen:
            raise BadInput(f"the blocks callable chose none of {len(everything)} modules")
        return chosen
    if isinstance(blocks, str) and blocks == "leaves":
        return _leaves(everything)
    if isinstance(blocks, str) and blocks == "auto":
        return _residual(everything) or _repeated(everything) or _leaves(everything)
    patterns = [blocks] if isinstance(blocks, str) else list(blocks)
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise BadInput(
            f"blocks is 'auto', 'leaves', a glob, a list of globs or a callable, not {blocks!r}"
        )
    wanted: set[str] = set()
    for pattern in patterns:
        matches = [name for name in everything if fnmatchcase(name, pattern)]
        if not matches:
            raise UnknownName(
                f"no module's name matches {pattern!r}; {suggestion(pattern, everything)}"
            )
        wanted.update(matches)
    return {name: module for name, module in everything.items() if name in wanted}


def owner(name: str, targets: Container[str]) -> str | None:
    """Return the innermost target that holds (or is) the module or parameter ``name``."""
    while name and name not in targets:
        name = name.rpartition(".")[0]
    if name:
        return name
    return ROOT if ROOT in targets else None


def _leaves(everything: dict[str, nn.Module]) -> dict[str, nn.Module]:
    parents = _parents(everything)
    return {
        name: module
        for name, module in everything.items()
        if not isinstance(module, _CONTAINERS) and name not in parents
    }


def _residual(everything: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the modules whose child names the two operands of its addition (`ports`)."""
    return {
        name: module
        for name, module in everything.items()
        if any(hasattr(child, "ports") for child in module.children())
    }


def _repeated(everything: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the outermost groups of two or more siblings of one class that have children.

    Classes of the model's own come before bare Sequentials: the stages of a ResNet are repeated
    Sequentials, and its blocks lie inside them. A stage of one block has no siblings in it, so
    class mates of a repeated block count wherever they stand.
    """
    inner = _parents(everything)
    parents = {name: m for name, m in everything.items() if name in inner and name != ROOT}
    own = {name: m for name, m in parents.items() if not isinstance(m, _CONTAINERS)}
    kinds = {type(own[name]) for name in _siblings(own)}
    repeated = {name for name, module in own.items() if type(module) in kinds} or _siblings(
        {name: m for name, m in parents.items() if isinstance(m, nn.Sequential)}
    )
    return {name: parents[name] for name in parents if name in repeated - _nested(repeated)}


def _parents(everything: dict[str, nn.Module]) -> set[str]:
    """Return the modules with something recordable inside (parametrizations are not)."""
    return {name.rpartition(".")[0] or ROOT for name in everything if name != ROOT}


def _siblings(candidates: dict[str, nn.Module]) -> set[str]:
    groups: dict[tuple[str, type], list[str]] = defaultdict(list)
    for name, module in candidates.items():
        groups[name.rpartition(".")[0], type(module)].append(name)
    return {name for group in groups.values() if len(group) > 1 for name in group}


def _nested(names: set[str]) -> set[str]:
    return {name for name in names if _inside(name, names)}


def _inside(name: str, others: set[str]) -> bool:
    parent = name.rpartition(".")[0]
    while parent:
        if parent in others:
            return True
        parent = parent.rpartition(".")[0]
    return False
