"""What the documents say is true: code runs, commands exist, links lead somewhere."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[0-9][0-9]_*.py"))


@dataclass(frozen=True)
class Shown:
    """A block of Python in the README, and the output that is shown under it."""

    code: str
    output: str | None


def shown() -> list[Shown]:
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.finditer(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", text, flags=re.DOTALL)
    return [Shown(match[1], match[2]) for match in found]


@pytest.mark.parametrize("block", shown(), ids=lambda block: block.code.count("\n"))
def test_a_block_of_the_readme_runs_alone_and_prints_what_is_shown(
    block: Shown, tmp_path: Path
) -> None:
    """In an empty folder, as printed; "..." in the output stands for anything, as in doctests."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert block.output is not None, "show what the block prints"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(block.output, done.stdout, flags), done.stdout


def test_the_first_block_of_the_readme_is_short() -> None:
    """On the first screen: what a reader types, and what they see."""
    lines = [line for line in shown()[0].code.splitlines() if line and "import" not in line]
    assert len(lines) <= 6


def test_the_readmes_links_lead_to_files() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    targets = set(re.findall(r"\]\(([^)#:]+)\)", text))
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_the_readmes_columns_are_those_of_the_records() -> None:
    from sigprop.records import SCHEMA

    known = set(SCHEMA["signals"]) | set(SCHEMA["parameters"])
    named = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(named) > 10
    assert set(named) <= known


def test_the_make_targets_are_documented() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    for target in targets:
        assert re.search(rf"^{target}:.*##", makefile, re.MULTILINE) or target == "help"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_run_and_stay_short(path: Path, tmp_path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60 or int(path.name[:2]) > 3
    quick = ["--quick"] if "--quick" in path.read_text() else []
    done = subprocess.run(
        [sys.executable, str(path), str(tmp_path / "out"), *quick],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
