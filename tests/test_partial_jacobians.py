"""Partial Jacobian norms from random signs, against dense Jacobians of every block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from messages import refusal
from torch import Tensor, nn

import sigprop
from sigprop.errors import BadInput, UnknownName
from sigprop.records import Records, tidy
from sigprop.spectra import jacobian_norms


def net(norm: bool) -> nn.Sequential:
    """Return layers whose output has another width than the blocks, in training mode."""
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.BatchNorm1d(6)] if norm else []
    layers = [nn.Linear(5, 6), nn.Tanh(), *middle, nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)]
    return nn.Sequential(*layers).double()


def dense_norms(model: nn.Sequential, x: Tensor) -> list[float]:
    """Return ‖∂h_L/∂h_l‖²_F / n_L of the whole batch at the output of every layer."""
    found = []
    for layer in range(1, len(model) + 1):
        with torch.no_grad():
            h = model[:layer](x)
        matrix = torch.autograd.functional.jacobian(model[layer:], h)
        found.append(float(matrix.square().sum() / matrix[..., 0, 0].numel()))
    return found


def inputs() -> Tensor:
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("norm", [False, True], ids=["samples apart", "batch norm couples them"])
def test_norms_are_those_of_dense_jacobians(norm: bool) -> None:
    model, x = net(norm), inputs()
    records = sigprop.measure(
        model, x, seeds=16, blocks="leaves", spectra=False, cotangent="rademacher"
    )
    table = jacobian_norms(records)
    assert table["seeds"].unique().tolist() == [16]
    error = np.log(table["high"] / table["norm"]) / 2.131  # Student's t of 16 draws at 95 %
    assert (np.abs(np.log(table["norm"] / dense_norms(model, x))) <= 4 * error + 1e-12).all()
    np.testing.assert_allclose(table["norm"].iloc[-1], 1, rtol=1e-12)  # signs have length √n_L


@pytest.mark.parametrize("norm", [False, True], ids=["samples apart", "batch norm couples them"])
def test_intervals_cover_the_dense_norms(norm: bool) -> None:
    """Draw signs by hand, many more than is quick to measure, and count how often 8 cover it."""
    model, x = net(norm), inputs()
    exact = np.array(dense_norms(model, x))[:-1]
    trunk = [model[0](x)]
    for layer in list(model)[1:]:
        trunk.append(layer(trunk[-1]))
    rng = torch.Generator().manual_seed(2)
    covered = []
    for _ in range(40):
        rows = []
        for seed in range(8):
            signs = torch.randint(0, 2, trunk[-1].shape, generator=rng).double() * 2 - 1
            found = torch.autograd.grad(trunk[-1], trunk[:-1], signs, retain_graph=True)
            rows += [
                {
                    "network": "model", "seed": seed, "kind": "leaf", "block": block,
                    "module": str(block), "port": "out", "direction": "backward",
                    "second_moment": float(g.square().mean()), "count": g.numel(),
                }
                for block, g in enumerate(found)
            ]  # fmt: skip
        manifest = {"cotangents": {"model": trunk[-1].numel()}}
        part = jacobian_norms(Records(signals=tidy("signals", rows), manifest=manifest))
        covered.append(((part["low"] <= exact) & (exact <= part["high"])).mean())
    # 95 % asked for; 40 trials err by 3.4 %, less for the blocks that are averaged over
    assert 0.87 <= np.mean(covered) <= 0.995, np.mean(covered)


def test_coupling_by_the_batch_is_in_the_norm() -> None:
    """Without the entries between samples the number would be another."""
    model, x = net(norm=True), inputs()
    with torch.no_grad():
        h = model[:2](x)
    matrix = torch.autograd.functional.jacobian(model[2:], h)  # (N, out, N, in)
    own = sum(float(matrix[n, :, n].square().sum()) for n in range(len(x)))
    assert own < 0.9 * float(matrix.square().sum())


def test_factories_have_intervals_over_weights() -> None:
    options = {"depth": 3, "width": 64, "inputs": 16}
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    found = jacobian_norms(
        sigprop.measure("plain", x, seeds=6, options=options, cotangent="rademacher")
    )
    assert found["block"].tolist() == [0, 1, 2]
    assert (found["low"] < found["norm"]).all()
    # plain residual blocks double the squared norm on the way back: 4, 2, 1 times the head's
    ratios = found["norm"].to_numpy() / found["norm"].iloc[-1]
    np.testing.assert_allclose(ratios, [4, 2, 1], rtol=0.25)
    one = jacobian_norms(sigprop.measure("plain", x, options=options, cotangent="rademacher"))
    assert one["low"].isna().all()


def test_the_law_tells_a_network_that_preserves_norms_from_one_that_does_not() -> None:
    options = {"depth": 4, "width": 128, "inputs": 16}
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    how = {"seeds": 6, "tolerance": 0.15, "options": options}
    plain = {**how, "options": {**options, "bias": False}}
    kept = sigprop.verify("rescale", x, "jacobian-preserved", **plain)  # type: ignore[arg-type]
    assert kept.verdict == "holds"
    grown = sigprop.verify("plain", x, "jacobian-preserved", **how)  # type: ignore[arg-type]
    assert grown.verdict == "violated"


def test_what_gives_no_norms_is_refused() -> None:
    model, x = nn.Linear(3, 2), torch.ones(4, 3)
    with refusal(
        BadInput,
        "these records hold gradients of a loss; measure with cotangent='rademacher' for partial "
        "Jacobian norms",
    ):
        jacobian_norms(sigprop.measure(model, x))
    with refusal(UnknownName, "no cotangent is called 'normal'; known: rademacher"):
        sigprop.measure(model, x, cotangent="normal")
    with refusal(
        BadInput,
        "a cotangent takes the place of the loss's gradient; leave out targets and loss, or the "
        "cotangent",
    ):
        sigprop.measure(model, x, torch.ones(4, 2), cotangent="rademacher")
    with refusal(
        BadInput, "a cotangent needs an output with a gradient, and the model returned none"
    ):
        sigprop.measure(model.requires_grad_(False), x, cotangent="rademacher")
    signs = sigprop.measure(nn.Linear(3, 2), x, cotangent="rademacher")
    with refusal(BadInput, "level is a confidence between 0 and 1, got 95"):
        jacobian_norms(signs, level=95)
