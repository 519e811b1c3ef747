"""Spectra of weights and of updates while a model trains."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from messages import refusal
from torch import Tensor, nn

import sigprop
from sigprop.errors import BadInput
from sigprop.reporting.figures import FIGURES, NothingToDraw, Study
from sigprop.spectra import of_weights, training


def trained(watched: dict[str, object] | None, width: int = 6) -> tuple[list[Tensor], object]:
    """Return the weights before each of five steps, and the watch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)).double()
    weight = model.get_parameter("0.weight")
    watch = None
    if watched is not None:
        watch = sigprop.spectra.WeightWatch(model, optimizer, **watched)  # type: ignore[arg-type]
    seen = []
    for _ in range(5):
        seen.append(weight.detach().clone())
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    seen.append(weight.detach().clone())
    return seen, watch


def test_weights_before_and_updates_of_the_scheduled_steps() -> None:
    seen, watch = trained({"every": 2, "network": "tanh", "seed": 3})
    assert isinstance(watch, sigprop.spectra.WeightWatch)
    frame = watch.frame()
    assert sorted(frame["step"].unique()) == [0, 2, 4]
    assert frame["network"].unique().tolist() == ["tanh"]
    assert frame["seed"].unique().tolist() == [3]
    for step in (0, 2, 4):
        for operator, matrix in (
            ("matrix", seen[step]),
            ("update", seen[step + 1] - seen[step]),
        ):
            rows = frame[
                (frame["step"] == step)
                & (frame["operator"] == operator)
                & (frame["name"] == "0.weight")
            ]
            exact = torch.linalg.svdvals(matrix).numpy()
            np.testing.assert_allclose(rows["singular_value"], exact, atol=1e-14)
    assert len(watch.records().spectra) == len(frame)


def test_watching_does_not_change_training_and_ends() -> None:
    bare, _ = trained(None)
    seen, watch = trained({"every": lambda step: step == 1, "k": 1})
    assert all(torch.equal(*pair) for pair in zip(bare, seen, strict=True))
    assert isinstance(watch, sigprop.spectra.WeightWatch)
    assert watch.frame()["step"].unique().tolist() == [1]
    assert watch.frame().groupby(["name", "operator"]).size().tolist() == [1] * 4
    watch.close()
    assert not watch._hooks[0].hooks_dict_ref()


def test_a_weight_that_diverged_is_nan() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=float("inf"))
    with sigprop.spectra.WeightWatch(model, optimizer) as watch:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    frame = watch.frame()
    assert frame[frame["operator"] == "update"]["singular_value"].isna().all()
    assert frame[frame["operator"] == "matrix"]["singular_value"].notna().all()


def test_the_iteration_starts_from_the_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[bool] = []
    own = of_weights.largest_values

    def noted(name: str, weight: Tensor, k: int | None, start: np.ndarray | None = None) -> object:
        starts.append(start is not None)
        return own(name, weight, k, start)

    monkeypatch.setattr(training, "largest_values", noted)
    monkeypatch.setattr(of_weights, "_LARGE", 300)
    model = nn.Linear(320, 320, bias=False).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.spectra.WeightWatch(model, optimizer, k=2) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.eye(320).double()).square().mean().backward()
            optimizer.step()
    assert starts == [False, False, True, True]
    last = watch.frame()
    last = last[(last["step"] == 1) & (last["operator"] == "matrix")]
    assert last["size"].unique().tolist() == [320]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"every": 0}, "every is a number of steps from 1 or a callable, not 0"),
        ({"k": 0}, "k is a whole number from 1, not 0"),
    ],
)
def test_a_watch_that_cannot_be_is_refused(how: dict[str, object], message: str) -> None:
    with refusal(BadInput, message):
        trained(how)


def test_the_figure_over_steps_and_depth_shows_what_was_recorded() -> None:
    _, watch = trained({"every": 1, "network": "tanh"})
    assert isinstance(watch, sigprop.spectra.WeightWatch)
    records = watch.records()
    drawn = FIGURES["spectra_training"](Study(records))
    panels = [axes for axes in drawn.axes if axes.collections and axes.get_xlabel() in ("", "step")]
    meshes = [axes.collections[0] for axes in panels][:3]
    summary = sigprop.spectra.summary(records.spectra)
    for mesh, (operator, quantity) in zip(
        meshes,
        [("matrix", "spectral_norm"), ("update", "spectral_norm"), ("update", "stable_rank")],
        strict=True,
    ):
        wanted = summary[summary["operator"] == operator]
        wide = wanted.pivot_table(index="name", columns="step", values=quantity)
        np.testing.assert_allclose(
            np.asarray(mesh.get_array()).ravel(), np.log10(wide.to_numpy()).ravel(), atol=1e-6
        )
    few = dataclasses.replace(records, spectra=records.spectra[records.spectra["step"] < 1])
    with pytest.raises(NothingToDraw, match="fewer than two steps"):
        FIGURES["spectra_training"](Study(few))
