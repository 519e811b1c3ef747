"""Chooses which modules are blocks: the units whose inputs and outputs are recorded."""

from __future__ import annotations

import ast
import inspect
import textwrap
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sigprop.capture.model.call_tree import CallTree
from sigprop.capture.model.choose import repeated_units, residual_units, shape
from sigprop.capture.model.naming import ROOT, modules
from sigprop.errors import BadInput, UnknownName, suggestion

SCRIPTED = "a ScriptModule cannot be hooked; probe the Python module it was made from"
CONTAINER = "a container without a forward of its own"
EXPORTED = "never called: a graph uses its weights (torch.export); probe what it was made from"

#: Modules whose output is zero exactly where a unit is off.
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Threshold)
#: Modules without additions of their own.
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True)
class Choice:
    """Blocks that were chosen automatically.

    Attributes:
        names: of the modules, in the model's own order.
        reason: why these, for `sigprop.check`.
        from_calls: whether a forward pass showed them; else the tree of modules did.
        members: modules that are called in a block and registered elsewhere, each with its block.
    """

    names: tuple[str, ...]
    reason: str
    from_calls: bool = False
    members: tuple[tuple[str, str], ...] = ()


Blocks = str | Sequence[str] | Callable[[str, nn.Module], bool] | Choice


def is_automatic(blocks: Blocks) -> bool:
    """Return whether blocks are, or were, chosen automatically."""
    return isinstance(blocks, Choice) or (isinstance(blocks, str) and blocks == "auto")


def select(model: nn.Module, blocks: Blocks = "auto") -> dict[str, nn.Module]:
    """Return the modules that ``blocks`` asks for, by name, in the model's own order.

    Args:
        model: the model.
        blocks: ``"auto"`` (see `choose`), ``"leaves"`` (every module without children), one glob or
            several over module names (``"layer*"``, ``["stem", "blocks.*"]``; as in shells, ``*``
            stays within one part of a name and ``**`` crosses dots), or a callable
            ``(name, module) -> bool``.

    Raises:
        UnknownName: a glob matches nothing; the nearest names are offered.
        BadInput: a callable chose nothing, globs match nothing but containers, or ``blocks`` is
            none of the above.
    """
    everything = dict(modules(model))
    if isinstance(blocks, Choice):
        return {name: everything[name] for name in blocks.names}
    if callable(blocks):
        chosen = {name: module for name, module in everything.items() if blocks(name, module)}
        if not chosen:
            raise BadInput(f"the blocks callable chose none of {len(everything)} modules")
        return chosen
    if isinstance(blocks, str) and blocks == "leaves":
        return _leaves(everything)
    if isinstance(blocks, str) and blocks == "auto":
        return {name: everything[name] for name in choose(everything).names}
    patterns = [blocks] if isinstance(blocks, str | int | float) else list(blocks)
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise BadInput(
            f"blocks is 'auto', 'leaves', a glob, a list of globs or a callable, not {blocks!r}"
        )
    wanted: set[str] = set()
    for pattern in patterns:
        wanted.update(_matches(pattern, everything))
    _check_called(sorted(wanted), everything)
    return {name: module for name, module in everything.items() if name in wanted}


def choose(everything: Mapping[str, nn.Module], tree: CallTree | None = None) -> Choice:
    """Choose blocks automatically: modules that add to their stream, else repeated ones, else all.

    Args:
        everything: the model's modules by name.
        tree: what a forward pass showed; without one the modules' code and names must do.

    Returns:
        The blocks, and why these.
    """
    if tree is not None:
        for names, reason in _shown(everything, tree):
            if names:
                return Choice(tuple(names), reason, True, _members(names, tree))
    for names, reason in _likely(everything):
        if names and (tree is None or any(name in tree for name in names)):
            return Choice(tuple(names), reason, False, _members(names, tree) if tree else ())
    return Choice((ROOT,), "the whole model")


def _shown(
    everything: Mapping[str, nn.Module], tree: CallTree
) -> Iterator[tuple[Collection[str], str]]:
    """Yield modules to choose by a forward pass, and why, the best first."""
    if not _residual(everything):  # those say it themselves
        yield residual_units(everything, tree), "modules that add to their stream"
        yield repeated_units(everything, tree), "no module adds to its stream; repeated modules"


def _likely(everything: Mapping[str, nn.Module]) -> Iterator[tuple[Collection[str], str]]:
    """Yield modules to choose by what they look like, and why, the best first."""
    yield _residual(everything), "modules that declare the operands of their addition"
    yield _repeated(everything), "repeated modules"
    yield _adding(everything), "modules whose code adds"
    yield _leaves(everything), "no module is repeated or adds; modules without children"


def _members(names: Collection[str], tree: CallTree) -> tuple[tuple[str, str], ...]:
    chosen = set(names)
    found = []
    for name in tree.modules:
        block = next((above for above in tree.above(name) if above in chosen), None)
        if block is not None and name not in chosen and owner(name, chosen) != block:
            found.append((name, block))
    return tuple(found)


