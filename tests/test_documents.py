"""What the documents say is true: code runs, commands exist, links lead somewhere."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import packages
import pytest

from sigprop.records import column_pages

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


def test_the_documents_say_of_each_column_what_the_schema_says() -> None:
    """Make them anew with ``python -m sigprop.records.column_pages``."""
    readme = (ROOT / "README.md").read_text("utf-8")
    assert column_pages.updated(readme) == readme
    assert (ROOT / "docs/columns.md").read_text("utf-8") == column_pages.page()


def test_the_documents_of_the_columns_are_written_in_place(tmp_path: Path) -> None:
    marked = f"# Title\n{column_pages.BEGIN}\nstale\n{column_pages.END}\nend\n"
    (tmp_path / "README.md").write_text(marked, "utf-8")
    column_pages.write(tmp_path)
    readme = (tmp_path / "README.md").read_text("utf-8")
    assert readme.startswith("# Title\n")
    assert readme.endswith("end\n")
    assert "stale" not in readme
    assert "| `grad_to_weight` | ‖g‖ / ‖w‖ |" in readme
    assert "`max \\|x\\|`" not in readme
    assert "| max \\|x\\| |" in readme, "a bar inside of a cell would end it"
    assert (tmp_path / "docs/columns.md").read_text("utf-8") == column_pages.page()


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="README has no pair of lines"):
        column_pages.updated("no markers")


def test_the_make_targets_are_documented() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    for target in targets:
        assert re.search(rf"^{target}:.*##", makefile, re.MULTILINE) or target == "help"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_run_and_stay_short(path: Path, tmp_path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60 or int(path.name[:2]) > 3
    if "import transformers" in path.read_text():
        packages.transformers()
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
