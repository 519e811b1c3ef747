"""A public callable with two or more parameters says what each of them is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sigprop

ROOT = Path(sigprop.__file__).parent
#: Folders whose callables are called from outside of them; the command line has its own help.
FOLDERS = ("theory", "networks", "claims", "inputs", "records", "experiments", "verification")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def callables(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.arguments, str]]:
    """Yield name, parameters and docstring of what is public, classes by their constructor."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    yield node.name, method.args, ast.get_docstring(node) or ""
            yield from callables(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            if "overload" in map(ast.unparse, node.decorator_list):
                continue
            yield prefix + node.name, node.args, ast.get_docstring(node) or ""


def undocumented(source: str) -> dict[str, list[str]]:
    """Return the parameters that a module's public callables say nothing of."""
    found = {}
    for name, arguments, page in callables(ast.parse(source).body):
        given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        names = [a.arg for a in given if a.arg not in ("self", "cls")]
        names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None]
        said = {line.strip().split(":")[0].lstrip("*") for line in page.splitlines()}
        missing = [parameter for parameter in names if parameter not in said]
        if len(names) > 1 and missing:
            found[name] = missing
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_parameter_is_explained(path: Path) -> None:
    assert undocumented(path.read_text("utf-8")) == {}


def test_a_parameter_that_is_forgotten_is_found() -> None:
    page = '"""Add.\n\n    Args:\n        a: one.\n    """'
    assert undocumented(f"def add(a, b):\n    {page}") == {"add": ["b"]}
    assert undocumented("def negate(a):\n    return -a") == {}
    assert undocumented("class A:\n  def __init__(self, a, *b): pass") == {"A": ["a", "b"]}
