from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sigprop import load
from sigprop.cli.app import main

SMALL = ["--depth", "2", "--width", "8", "--seeds", "1"]


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    code = int(stop.value.code or 0)
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def test_networks_lists_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["networks"], capsys)
    assert code == 0
    assert all(name in out for name in ("plain", "batchnorm", "rescale", "reparametrize"))


def test_measure_prints_a_row_a_block_and_saves(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = tmp_path / "run"
    code, out, _ = run(["measure", "plain", "rescale", *SMALL, "--output", str(saved)], capsys)
    assert code == 0
    assert out.count("second moment") == 2
    assert (saved / "manifest.json").exists()


def test_measure_says_from_which_block_on_activations_are_not_finite(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "overflowing.py").write_text(
        "from torch import nn\n"
        "import torch\n"
        "class Block(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.f = nn.Linear(4, 4, bias=False)\n"
        "        torch.nn.init.eye_(self.f.weight)\n"
        "    def forward(self, x):\n"
        "        return x + 1e13 * self.f(x)\n"
        "def make():\n"
        "    return nn.Sequential(Block(), Block(), Block(), Block())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, _ = run(["measure", "overflowing:make", "--inputs", "8,4", "--seeds", "1"], capsys)
    assert code == 0
    assert re.search(
        r"overflowing:make: activations are not finite from block 2 on "
        r"\(\d+ of 32 elements there\)",
        out,
    )
    rows = [line.split() for line in out.splitlines() if re.match(r"\s*[0-3] ", line)]
    assert [row[2] == "-" for row in rows] == [False, False, True, True]


def test_compare_then_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["compare", "plain", "rescale", *SMALL, "--steps", "3", "--output", str(first)]
    code, out, _ = run(arguments, capsys)
    assert code == 0
    assert "report.html" in out
    assert (first / "report.html").exists()
    assert run([*arguments, "--resume"], capsys)[0] == 0
    arguments = ["report", str(first / "run"), "--output", str(second), "--linked"]
    code, _, _ = run(arguments, capsys)
    assert code == 0
    assert (second / "figures" / "signal_propagation.png").exists()
    assert (second / "plotly-cartesian.min.js").exists()
    manifest = json.loads((first / "run" / "plain" / "seed-0" / "manifest.json").read_text())
    assert manifest["status"] == "complete"


VERIFY = ["verify", "--depth", "3", "--width", "192", "--inputs", "32,16", "--tolerance", "0.1"]


def test_verify_says_holds_or_violated_and_exits_with_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run([*VERIFY, "rescale"], capsys)
    assert code == 0
    assert "HOLDS: the second moment is preserved" in " ".join(out.split())
    code, out, _ = run([*VERIFY, "plain", "--seeds", "3"], capsys)
    assert code == 1
    assert "VIOLATED" in out
    assert "likely cause:" in out
    assert run([*VERIFY, "rescale", "--law", "predicted"], capsys)[0] == 0


def test_check_draws_the_tree(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["check", "rescale", "--depth", "2", "--width", "8"], capsys)
    assert code == 0
    assert "blocks" in out
    assert "BiasBefore" in out


def test_claims_are_listed_run_and_saved(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(["claims", "--list"], capsys)
    assert code == 0
    assert "rescale-algebra" in out
    code, out, _ = run(["claims", "rescale-algebra", "--output", str(tmp_path)], capsys)
    assert code == 0
    assert "1 holds" in out
    assert (tmp_path / "claims.json").exists()
    code, out, _ = run(["claims", "rescale-algebra", "--json"], capsys)
    assert json.loads(out)


def test_verify_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run([*VERIFY, "plain", "--seeds", "3", "--json"], capsys)
    result = json.loads(out)
    assert code == 1
    assert result["verdict"] == "violated"
    assert [row["block"] for row in result["rows"]] == [0, 1, 2, -1]


def test_a_factory_of_the_users_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(["measure", "my_models:make", "--inputs", "8,6"], capsys)
    assert code == 0
    assert "my_models:make" in out


BAD = {
    "network": (["measure", "plian"], "did you mean 'plain'?"),
    "module": (["measure", "no.such:thing"], "cannot import 'no.such'"),
    "function": (["measure", "torch.nn:Linea"], "did you mean 'Linear'"),
    "blocks": (["measure", "plain", *SMALL, "--blocks", "blcks"], "did you mean 'blocks'"),
    "metric": (["measure", "plain", *SMALL, "--metric", "kurtosi"], "did you mean 'kurtosis'?"),
    "option": (["measure", "plain", "-o", "activaton=relu"], "did you mean 'activation'?"),
    "option form": (["measure", "plain", "-o", "c"], "--option is name=value, not 'c'"),
    "inputs": (["measure", "plain", "--inputs", "8,x"], "--inputs is a shape such as 16,3,32,32"),
    "law": (["verify", "plain", *SMALL, "--law", "preservd"], "did you mean 'preserved'"),
    "claim": (["claims", "rescale-algebr"], "did you mean 'rescale-algebra'?"),
    "one seed": (["verify", "plain", *SMALL], "an interval needs at least 2 seeds, got 1"),
    "data": (["measure", "plain", "--data", "digit"], "digits"),
    "steps": (
        ["compare", "plain", "--output", "x", "--steps", "0"],
        "steps must be a whole number",
    ),
    "no run": (["report", "absent", "--output", "x"], "there is no directory absent"),
    "figure": (["report", ".", "--output", "x"], "holds no run"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_one_sentence_and_exit_code_two(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(arguments, capsys)
    assert code == 2
    assert "error:" in err
    assert message in err
    assert "Traceback" not in err


def test_an_unwritable_output_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "run")
    code, _, err = run(["measure", "plain", *SMALL, "--output", place], capsys)
    assert code == 2
    assert "cannot make the run directory" in err.replace("\n", " ")


@pytest.mark.parametrize(
    "command", ["networks", "measure", "compare", "verify", "check", "claims", "report"]
)
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run([command, "--help"], capsys)
    assert code == 0
    assert f"Example: sigprop {command}" in out


def test_the_installed_command_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from sigprop.cli.app import main; main()", "measure", "plian"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean 'plain'?" in done.stderr


def test_spectra_prints_norms_and_ranks_and_saves(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = tmp_path / "run"
    code, out, _ = run(["spectra", "plain", *SMALL, "--output", str(saved)], capsys)
    assert code == 0
    assert "eff. rank" in out
    assert set(load(saved).spectra["operator"]) == {"matrix"}
    ends = ["--start", "blocks.0", "--stop", "blocks.1", "--batch", "4"]
    code, out, _ = run(["spectra", "plain", *SMALL, "--of", "jacobian", *ends], capsys)
    assert code == 0
    assert " 32 " in out  # 4 samples of 8 units
    code, out, _ = run(["spectra", "plain", *SMALL, "--of", "norms", "--depth", "3"], capsys)
    assert code == 0
    assert "fits best" in out
    code, _, err = run(["spectra", "plain", *SMALL, "-k", "500"], capsys)
    assert code == 2
    assert "k is a whole number from 1 to 8" in err
