"""Chooses which modules are blocks: the units whose inputs and outputs are recorded."""

from __future__ import annotations

import ast
import inspect
import textwrap
import weakref
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sigprop.capture.model.naming import ROOT, modules
from sigprop.errors import BadInput, UnknownName, suggestion

Blocks = str | Sequence[str] | Callable[[str, nn.Module], bool]

SCRIPTED = "a ScriptModule cannot be hooked; probe the Python module it was made from"
CONTAINER = "a container without a forward of its own"
EXPORTED = "never called: a graph uses its weights (torch.export); probe what it was made from"

#: Modules whose output is zero exactly where a unit is off.
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Threshold)
#: Modules without additions of their own.
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def select(model: nn.Module, blocks: Blocks = "auto") -> dict[str, nn.Module]:
    """Return the modules that ``blocks`` asks for, by name, in the model's own order.

    Args:
        model: the model.
        blocks: ``"auto"`` (repeated siblings: residual blocks, Transformer layers, the blocks in
            the stages of a hierarchy; else modules whose code adds; else leaves), ``"leaves"``
            (every module without children), one glob or several over module names (``"layer*"``,
            ``["stem", "blocks.*"]``), or a callable ``(name, module) -> bool``.

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
        return (
            _residual(everything)
            or _repeated(everything)
            or _adding(everything)
            or _leaves(everything)
        )
    patterns = [blocks] if isinstance(blocks, str | int | float) else list(blocks)
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
    """Return the innermost target that holds (or is) the module or parameter ``name``.

    Args:
        name: of a module or parameter, such as ``"layer1.0.conv1.weight"``.
        targets: names of the modules to choose from.

    Returns:
        The target's name; None where none holds it.
    """
    while name and name not in targets:
        name = name.rpartition(".")[0]
    if name:
        return name
    return ROOT if ROOT in targets else None


def _leaves(everything: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the modules without children; the whole model where none of them is ever called."""
    parents = _parents(everything)
    return {
        name: module
        for name, module in everything.items()
        if not isinstance(module, CONTAINERS) and name not in parents and unread(module) is None
    } or {ROOT: everything[ROOT]}


def unread(module: nn.Module) -> str | None:
    """Return why no hook on a module is ever called, or None where it is when the module is."""
    if isinstance(module, torch.jit.ScriptModule):
        return SCRIPTED
    if type(module).__module__.startswith("torch.export."):
        return CONTAINER  # checks the inputs of an exported model
    if type(module).forward is not nn.Module.forward:
        return None
    return CONTAINER if next(module.parameters(recurse=False), None) is None else EXPORTED


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
    parents = {
        name: m
        for name, m in everything.items()
        if name in inner and name != ROOT and unread(m) is None
    }
    own = {name: m for name, m in parents.items() if not isinstance(m, CONTAINERS)}
    siblings = _siblings(own)
    kinds = {type(own[name]) for name in siblings - _nested(siblings)}
    repeated = {name for name, module in own.items() if type(module) in kinds} or _siblings(
        {name: m for name, m in parents.items() if isinstance(m, nn.Sequential)}
    )
    outermost = repeated - _nested(repeated)
    chosen = _blocks_of_stages(outermost, everything)
    chosen = {_lifted(name, everything) for name in chosen}
    return {name: parents[name] for name in parents if name in chosen - _nested(chosen)}


def _lifted(name: str, everything: dict[str, nn.Module]) -> str:
    """Return the outermost module around ``name`` that adds and is no stack, else ``name``.

    The two sublayers of a Mixer block, or the experts of a layer, are repeated, but their parent
    is the block. What holds most of the model is no block.
    """
    most = 0.75 * _size(everything[ROOT])
    parent = name.rpartition(".")[0]
    while parent:
        module = everything.get(parent)
        small = module is not None and _size(module) <= most
        if small and module is not None and adds(module) and not _stacked(parent, everything):
            name = parent
        parent = parent.rpartition(".")[0]
    return name


def _size(module: nn.Module) -> int:
    return sum(0 if is_lazy(p) else p.numel() for p in module.parameters())


def _blocks_of_stages(chosen: set[str], everything: dict[str, nn.Module]) -> set[str]:
    """Replace every stage by the blocks it is a stack of.

    A stage keeps more than half of its weights in a container of modules of one own class that
    have additions in their code. (The experts of a mixture add nothing; sublayers that add hold
    few of a layer's weights.)

    Returns:
        Names of modules, blocks in the place of stages.
    """
    inner = {name: _stacked(name, everything) for name in chosen}
    if not any(inner.values()):
        return chosen
    kinds = {type(everything[name]) for names in inner.values() for name in names}
    mates = {n for n, m in everything.items() if type(m) in kinds and n != ROOT}
    kept = {name for name, names in inner.items() if not names} | (mates - _nested(mates))
    return _blocks_of_stages(kept - _nested(kept), everything)


def _stacked(stage: str, everything: dict[str, nn.Module]) -> list[str]:
    module = everything[stage]
    total = _size(module)
    for child_name, child in module.named_children():
        blocks = list(child.named_children())
        if not isinstance(child, nn.Sequential | nn.ModuleList) or not blocks:
            continue
        own = {type(block) for _, block in blocks}
        held = _size(child)
        if len(own) == 1 and 2 * held > total and any(adds(m) for m in blocks[0][1].modules()):
            return [f"{stage}.{child_name}.{name}" for name, _ in blocks]
    return []


def _adding(everything: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the outermost modules, below the root, with an addition in their own code."""
    parents = _parents(everything)
    found = {
        name
        for name, module in everything.items()
        if name != ROOT and name in parents and adds(module) and unread(module) is None
    }
    return {name: everything[name] for name in everything if name in found - _nested(found)}


def adds(module: nn.Module) -> bool:
    """Return whether the code of a module's class adds two things that are no constants."""
    kind = type(module)
    if kind.__module__.startswith("torch.nn"):
        return False
    if kind not in _ADDS:
        _ADDS[kind] = _class_adds(kind)
    return _ADDS[kind]


_ADDS: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def _class_adds(kind: type) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):  # made at a prompt, or compiled
        return False
    methods = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("__")
    ]
    return any(_is_addition(node) for method in methods for node in ast.walk(method))


def _is_addition(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return not any(isinstance(side, ast.Constant) for side in (node.left, node.right))
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        return not isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("add", "add_")
    return False


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
