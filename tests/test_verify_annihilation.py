"""A block that ends the signal breaks every law that is about it, and is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sigprop
from sigprop import BadInput
from sigprop.cli.app import main
from sigprop.verification.judgment import COLUMNS
from sigprop.verification.laws import LAWS, Law
from sigprop.verification.result import Result

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
SEEDS = 4


class Block(nn.Module):
    """A linear layer of gain 1 that can be broken in one way, in some draws only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        nn.init.orthogonal_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)
        self.broken = ""

    def forward(self, x: Tensor) -> Tensor:
        if self.broken == "cut":
            return self.fc(x.detach())
        if self.broken == "zero":
            return self.fc(x) * 0
        if self.broken == "infinite":
            return self.fc(x) * math.inf
        return self.fc(x)


class Net(nn.Module):
    """Four blocks in a row; one of them may be broken, skipped, or called past its hooks."""

    def __init__(self, where: int, how: str, stem: str = "") -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.how, self.where, self.stem_does = how, where, stem
        block = self.blocks[where]
        assert isinstance(block, Block)
        block.broken = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.stem_does == "zero":
            x = x * 0
        for index, block in enumerate(self.blocks):
            if index == self.where and self.how == "skip":
                continue
            x = block.forward(x) if index == self.where and self.how == "bypass" else block(x)
        return x.detach() + x * 0 if self.stem_does == "zero gradient" else x


def network(
    how: str, only: tuple[int, ...] = (0, 1, 2, 3), where: int = 1, stem: str = ""
) -> Callable[[], nn.Module]:
    """A factory whose networks are broken in the draws ``only``."""
    count = iter(range(1000))

    def build() -> nn.Module:
        return Net(where, how if next(count) in only else "", stem)

    return build


def verified(build: Callable[[], nn.Module], law: str = "preserved", **options: Any) -> Result:
    return sigprop.verify(build, X, law, seeds=SEEDS, tolerance=0.5, **options)


def test_the_unbroken_network_holds_forward_and_backward() -> None:
    for law in ("preserved", "gradient-preserved"):
        result = verified(network(""), law)
        assert result.holds, str(result)
        assert tuple(result.table.columns) == COLUMNS


FORWARD = {
    "killed": (
        network("zero"),
        "killed",
        1.0,
        "kills the signal in 4 of 4 seeds: the second moment is",
    ),
    "killed once": (
        network("zero", only=(2,)),
        "killed",
        0.25,
        "kills the signal in 1 of 4 seeds (2): the second moment is",
    ),
    "not finite": (
        network("infinite"),
        "not finite",
        1.0,
        "makes the signal not finite in 4 of 4 seeds: the second moment in front of it is finite, "
        "after it are NaN or infinite values",
    ),
    "not finite twice": (
        network("infinite", only=(0, 3)),
        "not finite",
        0.5,
        "makes the signal not finite in 2 of 4 seeds (0, 3): the second moment in front of it is "
        "finite, after it are NaN or infinite values",
    ),
    "skipped": (
        network("skip"),
        "skipped",
        1.0,
        "is skipped in 4 of 4 seeds: it was never called",
    ),
    "skipped once": (
        network("skip", only=(0,)),
        "skipped",
        0.25,
        "is skipped in 1 of 4 seeds (0): it was never called",
    ),
}


@pytest.mark.parametrize(("build", "kind", "share", "words"), FORWARD.values(), ids=FORWARD)
def test_what_ends_the_signal_is_a_violation_that_names_block_share_and_kind(
    build: Callable[[], nn.Module], kind: str, share: float, words: str
) -> None:
    result = verified(build)
    assert result.verdict == "violated"
    row = result.first_violation
    assert row is not None
    assert (row["block"], row["name"]) == (1, "blocks.1")
    assert (row["kind"], row["share_of_seeds"]) == (kind, share)
    assert result.cause().startswith(f"block 1 (blocks.1) {words}")
    assert result.cause() in result.failure()
    assert tuple(result.table.columns) == COLUMNS
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["verdict"] == "violated"
    names = result.table.query("block >= 0")["name"].tolist()
    assert names == [f"blocks.{k}" for k in range(4)]
    only = result.table.query("block >= 0 and verdict == 'violated'")["name"].tolist()
    assert only == ["blocks.1"]  # what it did to the others is not theirs


