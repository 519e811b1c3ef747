"""What the report may import, and when: never torch, and matplotlib only when a report is made."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sigprop.reporting

HOME = Path(sigprop.reporting.__file__).parent
SOURCES = sorted(HOME.rglob("*.py"))
assert SOURCES, "a test over no files passes and tests nothing"
HEAVY = {"matplotlib", "seaborn", "jinja2"}


def imports(path, top_level_only=False):
    """Dotted names a file imports; in functions and under TYPE_CHECKING only if asked."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_path(name):
    parts = name.removeprefix("sigprop.reporting").strip(".").split(".")
    for depth in range(len(parts), 0, -1):
        base = HOME.joinpath(*parts[:depth])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.exists():
                return path
    return None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(HOME)))
def test_a_file_imports_neither_torch_nor_the_layers_above_and_beside(path):
    forbidden = ("torch", "sigprop.networks", "sigprop.capture", "sigprop.probing",
                 "sigprop.theory", "sigprop.signals", "sigprop.experiments", "sigprop.inputs",
                 "sigprop.cli")  # fmt: skip
    for name in imports(path):
        assert not any(name == bad or name.startswith(f"{bad}.") for bad in forbidden), name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(HOME)))
def test_no_file_uses_pyplot(path):
    assert "pyplot" not in path.read_text("utf-8")


def test_what_is_loaded_at_once_reaches_no_plotting_library():
    waiting, seen = [HOME / "__init__.py"], set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imports(path, top_level_only=True):
            assert name.partition(".")[0] not in HEAVY, f"{path.name} imports {name}"
            if name.startswith("sigprop.reporting"):
                found = module_path(name)
                if found:
                    waiting.append(found)
    assert {path.name for path in seen} == {"__init__.py", "write.py", "folder.py"}


def test_a_fresh_process_loads_no_plotting_library():
    code = (
        "import sys; import sigprop.reporting; from sigprop.reporting import report; "
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pure_modules_do_without_plotting_libraries():
    for name in (
        "aggregate",
        "folder",
        "glossary",
        "story",
        "summary",
        "tables",
        "travel",
        "verdicts",
    ):
        used = {module.partition(".")[0] for module in imports(HOME / f"{name}.py")}
        assert not used & HEAVY, name


def test_every_module_says_what_it_is():
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


def test_the_template_and_its_script_are_part_of_the_package():
    for name in ("report.html.j2", "report.css", "report.js"):
        assert (HOME / "templates" / name).exists()
