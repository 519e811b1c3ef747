"""What the documents say is true: code runs, commands exist, links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