BACKWARD = {
    "cut": (
        network("cut"),
        "cut from the loss",
        1.0,
        "is cut from the loss in 4 of 4 seeds: no gradient passes it",
    ),
    "cut once": (
        network("cut", only=(3,)),
        "cut from the loss",
        0.25,
        "is cut from the loss in 1 of 4 seeds (3): no gradient passes it",
    ),
    "cut in the first block": (
        network("cut", where=0),
        "cut from the loss",
        1.0,
        "is cut from the loss in 4 of 4 seeds: no gradient passes it",
    ),
    "killed": (
        network("zero"),
        "killed",
        1.0,
        "kills the signal in 4 of 4 seeds: the second moment is",
    ),
}


@pytest.mark.parametrize(("build", "kind", "share", "words"), BACKWARD.values(), ids=BACKWARD)
def test_what_ends_the_gradient_is_a_violation(
    build: Callable[[], nn.Module], kind: str, share: float, words: str
) -> None:
    result = verified(build, "gradient-preserved")
    row = result.first_violation
    assert result.verdict == "violated"
    assert row is not None
    assert (row["kind"], row["share_of_seeds"]) == (kind, share)
    assert result.cause().startswith(f"block {row['block']} ({row['name']}) {words}")
    broken = result.table.query("block >= 0 and verdict == 'violated'")
    assert len(broken) == 1


def test_what_is_behind_a_block_that_ended_the_signal_says_so() -> None:
    table = verified(network("zero")).table.set_index("name")
    assert table.loc["blocks.2", "verdict"] == "no signal"
    assert table.loc["blocks.2", "reason"] == (
        "no signal arrives in 4 of 4 seeds: another block ended it"
    )
    assert table.loc["blocks.0", "verdict"] == "holds"
    whole = table.loc["blocks 0-3 together"]
    assert whole["reason"] == "the signal does not pass blocks.1 in 4 of 4 seeds"
    assert (whole["verdict"], whole["share_of_seeds"]) == ("violated", 1.0)


def test_the_other_draws_are_still_judged() -> None:
    table = verified(network("zero", only=(2,))).table.set_index("name")
    assert table.loc["blocks.2", "verdict"] == "holds"
    assert table.loc["blocks.2", "reason"] == (
        "no signal arrives in 1 of 4 seeds: another block ended it"
    )


def test_a_signal_that_dies_in_front_of_the_blocks_is_a_violation() -> None:
    result = verified(network("", stem="zero"))
    assert result.verdict == "violated"
    assert result.cause() == (
        "block 0 (blocks.0) receives no signal in 4 of 4 seeds: the second moment is exactly 0 in "
        "front of it, and no block did that"
    )
    backward = verified(network("", stem="zero gradient"), "gradient-preserved")
    assert backward.verdict == "violated"
    assert backward.cause() == (
        "block 3 (blocks.3) receives no signal in 4 of 4 seeds: the second moment is exactly 0 in "
        "front of it, and no block did that"
    )


def test_a_signal_made_from_nothing_is_a_violation() -> None:
    def build() -> nn.Module:
        net = Net(1, "zero")
        block = net.blocks[2]
        assert isinstance(block, Block)
        nn.init.ones_(block.fc.bias)
        return net

    result = verified(build)
    row = result.table.set_index("name").loc["blocks.2"]
    assert (row["verdict"], row["kind"]) == ("violated", "from nothing")
    assert row["reason"] == (
        "makes a signal from nothing in 4 of 4 seeds: the second moment is exactly 0 in front of "
        "it and 1 after it"
    )


def test_a_block_that_could_not_be_read_leaves_the_law_undecided() -> None:
    result = verified(network("bypass"))
    assert result.undecided
    row = result.table.set_index("name").loc["blocks.1"]
    assert row["verdict"] == "not read"
    assert row["reason"] == (
        "not read in 4 of 4 seeds: its forward was called directly, not the module"
    )
    with pytest.raises(AssertionError) as error:
        sigprop.assert_preserved(network("bypass"), X, 0.5, seeds=SEEDS)
    assert str(error.value).splitlines()[0] == (
        "UNDECIDED: the second moment is preserved: E[x_k²] = E[x_{k-1}²], within 50% at 95% "
        "confidence over 4 seeds; blocks.1: not read in 4 of 4 seeds: its forward was called "
        "directly, not the module"
    )


def test_token_inputs_leave_the_first_gradient_out_and_the_law_can_hold() -> None:
    def build() -> nn.Module:
        blocks = [Block() for _ in range(3)]
        return nn.Sequential(nn.Embedding(10, 6).requires_grad_(False), *blocks)

    tokens = torch.arange(8)
    result = sigprop.verify(build, tokens, "gradient-preserved", seeds=3, tolerance=0.5)
    assert result.table["verdict"].tolist()[:3] == ["not stated", "holds", "holds"]
    assert result.holds


