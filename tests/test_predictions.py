"""The bridge from a recorded design to its recursion: every family, and where theory is silent."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

import sigprop
from sigprop.errors import BadInput
from sigprop.networks import resolve
from sigprop.records.queries import at_first_step, by_block
from sigprop.theory import Kernel
from sigprop.verification.predictions import RECURSIONS, predictions, recursion_of, start_kernel

X = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
SIZE: dict[str, Any] = {"depth": 4, "width": 160, "inputs": 32}

#: Second moment at the last block: tolerances are four standard errors over 12 seeds. A block
#: whose branch is as large as its skip has a spread of about sqrt(5/(4·160)) a block.
NOISY = {"plain": 0.2}


@pytest.mark.parametrize("name", RECURSIONS)
def test_every_family_follows_its_recursion(name: str) -> None:
    tolerance = NOISY.get(name, 0.1)
    result = sigprop.verify(
        name, X, "predicted", seeds=12, tolerance=tolerance, options=SIZE, level=0.9
    )
    whole = result.table.iloc[-1]
    assert result.verdict != "violated", str(result)
    assert whole["measured"] == pytest.approx(whole["predicted"], rel=tolerance)


def test_a_wrong_recursion_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The saboteur: batchnorm, whose second moment grows by 1 a block, judged by plain's, 2**k."""
    monkeypatch.setitem(RECURSIONS._entries, "batchnorm", RECURSIONS["plain"])
    result = sigprop.verify("batchnorm", X, "predicted", seeds=6, options=SIZE)
    assert result.verdict == "violated"


@pytest.mark.parametrize(
    "design",
    [
        {},
        {"network": "mypkg:make"},
        {"network": "rescale", "order": "weight-norm-act"},
        {"network": "rescale", "architecture": "resnet"},  # zero padding
        {"network": "rescale", "architecture": "resnet", "padding": "circular", "stages": 2},
        {"network": "rescale", "architecture": "transformer"},
        {"network": "rescale", "drop": 0.1},
        {"network": "scaled-weightnorm", "scaled": False},
    ],
    ids=str,
)
def test_theory_is_silent_where_it_has_nothing_to_say(design: dict[str, object]) -> None:
    name = design.get("network")
    if name in sigprop.networks.names():
        given = {key: value for key, value in design.items() if key != "network"}
        design = {"network": name, **sigprop.networks.resolve(str(name), **given)}
    assert recursion_of(design, Kernel()) is None


def test_a_design_without_its_options_is_refused() -> None:
    with pytest.raises(BadInput) as error:
        recursion_of({"network": "skipinit", "architecture": "mlp"}, Kernel())
    assert str(error.value) == (
        "this design of 'skipinit' does not say its 'depth'; sigprop.networks.resolve gives all "
        "options"
    )


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({}, {}),
        ({"gain": 0.0, "depth": 20}, {"branch_layers": 2}),
    ],
)
def test_options_at_their_defaults_predict_what_options_not_given_do(
    given: dict[str, object], same: dict[str, object]
) -> None:
    one = recursion_of({"network": "skipinit", **resolve("skipinit", **given)}, Kernel())
    two = recursion_of({"network": "skipinit", **resolve("skipinit", **same)}, Kernel())
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(one.second_moment, two.second_moment)
    assert len(one.second_moment) == 21


@pytest.mark.parametrize("name", sigprop.networks.names())
def test_a_resolved_design_names_every_option_and_builds_the_same_network(name: str) -> None:
    design = resolve(name)
    assert set(design) == {f.name for f in fields(sigprop.networks.Design)} | set(
        sigprop.networks.options(name)
    )
    torch.manual_seed(0)
    one = sigprop.networks.build(name, depth=2, width=8)
    torch.manual_seed(0)
    two = sigprop.networks.build(name, **{**design, "depth": 2, "width": 8})  # type: ignore[arg-type]
    assert [p.tolist() for p in one.parameters()] == [p.tolist() for p in two.parameters()]


def test_resolving_refuses_what_building_refuses() -> None:
    with pytest.raises(BadInput, match="network 'rezero' has no option 'gain'"):
        resolve("rezero", gain=1.0)
    assert resolve("plain", inputs=5)["inputs"] == (5,)


def test_a_measured_start_is_where_the_curves_begin() -> None:
    records = sigprop.measure("plain", X, seeds=4, network="p", options=SIZE)
    start = start_kernel(records.signals)
    assert start is not None
    entry = records.signals.query("port == 'in' and block == 0 and direction == 'forward'")
    assert start.samples == 64
    assert start.second_moment == pytest.approx(entry["second_moment"].mean())
    assert start.mean_shift == pytest.approx(entry["mean_shift"].mean())
    curves = predictions(records)
    first = curves.query("quantity == 'second_moment' and direction == 'forward' and block == 0")
    assert first["value"].item() == pytest.approx(2 * start.second_moment)


def test_curves_lie_on_the_measurements() -> None:
    records = sigprop.measure("batchnorm", X, seeds=8, network="b", options=SIZE)
    curves = predictions(records)
    # Forward within the 5 % of claim 15; backward the recursion is that of a large batch,
    # and 64 samples raise the gradient by some percent a block.
    for direction, quantity, within in (
        ("forward", "second_moment", 0.05),
        ("forward", "channel_variance", 0.05),
        ("backward", "second_moment", 0.35),
    ):
        rows = at_first_step(by_block(records.signals, quantity, direction))
        measured = rows.groupby("block")[quantity].mean().to_numpy()
        line = curves[(curves["direction"] == direction) & (curves["quantity"] == quantity)]
        np.testing.assert_allclose(line["value"].to_numpy(), measured, rtol=within)


def test_no_design_no_curve() -> None:
    torch.manual_seed(0)
    model = sigprop.networks.build("plain", **SIZE)
    assert predictions(sigprop.measure(model, X)).empty
    assert start_kernel(sigprop.Records().signals) is None


def test_only_a_recursion_that_overflows_is_left_out() -> None:
    """A design that lacks an option is a fault to be said, and no lack of theory."""
    records = sigprop.measure("plain", X, options=SIZE)
    records.manifest["designs"]["plain"]["depth"] = 1100
    assert predictions(records).empty
    del records.manifest["designs"]["plain"]["branch_layers"]
    with pytest.raises(BadInput, match="does not say its 'branch_layers'"):
        predictions(records)
