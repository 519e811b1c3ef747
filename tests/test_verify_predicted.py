"""The law `predicted`: second moment, channel variance, mean shift and gradient, all together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import sigprop
from sigprop.networks import resolve
from sigprop.theory import Kernel, Prediction
from sigprop.verification.joint import joint_evidence, renumbered
from sigprop.verification.judgment import judgment
from sigprop.verification.laws import LAWS
from sigprop.verification.predictions import RECURSIONS, recursion_of, start_kernel

X = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
SIZE: dict[str, Any] = {"depth": 3, "width": 160, "inputs": 32}
LAW = LAWS["predicted"]
PARTS = ("second moment", "channel variance", "mean shift", "gradient")

Drawn = tuple[sigprop.Records, Prediction]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """Records of a network with a mean shift, and what theory predicts of it."""
    options = {**SIZE, "bias": False}
    records = sigprop.measure("rescale", X, seeds=8, spectra=False, options=options)
    start = start_kernel(records.signals)
    assert start is not None
    return records, recursion_of({"network": "rescale", **resolve("rescale", **options)}, start)


def verdicts(drawn: Drawn, prediction: Prediction) -> dict[str, str]:
    """Return the verdict on each part as a whole."""
    found, targets = joint_evidence(drawn[0], LAW, prediction, entered=False)
    table = renumbered(judgment(found, targets, tolerance=0.1, level=0.9), found, LAW)
    whole = table[table["block"] < 0]
    return dict(zip(whole["name"].str.split(":").str[0], whole["verdict"], strict=True))


def test_all_parts_hold_of_the_networks_own_recursion(drawn: Drawn) -> None:
    assert verdicts(drawn, drawn[1]) == dict.fromkeys(PARTS, "holds")


@pytest.mark.parametrize(
    ("column", "part"),
    [
        ("second_moment", "second moment"),
        ("channel_variance", "channel variance"),
        ("mean_shift", "mean shift"),
        ("gradient_second_moment", "gradient"),
    ],
)
def test_a_wrong_line_of_any_quantity_breaks_the_law(drawn: Drawn, column: str, part: str) -> None:
    """The saboteur: one line grows by a fifth a block more, the others are right."""
    line = getattr(drawn[1], column)
    wrong = line * 1.2 ** np.arange(len(line))
    if column == "mean_shift":  # the shift is a small part of the second moment
        wrong = line + 0.15 * drawn[1].second_moment * np.arange(len(line))
    found = verdicts(drawn, replace(drawn[1], **{column: wrong}))
    assert found[part] == "violated"
    others = {other for other in PARTS if other != part}
    if column != "second_moment":  # of which the mean shift is a share
        assert {found[other] for other in others} == {"holds"}


@pytest.mark.parametrize("bias", [True, False])
def test_a_network_with_c_2_is_no_network_with_c_20(
    bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second moment is the same; its gradient, or its channel variance, is not."""
    own = RECURSIONS["rescale"]

    def of_c_20(design: dict[str, Any], start: Kernel) -> Prediction:
        return own({**design, "c": 20}, start)

    monkeypatch.setitem(RECURSIONS._entries, "rescale", of_c_20)
    options = {**SIZE, "c": 2, "bias": bias}
    result = sigprop.verify("rescale", X, "predicted", 8, tolerance=0.1, options=options)
    assert result.verdict == "violated"
    rows = result.table[result.table["name"].str.contains("second moment")]
    assert "violated" not in set(rows["verdict"])


def test_a_line_that_theory_does_not_have_is_left_out(drawn: Drawn) -> None:
    silent = np.full_like(drawn[1].second_moment, np.nan)
    found = verdicts(drawn, replace(drawn[1], gradient_second_moment=silent))
    assert set(found) == set(PARTS) - {"gradient"}


def test_the_law_is_stated_across_changes_of_width() -> None:
    options = {"architecture": "resnet", "depth": 2, "stages": 2, "width": 16, "inputs": (3, 8, 8)}
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    result = sigprop.verify("nf-resnet", x, "predicted", 3, tolerance=0.5, options=options)
    blocks = result.table[result.table["block"] >= 0]
    assert len(blocks) == 2 * len(PARTS)
    assert "transition" not in set(blocks["verdict"])


# --- laws of a block and the one before it --------------------------------------------------------


def whole(name: str, law: str, **options: Any) -> str:
    """Return the verdict on all blocks together."""
    sizes = {"depth": 6, "width": 160, "inputs": 32, **options}
    result = sigprop.verify(name, X, law, 6, tolerance=0.25, options=sizes)
    return str(result.table.iloc[-1]["verdict"])


def test_rescaled_blocks_have_equal_shares() -> None:
    assert whole("rescale", "equal-shares", c=2) == "holds"
    # a trunk of coefficients 1 doubles: the last block has half of it, the first 1/64
    assert whole("plain", "equal-shares") == "violated"


def test_constant_coefficients_give_equal_gradients_of_weights() -> None:
    """E g^2 of a weight is beta^2 q_{k-1} G_k, and q grows as G shrinks (mup: both by 1 + 1/L)."""
    assert whole("mup", "equal-parameter-gradients") == "holds"
    # with beta^2 = 1/(k + c), c = 0.2, the first block's are 5 times the last one's
    options = {"bias": False, "c": 0.2, "reparametrize": False}
    assert whole("rescale", "equal-parameter-gradients", **options) == "violated"


def test_a_block_without_gradients_is_no_equal_one() -> None:
    result = sigprop.verify("rezero", X, "equal-parameter-gradients", 3, options=SIZE)
    assert not result.holds
