"""The layers: imports point down, and each folder imports what it may."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sigprop

PACKAGE = Path(sigprop.__file__).parent

#: From the lowest up. A module may import from its own layer's folder and from any layer below.
LAYERS = (
    ("errors", "torch_version", "words"),
    ("registry", "bisection"),
    ("signals", "theory", "networks"),
    ("capture",),
    ("records",),
    ("inputs",),
    ("linear_operators",),
    ("spectra", "objectives"),
    ("probing",),
    ("experiments",),
    ("verification",),
    ("curvature", "landscape", "gradients", "scale_invariance", "diagnosis"),
    ("reporting", "integrations"),
    ("claims", "plots"),
    ("cli",),
)
LEVEL = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}

#: Folder -> what it never imports (imports point down).
PROHIBITED = {
    "signals": ("torch.nn", "sigprop.networks", "sigprop.theory"),
    "theory": ("torch", "sigprop.networks", "sigprop.signals"),
    "networks": ("sigprop.signals", "sigprop.theory"),
    "capture": ("sigprop.networks", "sigprop.theory", "pandas"),
    "records": ("torch",),
    "reporting": ("torch",),
}


def imports(source: str) -> Iterator[str]:
    """Yield every dotted name that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def offences(folder: str, source: str) -> list[str]:
    """Return what is wrong with the imports of a module in ``folder``."""
    found = []
    for name in imports(source):
        found += [
            f"{folder} imports {bad}" for bad in PROHIBITED.get(folder, ()) if within(name, bad)
        ]
        if within(name, "sigprop"):
            other = [*name.split("."), ""][1]
            if other in LEVEL and other != folder and LEVEL[other] >= LEVEL[folder]:
                found.append(f"{folder} imports {name}, which is not below it")
    return found


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def folder_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_and_prohibitions_hold(path: Path) -> None:
    assert folder_of(path) in LEVEL, "a new folder needs its level in LAYERS"
    assert offences(folder_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("folder", "planted", "message"),
    [
        ("signals", "from sigprop.capture import select", "which is not below it"),
        ("signals", "import torch.nn as nn", "signals imports torch.nn"),
        ("signals", "from torch import nn", "signals imports torch.nn"),
        (
            "networks",
            "def f():\n    from sigprop.probing.probe import attach",
            "which is not below it",
        ),
        ("reporting", "import torch", "reporting imports torch"),
        ("theory", "from sigprop.networks import build", "theory imports sigprop.networks"),
        ("records", "from sigprop import probing", "which is not below it"),
    ],
)
def test_a_planted_offence_is_caught(folder: str, planted: str, message: str) -> None:
    assert any(message in offence for offence in offences(folder, planted))


def test_there_is_no_import_cycle() -> None:
    graph = {}
    names = {".".join(("sigprop", *p.relative_to(PACKAGE).with_suffix("").parts)) for p in MODULES}
    for path in MODULES:
        name = ".".join(("sigprop", *path.relative_to(PACKAGE).with_suffix("").parts))
        used = {n for n in imports(path.read_text()) if within(n, "sigprop")}
        graph[name] = {m for n in used for m in names if m in (n, n.rpartition(".")[0])} - {name}
    while graph:  # peel off what depends on nothing that is left
        free = {name for name, used in graph.items() if not used & set(graph)}
        assert free, f"these modules import each other: {sorted(graph)}"
        graph = {name: used for name, used in graph.items() if name not in free}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path: Path) -> None:
    calls = {
        n.func.id
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert "print" not in calls or path.parent.name == "cli"


def test_the_public_page() -> None:
    assert sigprop.__all__ == [
        "attach",
        "Probe",
        "check",
        "Check",
        "measure",
        "compare",
        "Plan",
        "Progress",
        "Data",
        "sweep",
        "SweepResult",
        "verify",
        "assert_preserved",
        "Law",
        "Result",
        "Records",
        "load",
        "concat",
        "diagnose",
        "Finding",
        "Findings",
        "assert_healthy",
        "report",
        "plots",
        "curvature",
        "landscape",
        "gradients",
        "scale_invariance",
        "networks",
        "spectra",
        "SigpropError",
        "BadInput",
        "UnknownName",
        "RunError",
        "ProbeWarning",
    ]
    assert all(getattr(sigprop, name).__doc__ for name in sigprop.__all__)
    with pytest.raises(AttributeError, match="module 'sigprop' has no attribute 'Resutl'"):
        getattr(sigprop, "Resutl")  # noqa: B009 - mypy would see it


#: Packages that take tenths of a second to import, and that no training loop needs.
HEAVY = (
    "matplotlib",
    "seaborn",
    "sklearn",
    "scipy",
    "pandas",
    "pyarrow",
    "jinja2",
    "typer",
    "rich",
    "joblib",
    "tensorboard",
    "lightning",
    "transformers",
)
PROBED_STEP = """
model = torch.nn.Linear(2, 2)
probe = sigprop.attach(model)
model(torch.ones(3, 2)).sum().backward()
probe.step()
"""


def loaded_by(script: str) -> set[str]:
    """Return the modules that a fresh process has loaded after ``script``, beyond torch's own."""
    code = f"import sys, torch; own = set(sys.modules)\n{script}\nprint(*set(sys.modules) - own)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("then", ["", PROBED_STEP], ids=["imported", "a step recorded"])
def test_importing_and_recording_load_nothing_heavy(then: str) -> None:
    loaded = loaded_by(f"import sigprop\n{then}")
    assert loaded.isdisjoint({*HEAVY, "torch._dynamo", "torch._inductor", "sympy"})


def test_records_load_pandas_and_neither_scipy_nor_figures() -> None:
    loaded = loaded_by(f"import sigprop\n{PROBED_STEP}\nprobe.records")
    assert {package for package in HEAVY if package in loaded} - {"pyarrow"} == {"pandas"}
