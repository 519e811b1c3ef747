"""The built wheel, installed elsewhere: what a user gets."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "sigprop/py.typed" in names
    assert "sigprop/report/templates/report.html.j2" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sigprop"}


def test_the_wheel_works_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    """Unpacked beside an empty folder: nothing of the checkout may be needed."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    script = f"""
import sys
sys.path.insert(0, {str(site)!r})
import torch, sigprop
assert sigprop.__file__.startswith({str(site)!r}), sigprop.__file__
records = sigprop.compare(["plain", "rescale"], steps=2, seeds=1, options={{"depth": 3}})
sigprop.report(records, "out")
print(sigprop.__version__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").exists()
    assert done.stdout.strip() in wheel.name


def test_torch_is_no_build_requirement() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert not any("torch" in need for need in project["build-system"]["requires"])
    assert "torch>=2.5" in project["project"]["dependencies"]
