"""One door to private torch: nothing private elsewhere, each entry works here, and each may go."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sigprop
from sigprop import torch_version
from sigprop.capture.torch_internals import INTERNALS

PACKAGE = Path(sigprop.__file__).parent
DOOR = PACKAGE / "capture" / "torch_internals.py"
#: Private by a leading underscore, and everybody's: namedtuples', and ctypes' type of functions.
PUBLIC_IN_FACT = {"_replace", "_fields", "_asdict", "_FuncPointer"}
_BY_NAME = {"getattr", "hasattr", "setattr", "delattr", "import_module", "get", "attrgetter"}
_BY_NAME |= {"_found", "_kinds"}  # the door's own


# --- nothing private elsewhere ------------------------------------------------------------------


def defined(tree: ast.AST) -> set[str]:
    """Return every name that a module defines or assigns: its own private ones are its own."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def touched(source: str, inherited: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield what a module touches that is private and not its own, as it is written there."""
    tree = ast.parse(source)
    own = defined(tree) | inherited | PUBLIC_IN_FACT
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            yield from (
                f"{node.module}.{alias.name}"
                for alias in node.names
                if private(f"{node.module}.{alias.name}")
            )
        elif isinstance(node, ast.Import):
            yield from (
                a.name for a in node.names if a.name.startswith("torch") and private(a.name)
            )
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
            if name in _BY_NAME:
                yield from (
                    argument.value
                    for argument in node.args
                    if isinstance(argument, ast.Constant)
                    and isinstance(argument.value, str)
                    and private(argument.value)
                )


#: What our classes and modules define; a subclass in another module may use it.
OWN = frozenset(
    name
    for path in PACKAGE.rglob("*.py")
    if path != DOOR
    for name in defined(ast.parse(path.read_text()))
)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if path != DOOR],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_nothing_private_is_touched_elsewhere(path: Path) -> None:
    assert list(touched(path.read_text(), OWN)) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("import torch\nx = torch._C._len_torch_function_stack()", "torch._C"),
        ("import torch\ntorch._foreach_norm([])", "torch._foreach_norm"),
        ("def f(model):\n    return model._orig_mod", "model._orig_mod"),
        ("from torch._dynamo import config", "torch._dynamo.config"),
        ("from torch.utils._pytree import tree_map", "torch.utils._pytree.tree_map"),
        ("import torch._dynamo.config", "torch._dynamo.config"),
        ("def f(m):\n    return getattr(m, '_compiled_call_impl', None)", "_compiled_call_impl"),
        ("import sys\nsys.modules.get('torch._dynamo')", "torch._dynamo"),
        ("def f(x):\n    x._version_of_mine = 1\n    return x._version", "x._version"),
    ],
)
def test_a_planted_use_is_found(planted: str, found: str) -> None:
    assert found in list(touched(planted))


def test_the_door_lists_what_it_touches() -> None:
    listed = {name for entry in INTERNALS.values() for name in entry.names}
    last = {name.rpartition(".")[2] for name in listed}
    used = {name.rpartition(".")[2] for name in touched(DOOR.read_text())}
    parents = {part for name in listed for part in name.split(".")}
    assert used - parents == set()
    assert {name for name in last if private(name)} - used == set()


def test_every_entry_says_why_and_what_is_lost() -> None:
    for entry, internal in INTERNALS.items():
        first, last = internal.versions
        assert torch_version.OLDEST <= first <= last, entry
        assert internal.names
        assert internal.reason
        assert internal.without
