"""``sigprop sharpness``, ``landscape`` and ``stability`` on small networks."""

import pandas as pd
import pytest

from sigprop.cli.app import main

SMALL = ["--depth", "2", "--width", "8", "--data", "digits"]


def run(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    seen = capsys.readouterr()
    return int(stop.value.code or 0), seen.out, seen.err


def test_sharpness_prints_a_row_a_network(capsys):
    code, out, _ = run(
        ["sharpness", "plain", "rescale", *SMALL, "--batch", "32", "-k", "2"], capsys
    )
    assert code == 0
    assert "eigenvalue 2" in out
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["plain", "rescale"]


def test_landscape_writes_every_scan_and_resumes_without_training_again(capsys, tmp_path):
    arguments = ["landscape", "rescale", *SMALL, "--steps", "4", "--every", "2", "--points", "3",
                 "--output", str(tmp_path / "out")]  # fmt: skip
    code, out, _ = run(arguments, capsys)
    assert code == 0
    found = pd.read_csv(tmp_path / "out" / "landscape.csv")
    assert found["step"].unique().tolist() == [0, 2, 4]
    assert found.groupby("step")["eta"].max().tolist() == [0.4, 0.4, 0.4]
    assert "smoothness" in out
    code, again, _ = run([*arguments, "--resume"], capsys)
    assert code == 0
    assert again == out


def test_stability_prints_the_sharpness_beside_the_line(capsys, tmp_path):
    code, out, _ = run(
        ["stability", "rescale", *SMALL, "--steps", "2", "--every", "2", "--samples", "32",
         "--learning-rate", "0.1", "--output", str(tmp_path)], capsys)  # fmt: skip
    assert code == 0
    found = pd.read_csv(tmp_path / "stability.csv")
    assert found["line"].tolist() == [20.0, 20.0]
    assert (found["sharpness"] == found["preconditioned"]).all()
    assert "sharpness" in out


def test_an_unknown_network_is_a_bad_argument(capsys):
    code, _, err = run(["sharpness", "rescal"], capsys)
    assert code == 2
    assert "did you mean 'rescale'" in err
