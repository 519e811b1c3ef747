"""A public callable with two or more parameters says what each of them is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sigprop

ROOT = Path(sigprop.__file__).parent
#: Every module but those of the command line, which has its own help.
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT / "cli"]


def methods(node: ast.ClassDef) -> frozenset[str]:
    """Return the names of a class's own public methods."""
    functions = (part.name for part in node.body if isinstance(part, ast.FunctionDef))
    return frozenset(name for name in functions if not name.startswith("_"))


def is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).partition("[")[0] == "Protocol" for base in node.bases)


#: The methods of every protocol; a class that has them all implements it.
PROTOCOLS = {
    methods(node)
    for path in FILES
    for node in ast.walk(ast.parse(path.read_text("utf-8")))
    if isinstance(node, ast.ClassDef) and is_protocol(node) and len(methods(node)) > 1
}


def callables(body: list[ast.stmt]) -> Iterator[tuple[str, ast.arguments, str]]:
    """Yield name, parameters and docstring of what is public, classes by their constructor.

    What overrides a method of a class of the module, or is one of a protocol, is explained there.
    """
    known = {node.name: methods(node) for node in body if isinstance(node, ast.ClassDef)}
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            above = {known.get(ast.unparse(base), frozenset()) for base in node.bases}
            above |= {protocol for protocol in PROTOCOLS if protocol <= methods(node)}
            explained = set() if is_protocol(node) else set().union(*above)
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    yield node.name, method.args, ast.get_docstring(node) or ""
            yield from (
                (f"{node.name}.{name}", arguments, page)
                for name, arguments, page in callables(node.body)
                if name not in explained
            )
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            if "overload" in map(ast.unparse, node.decorator_list):
                continue
            yield node.name, node.args, ast.get_docstring(node) or ""


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
    base = "class A:\n  def f(self, a, b): pass\n"
    assert undocumented(base + "class B(A):\n  def f(self, a, b): pass") == {"A.f": ["a", "b"]}
    other = "class B:\n  def f(self, a, b): pass"
    assert undocumented(base + other) == {"A.f": ["a", "b"], "B.f": ["a", "b"]}