def _matches(pattern: str, everything: Mapping[str, nn.Module]) -> list[str]:
    """Return the names that a glob matches.

    Raises:
        UnknownName: there are none.
    """
    found = [name for name in everything if _fits(name.split("."), pattern.split("."))]
    if not found:
        crossing = [name for name in everything if fnmatchcase(name, pattern)]
        hint = suggestion(pattern, everything)
        if crossing:
            hint = f"'*' stays between dots, write '**' to match {crossing[0]!r}"
        raise UnknownName(f"no module's name matches {pattern!r}; {hint}")
    return found


def _check_called(names: Sequence[str], everything: Mapping[str, nn.Module]) -> None:
    """Raise where nothing but containers was chosen.

    Raises:
        BadInput: their forward is never called, so there would be nothing to record.
    """
    if all(unread(everything[name]) == CONTAINER for name in names):
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise BadInput(
            f"the blocks chosen are containers, which are never called ({some}); choose what is in "
            f"them: blocks={names[0] + '.*'!r}"
        )


def _fits(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a name fit those of a glob; ``**`` stands for one or more."""
    if not pattern or not name:
        return not (name or pattern)
    first, *rest = pattern
    if first == "**":
        return any(_fits(name[count:], rest) for count in range(1, len(name) + 1))
    if name[0] == ROOT and first != ROOT:
        return False
    return fnmatchcase(name[0], first) and _fits(name[1:], rest)


def members(blocks: Blocks) -> dict[str, str]:
    """Return the modules that are called in a block and registered elsewhere, with their block."""
    return dict(blocks.members) if isinstance(blocks, Choice) else {}


def owner(
    name: str, targets: Container[str], members: Mapping[str, str] | None = None
) -> str | None:
    """Return the innermost target that holds (or is) the module or parameter ``name``.

    Args:
        name: of a module or a parameter.
        targets: the modules that were chosen.
        members: see `Choice`.

    Returns:
        The target's name; None where none holds it.
    """
    while name and name not in targets:
        if members and name in members:
            return members[name]
        name = name.rpartition(".")[0]
    if name:
        return name
    return ROOT if ROOT in targets else None


def _leaves(everything: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
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


def _residual(everything: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the modules whose child names the two operands of its addition (`ports`)."""
    return {
        name: module
        for name, module in everything.items()
        if any(hasattr(child, "ports") for child in module.children())
    }


def _repeated(everything: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
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


def _lifted(name: str, everything: Mapping[str, nn.Module]) -> str:
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
    """Return how many weights a module has; an embedding may have most, and is no block."""
    embedded = {
        id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)
    }
    counted = (p for p in module.parameters() if not is_lazy(p) and id(p) not in embedded)
    return sum(p.numel() for p in counted)


def _blocks_of_stages(chosen: set[str], everything: Mapping[str, nn.Module]) -> set[str]:
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


def _stacked(stage: str, everything: Mapping[str, nn.Module]) -> list[str]:
    """Return the blocks that a stage is a stack of: in a list, or as all of its own children."""
    module = everything[stage]
    total = _size(module)
    children = dict(module.named_children())
    kinds = {type(block) for block in children.values()}
    if len(kinds) == 1 and all(map(_is_unit, children.values())):
        return [f"{stage}.{name}" for name in children]
    for child_name, child in module.named_children():
        blocks = list(child.named_children())
        if not isinstance(child, nn.Sequential | nn.ModuleList) or not blocks:
            continue
        own = {type(block) for _, block in blocks}
        held = _size(child)
        if len(own) == 1 and 2 * held > total and any(adds(m) for m in blocks[0][1].modules()):
            return [f"{stage}.{child_name}.{name}" for name, _ in blocks]
    return []


def _is_unit(block: nn.Module) -> bool:
    """Return whether a module has modules in it, and adds in its own code."""
    return next(block.children(), None) is not None and adds(block)


def _adding(everything: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
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


def _parents(everything: Mapping[str, nn.Module]) -> set[str]:
    """Return the modules with something recordable inside (parametrizations are not)."""
    return {name.rpartition(".")[0] or ROOT for name in everything if name != ROOT}


def _siblings(candidates: Mapping[str, nn.Module]) -> set[str]:
    """Return the modules of which there are several alike beside each other.

    One of their class that stands between them is one of them, even if other modules are in it:
    the second of ``Sequential(a), Sequential(a, dropout), Sequential(a)``.
    """
    groups: dict[tuple[str, tuple[type, ...]], list[str]] = defaultdict(list)
    beside: dict[tuple[str, type], list[str]] = defaultdict(list)
    for name, module in candidates.items():
        groups[name.rpartition(".")[0], shape(module)].append(name)
        beside[name.rpartition(".")[0], type(module)].append(name)
    found: set[str] = set()
    for (parent, kinds), group in groups.items():
        if len(group) > 1:
            row = beside[parent, kinds[0]]
            found.update(row[row.index(group[0]) : row.index(group[-1]) + 1])
    return found


def _nested(names: set[str]) -> set[str]:
    return {name for name in names if _inside(name, names)}


def _inside(name: str, others: set[str]) -> bool:
    parent = name.rpartition(".")[0]
    while parent:
        if parent in others:
            return True
        parent = parent.rpartition(".")[0]
    return False
