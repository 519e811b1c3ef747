"""What the documents say is true: code runs, commands exist, links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sigprop.records import column_pages

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[0-9][0-9]_*.py"))


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_readmes_code_runs_as_one_session(tmp_path: Path) -> None:
    script = "\n".join(blocks("python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "HOLDS: the second moment is preserved" in done.stdout
    assert (tmp_path / "runs/readme/report.html").exists()


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