def test_the_model_may_change_its_input_in_place() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.ReLU(inplace=True), *(Block() for _ in range(3)))

    before = X.clone()
    result = verified(build, "gradient-preserved", blocks=["1", "2", "3"])
    assert result.holds, str(result)
    assert torch.equal(X, before)


# --- bad input -----------------------------------------------------------------------------------


class Uncalled(nn.Module):
    """Blocks that its forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


BAD: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any], str]] = {
    "containers": (
        network(""),
        "preserved",
        {"blocks": "blocks"},
        "the blocks chosen are containers, which are never called (blocks); choose what is in "
        "them: blocks='blocks.*'",
    ),
    "never called": (
        Uncalled,
        "preserved",
        {"blocks": "blocks.?"},
        "none of the blocks was called in the forward pass (blocks.0, blocks.1, blocks.2 were "
        "not); choose blocks that are, with blocks=",
    ),
    "a port that does not exist": (
        network(""),
        Law("mine", "mine", "second_moment", "forward", LAWS["preserved"].ratios, ("in", "brunch")),
        {},
        "law 'mine' is about a port 'brunch', which no block has; did you mean 'branch'?",
    ),
    "a port that is not there": (
        network(""),
        Law("mine", "mine", "second_moment", "forward", LAWS["preserved"].ratios, ("in", "branch")),
        {},
        "no block has a second moment at the ports 'in' and 'branch': is there a residual addition "
        "in them? Records.coverage says what was read of each",
    ),
    "a quantity that does not exist": (
        network(""),
        Law("mine", "mine", "variance", "forward", LAWS["preserved"].ratios),
        {},
        "law 'mine' is about 'variance', which is no recorded quantity; "
        "did you mean 'channel_variance'?",
    ),
    "frozen, and tokens": (
        lambda: nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 6)).requires_grad_(False),
        "gradient-preserved",
        {},
        "no block has a gradient at the ports 'in' and 'out': does anything in this model require "
        "one? Records.coverage says what was read of each",
    ),
}


@pytest.mark.parametrize(("build", "law", "options", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence(
    build: Callable[[], nn.Module], law: Any, options: dict[str, Any], message: str
) -> None:
    x = torch.arange(8) if "Embedding" in str(build()) else X
    with pytest.raises(BadInput) as error:
        sigprop.verify(build, x, law, seeds=2, **options)
    assert str(error.value) == message


def test_theory_is_asked_before_anything_is_measured() -> None:
    built = []

    def build() -> nn.Module:
        built.append(1)
        return nn.Linear(6, 6)

    with pytest.raises(BadInput, match="theory has no recursion for a network"):
        sigprop.verify(build, X, "predicted")
    assert built == []


# --- exit codes ----------------------------------------------------------------------------------


MODELS = """
import torch
from torch import nn

class Zero(nn.Module):
    def forward(self, x):
        return x * 0

def layer(*more):
    fc = nn.Linear(6, 6, bias=False)
    nn.init.orthogonal_(fc.weight)
    return nn.Sequential(fc, nn.Identity(), *more)

def holds():
    return nn.Sequential(*(layer() for _ in range(3)))

def dead():
    return nn.Sequential(layer(), layer(Zero()), layer())

def dead_once():
    dies = [Zero()] if float(torch.rand(())) < 0.1 else []
    return nn.Sequential(layer(), layer(*dies), layer())

def wide():
    return nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)))
"""


@pytest.mark.parametrize(
    ("factory", "options", "code", "words"),
    [
        ("holds", [], 0, "HOLDS"),
        ("dead", [], 1, "likely cause: block 1 (1) kills the signal in 8 of 8 seeds"),
        ("dead_once", [], 1, "likely cause: block 1 (1) kills the signal in "),
        ("wide", ["--seeds", "2", "--tolerance", "0.3"], 3, "UNDECIDED"),
    ],
)
def test_exit_codes(
    factory: str,
    options: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "exit_code_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    law = "preserved" if factory != "wide" else "preserved:channel_variance"
    with pytest.raises(SystemExit) as stop:
        main(["verify", f"exit_code_models:{factory}", "--inputs", "8,6", "--law", law, *options])
    out = " ".join(capsys.readouterr().out.split())
    assert words in out
    assert stop.value.code == code
