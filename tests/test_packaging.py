"""The built wheel, installed elsewhere: what a user gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = "sigprop/signals/native/kernels.so"


def built(kind: str, out: Path, **environment: str) -> tuple[Path, str]:
    """Return what was built, and what was printed."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out)]
    environment = {**os.environ, **environment}
    done = subprocess.run(
        [*command, str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        start_new_session=True,  # without a terminal to write to
    )
    path = next(path for path in out.iterdir() if path.suffix in (".whl", ".gz"))
    return path, done.stdout + done.stderr


def build(kind: str, out: Path, **environment: str) -> Path:
    return built(kind, out, **environment)[0]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("dist"))


def files_in(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "sigprop/py.typed" in names
    templates = {"report.html.j2", "report.js", "report.css"}
    assert {f"sigprop/reporting/templates/{name}" for name in templates} <= set(names)
    vendored = {"plotly-cartesian.min.js", "plotly.LICENSE", "plotly.js-cartesian-dist-min.json"}
    assert {f"sigprop/reporting/vendor/{name}" for name in vendored} <= set(names)
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


WHERE_READINGS_COME_FROM = """
import torch, sigprop
from sigprop.signals import native
signal = sigprop.signals.measure_signal(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
print(native.LIBRARY is not None, signal.number("second_moment"))
"""


def run_unpacked(wheel: Path, site: Path) -> str:
    zipfile.ZipFile(wheel).extractall(site)
    return subprocess.run(
        [sys.executable, "-c", WHERE_READINGS_COME_FROM],
        cwd=site,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    ).stdout


TWO_PROBES = """
import json, warnings, torch, sigprop
said = []
for _ in range(2):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sigprop.attach(torch.nn.Linear(2, 2)).detach()
    said.append([str(warning.message) for warning in caught])
print(json.dumps(said))
"""


def warnings_of_two_probes(site: Path, **environment: str) -> list[list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", TWO_PROBES],
        cwd=site,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(site), **environment},
    )
    return list(json.loads(done.stdout))


def test_the_wheel_holds_the_compiled_readings(wheel: Path, tmp_path: Path) -> None:
    assert LIBRARY in zipfile.ZipFile(wheel).namelist()
    assert "-py3-none-" in wheel.name  # for any Python 3, on one platform
    assert not wheel.name.endswith("-any.whl")
    assert run_unpacked(wheel, tmp_path) == "True 6.5\n"


@pytest.mark.skipif(sys.platform != "linux", reason="manylinux tags are for Linux")
def test_an_index_accepts_the_repaired_wheel(wheel: Path, tmp_path: Path) -> None:
    """PyPI refuses linux_x86_64; nothing is bundled, so the repair changes the tag only."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(tmp_path)]
    subprocess.run(
        [*command, str(wheel)],
        check=True,
        capture_output=True,
        env={**os.environ, "PATH": programs},
    )
    (repaired,) = tmp_path.glob("*.whl")
    assert "manylinux" in repaired.name.rpartition("-")[2]
    assert files_in(repaired) == files_in(wheel)


def test_without_a_compiler_the_wheel_is_pure_and_works(tmp_path: Path) -> None:
    pure, printed = built("wheel", tmp_path / "dist", CC="no-such-compiler")
    assert (
        "sigprop is built without its C library, tensors are read slower: no-such-compiler cannot "
        "be run (No such file or directory)" in printed
    )
    assert pure.name.endswith("-py3-none-any.whl")
    assert LIBRARY not in zipfile.ZipFile(pure).namelist()
    assert run_unpacked(pure, tmp_path / "site") == "False 6.5\n"
    first, again = warnings_of_two_probes(tmp_path / "site")
    assert first == [
        "sigprop was installed without its C library, so that tensors on the CPU are read several "
        "times slower, by plain torch; install a C compiler (gcc), then sigprop again"
    ]
    assert again == []
    assert warnings_of_two_probes(tmp_path / "site", SIGPROP_NATIVE="0") == [[], []]


def test_the_library_can_be_built_from_the_sdist(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / LIBRARY).parent.glob("*.[ch]")}
    assert sources
    assert sources | {"hatch_build.py", "pyproject.toml"} <= names
    assert LIBRARY not in names


def test_torch_is_no_build_requirement() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert not any("torch" in need for need in project["build-system"]["requires"])
    assert "torch>=2.5" in project["project"]["dependencies"]
