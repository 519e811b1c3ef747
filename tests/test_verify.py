"""Verdicts on real networks, true laws and broken ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import sigprop
from sigprop import BadInput, UnknownName
from sigprop.networks.layers import Scale
from sigprop.theory import coefficients, shares
from sigprop.verification.intervals import MOST_DRAWS, UPPER, judge, log_mean_interval
from sigprop.verification.laws import LAWS

X = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
SIZE: dict[str, Any] = {"depth": 6, "width": 96, "inputs": 32}


def verdict(network: Any, law: Any = "preserved", **options: Any) -> str:
    zoo = {"options": SIZE} if isinstance(network, str) else {}
    return sigprop.verify(network, X, law, **{"seeds": 8, **zoo, **options}).verdict


# --- laws that hold and laws that do not --------------------------------------------------------

# Per-block spread over seeds is about 0.01 for rescale and 0.1 for plain (branch as large as the
# skip, correlation ~ sqrt(2/96)), so plain's laws are asked within 30 %. The gradient over all
# blocks of rescale spreads by 0.04: what is predicted of it is asked within 10 %.
TRUE = {
    "rescale preserves": ("rescale", "preserved", 0.05),
    "rescale preserves the channel variance": ("rescale", "preserved:channel_variance", 0.05),
    "rescale as predicted": ("rescale", "predicted", 0.1),
    "batchnorm grows like k+1": ("batchnorm", lambda block: (block + 2) / (block + 1), 0.1),
}


@pytest.mark.parametrize(("network", "law", "tolerance"), TRUE.values(), ids=TRUE)
def test_true_laws_hold(network: str, law: object, tolerance: float) -> None:
    assert verdict(network, law, tolerance=tolerance, seeds=16) == "holds"


@pytest.mark.parametrize("network", ["plain", "batchnorm"])
def test_networks_that_do_not_preserve_are_told(network: str) -> None:
    assert verdict(network) == "violated"


def test_plain_doubles() -> None:
    result = sigprop.verify(
        "plain",
        X,
        "doubling",
        seeds=24,
        tolerance=0.3,
        options={**SIZE, "width": 256, "depth": 3, "branch_layers": 1},
    )
    assert result.holds, str(result)


# --- saboteurs: each breaks one thing, and must turn the check red ------------------------------


def sabotaged(break_it: Callable[[Any], None], **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        net: Any = sigprop.networks.build("rescale", **{**SIZE, "depth": 20, **options})
        for block in net.blocks:
            break_it(block)
        return net

    return build


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Follow(nn.Module):
    """Adds a tenth of the block's own input to its branch: skip and branch correlate."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + 0.1 * x


def forget_alpha(block: Any) -> None:
    block.skip = nn.Identity()


def inflate_beta(block: Any) -> None:
    block.branch = nn.Sequential(block.branch, Scale(1.1))


def correlate(block: Any) -> None:
    block.branch = Follow(block.branch)


def detach_branch(block: Any) -> None:
    block.branch = nn.Sequential(Detached(), block.branch)


def wrong_exponent(block: Any) -> None:
    """1/(2m) is 1/4 for the two weights of a branch; ports of the paper's code keep 1/6."""
    with torch.no_grad():
        for weight in block.branch.parameters():
            if weight.ndim == 2:
                own = weight.std() * math.sqrt(weight.shape[1])
                ideal = math.sqrt(2 / (1 - 1 / math.pi))
                spread = float(own) / ideal  # ((k+c)/L)^(-1/4)
                weight *= spread ** (4 / 6 - 1)


SABOTEURS = {
    "alpha forgotten": (sabotaged(forget_alpha), "preserved"),
    "beta off by 10 %": (sabotaged(inflate_beta), "preserved"),
    "exponent 1/6 with two layers": (sabotaged(wrong_exponent, c=2), "preserved"),
    "He gain under centering": (sabotaged(lambda block: None, gain="he"), "preserved"),
    "skip and branch correlated": (sabotaged(correlate), "preserved"),
    "gradient detached": (sabotaged(detach_branch), "gradient-preserved"),
}


@pytest.mark.parametrize(("network", "law"), SABOTEURS.values(), ids=SABOTEURS)
def test_saboteurs_turn_the_check_red(network: Callable[[], nn.Module], law: str) -> None:
    assert verdict(network, law) == "violated"


def test_a_forgotten_bias_breaks_the_channel_law_only() -> None:
    """Without centering the second moment is kept, the batch's channel variance is not."""
    options = {**SIZE, "depth": 20, "bias": False}
    kept = sigprop.verify("rescale", X, tolerance=0.2, options=options, seeds=8)
    lost = sigprop.verify("rescale", X, "preserved:channel_variance", options=options, seeds=8)
    assert kept.verdict != "violated"
    assert lost.verdict == "violated"


def test_the_unsabotaged_gradient_is_predicted_and_not_preserved() -> None:
    """The preserving gain keeps both forward variances; its gradient grows by pi/(pi-1) a layer."""
    result = sigprop.verify(
        "rescale", X, "gradient-preserved", seeds=16, options={**SIZE, "depth": 20}
    )
    alpha, beta = coefficients(20).alpha, coefficients(20).beta
    growth = np.prod(alpha**2 + beta**2 * (math.pi / (math.pi - 1)) ** 2)
    whole = result.table.iloc[-1]
    assert whole["low"] < growth < whole["high"]
    he = sigprop.verify(
        "rescale", X, "gradient-preserved", seeds=16, options={**SIZE, "depth": 20, "gain": "he"}
    )
    assert he.holds


# --- the evidence beside the verdict -------------------------------------------------------------


@pytest.fixture(scope="module")
def result() -> sigprop.Result:
    return sigprop.verify("rescale", X, seeds=16, options=SIZE)


def test_each_block_contributes_its_equal_share(result) -> None:
    """Condition (b) of the paper: 1/(L+c) of the output for every block."""
    alpha, beta = coefficients(6).alpha, coefficients(6).beta
    predicted = shares(alpha, beta).blocks
    measured = result.table.query("block >= 0")["share"].to_numpy()
    # The spread of one share over seeds is about 5 %; the mean of 16 has 1.3 %, four of them 5 %.
    np.testing.assert_allclose(measured, predicted, rtol=0.05)


def test_correlation_and_spread_are_reported(result) -> None:
    blocks = result.table.query("block >= 0")
    # Mean over 16 seeds of a cosine of spread sqrt(1/96): four standard errors are 0.15.
    assert (blocks["correlation"].abs() < 4 * math.sqrt(1 / 96 / 16)).all()
    assert blocks["spread"].between(1e-4, 0.1).all()
    ratio = blocks["skip"] + blocks["branch"]
    np.testing.assert_allclose(ratio, 1, atol=0.05)


def test_the_printed_result_names_law_verdict_and_blocks(result) -> None:
    text = str(result)
    assert text.startswith(
        "HOLDS: the second moment is preserved: E[x_k²] = E[x_{k-1}²], within 5%"
    )
    assert "blocks 0-5 together" in text
    assert json.loads(json.dumps(result.as_dict()))["verdict"] == "holds"
    assert result.first_violation is None
    assert result.cause() == ""


def test_the_failure_names_the_first_block_and_its_cause() -> None:
    def build() -> nn.Module:
        net: Any = sigprop.networks.build("rescale", **SIZE)
        net.blocks[2].branch = nn.Sequential(net.blocks[2].branch, Scale(4.0))
        return net

    with pytest.raises(AssertionError) as error:
        sigprop.assert_preserved(build, X, seeds=6)
    message = str(error.value)
    assert "first broken by block 2 (blocks.2): the skip keeps 0.8" in message
    assert "where the law says 1" in message
    assert len(message.splitlines()) < 9


def test_a_correlated_branch_is_named_as_the_cause() -> None:
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * x

    def build() -> nn.Module:
        net: Any = sigprop.networks.build("rescale", **SIZE)
        net.blocks[1].branch = Double()
        return net

    cause = sigprop.verify(build, X, seeds=4).cause()
    assert cause.startswith("skip and branch are correlated (+1.000)")


def test_drift_that_hides_inside_the_tolerance_of_every_block_is_told() -> None:
    result = sigprop.verify(sabotaged(inflate_beta), X, seeds=16)
    blocks = result.table.query("block >= 0")
    assert (blocks["verdict"] == "holds").all()
    assert result.verdict == "violated"
    assert "together they change the signal" in result.cause()


def test_assert_preserved_passes_in_silence() -> None:
    sigprop.assert_preserved("rescale", X, options=SIZE)


def test_undecided_says_how_many_more_seeds() -> None:
    result = sigprop.verify("rescale", X, seeds=2, options={**SIZE, "depth": 20})
    assert result.undecided
    low, high = result.more_seeds
    assert 0 < low < high
    how_many = f"{low} to {high}" if high < MOST_DRAWS else f"at least {low}"
    assert result.headline().endswith(f"over 2 seeds; {how_many} more are needed")
    with pytest.raises(AssertionError, match="UNDECIDED"):
        sigprop.assert_preserved("rescale", X, seeds=2, options={**SIZE, "depth": 20})


# --- stages, batches, one model -----------------------------------------------------------------


def test_a_width_change_opens_a_stage_and_the_law_is_not_stated_across_it() -> None:
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    shape = {"architecture": "resnet", "depth": 6, "width": 8, "stages": 2, "inputs": (1, 8, 8)}
    table = sigprop.verify("rescale", images, seeds=4, tolerance=0.9, options=shape).table
    assert table.query("block == 3")["verdict"].item() == "transition"
    assert table.query("block >= 0")["stage"].tolist() == [0, 0, 0, 1, 1, 1]
    assert table.query("block < 0")["name"].tolist() == [
        "blocks 0-2 together",
        "blocks 4-5 together",
    ]


def test_nonfinite_activations_violate_and_name_the_block() -> None:
    def build() -> nn.Module:
        net: Any = sigprop.networks.build("rescale", bias=False, **SIZE)
        with torch.no_grad():
            net.blocks[3].branch.weight1.weight[0] = math.inf
        return net

    result = sigprop.verify(build, X, seeds=3)
    assert result.verdict == "violated"
    assert result.first_violation is not None
    assert result.first_violation["name"] == "blocks.3"
    assert result.cause() == (
        "block 3 (blocks.3) makes the signal not finite in 3 of 3 seeds: the second moment in "
        "front of it is finite, after it are NaN or infinite values"
    )


def test_a_plain_model_is_judged_over_batches() -> None:
    torch.manual_seed(0)
    net = sigprop.networks.build("rescale", **SIZE)
    result = sigprop.verify(net, X.repeat(4, 1), seeds=8)
    assert result.one_model
    assert "8 batches of one model" in result.headline()


def test_a_loader_gives_each_seed_a_batch() -> None:
    data: Any = [(torch.randn(16, 32), torch.zeros(16)) for _ in range(3)]
    result = sigprop.verify("rescale", DataLoader(data, batch_size=None), seeds=5, options=SIZE)
    inputs = result.records.signals.query("port == 'in' and block == 0 and direction == 'forward'")
    assert inputs["second_moment"].nunique() == 5


def test_any_torch_model_with_blocks() -> None:
    def build() -> nn.Module:
        linears = [nn.Linear(64, 64) for _ in range(4)]
        for linear in linears:
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers = [nn.Sequential(nn.ReLU(), linear) for linear in linears]
        return nn.Sequential(nn.Linear(32, 64), *layers)

    result = sigprop.verify(build, X, tolerance=0.3, seeds=24)
    assert result.holds, str(result)
    assert result.table["share"].isna().all()


def test_verdicts_do_not_depend_on_threads_or_on_the_base_of_the_seeds() -> None:
    threads = torch.get_num_threads()
    try:
        tables = []
        for count in (1, 2):
            torch.set_num_threads(count)
            tables.append(sigprop.verify("rescale", X, seeds=8, options=SIZE).table)
        pd.testing.assert_frame_equal(tables[0], tables[1], rtol=1e-4, atol=1e-6)
    finally:
        torch.set_num_threads(threads)
    assert verdict("rescale", seeds=range(100, 116)) == "holds"
    assert verdict("plain", seeds=range(100, 108)) == "violated"


def test_more_seeds_are_drawn_until_it_is_decided() -> None:
    """8 seeds are too few for a spread of .03 within 5 %, and the same seeds are counted on."""
    result = sigprop.verify("rescale", X, options=SIZE)
    assert result.holds
    assert result.seeds > 8
    assert sorted(result.records.signals["seed"].unique()) == list(range(result.seeds))
    plain = sigprop.verify("plain", X, options=SIZE)
    assert (plain.verdict, plain.seeds) == ("violated", 8)


# --- bad input ----------------------------------------------------------------------------------


def constant() -> nn.Module:
    net = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(2)))
    for p in net.parameters():
        nn.init.constant_(p, 0.1)
    return net


BAD = {
    "one seed": (
        ("rescale", X),
        {"seeds": 1},
        BadInput,
        "an interval needs at least 2 seeds, got 1",
    ),
    "a word for seeds": (
        ("rescale", X),
        {"seeds": "many"},
        BadInput,
        "seeds is a number, a list of numbers or 'auto', not 'many'",
    ),
    "few batches in a loader": (
        (
            sigprop.networks.build("rescale", **SIZE),
            DataLoader[Any](cast(Any, list(X)), batch_size=32),
        ),
        {"seeds": 4},
        BadInput,
        "a plain model needs 4 batches that differ, and the DataLoader has 2",
    ),
    "a seed twice": (("rescale", X), {"seeds": [1, 1]}, BadInput, "same seed is given twice"),
    "law": (("rescale", X, "preservd"), {}, UnknownName, "did you mean 'preserved'"),
    "law form": (("rescale", X, 2), {}, BadInput, "a law is a name or a callable"),
    "negative law": (("rescale", X, lambda b: -1.0), {}, BadInput, "a positive ratio"),
    "tolerance": (("rescale", X), {"tolerance": 5}, BadInput, "between 0 and 1, got 5"),
    "level": (("rescale", X), {"level": 95}, BadInput, "between 0 and 1, got 95"),
    "same weights": ((constant, X), {}, BadInput, "returned the same weights for every seed"),
    "no prediction": (
        (constant, X, "predicted"),
        {},
        BadInput,
        "theory has no recursion for a network that is not of the zoo; state the law as a callable",
    ),
    "few samples": (
        (sigprop.networks.build("rescale", **SIZE), X[:6]),
        {"seeds": 4},
        BadInput,
        "a plain model needs 4 batches of at least 2 samples",
    ),
}


@pytest.mark.parametrize(("given", "options", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input(
    given: tuple[Any, ...], options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    zoo = {"options": SIZE} if isinstance(given[0], str) else {}
    with pytest.raises(kind) as error:
        sigprop.verify(*given, **{"seeds": 3, **zoo, **options})
    assert message in str(error.value)


def test_theory_is_silent_where_it_has_nothing_to_say() -> None:
    with pytest.raises(BadInput, match="an activation behind the residual addition"):
        sigprop.verify(
            "rescale", X, "predicted", seeds=2, options={**SIZE, "order": "weight-norm-act"}
        )


# --- the statistics alone -----------------------------------------------------------------------


def test_the_interval_covers_the_log_of_the_mean() -> None:
    """4,000 sets of 16 draws; Student's t covers 95 %, with the wider upper half more.

    Within four standard errors, and 1 % for the skewness of a lognormal ratio.
    """
    rng = np.random.default_rng(0)
    draws = rng.lognormal(-0.02, 0.2, (4000, 16))  # E = exp(-0.02 + 0.02) = 1
    found = [log_mean_interval(d, 0.95) for d in draws]
    symmetric = [i.low <= 0 <= i.estimate + (i.high - i.estimate) / UPPER for i in found]
    error = math.sqrt(0.05 * 0.95 / 4000)
    assert np.mean(symmetric) == pytest.approx(0.95, abs=4 * error + 0.01)
    assert np.mean([i.low <= 0 <= i.high for i in found]) > 0.95


@pytest.mark.parametrize("count", [3, 8, 32])
def test_the_interval_covers_ratios_that_have_no_variance(count: int) -> None:
    """Blocks (x + W x)/√2 of 64 x 64 weights from Student's t with 3 degrees of freedom; E = 1.

    2,000 sets from a stock of 3,000 blocks; Student's t alone misses more often.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 16))
    weights = (rng.standard_t(3, (64, 64)) / math.sqrt(3 * 64) for _ in range(3000))
    stock = np.array([np.square(x + w @ x).mean() for w in weights]) / (2 * np.square(x).mean())
    found = [log_mean_interval(stock[rng.choice(3000, count)], 0.95) for _ in range(2000)]
    missed = np.mean([not i.low <= 0 <= i.high for i in found])
    alone = np.mean([not i.low <= 0 <= i.estimate + (i.high - i.estimate) / UPPER for i in found])
    assert missed < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 2000)
    assert alone > missed


def test_the_mean_of_logarithms_would_be_biased() -> None:
    """The saboteur: Jensen's half variance, 0.02 here, would pass for a violation."""
    rng = np.random.default_rng(1)
    draws = rng.lognormal(-0.02, 0.2, 100_000)
    assert log_mean_interval(draws, 0.99).estimate == pytest.approx(0, abs=4 * 0.2 / math.sqrt(1e5))
    assert np.log(draws).mean() < -0.015


def test_verdicts_by_hand() -> None:
    tight = log_mean_interval([1.0, 1.001, 0.999, 1.0], 0.95)
    assert judge(tight, 0.0, 0.05) == "holds"
    assert judge(tight, math.log(2), 0.05) == "violated"
    assert judge(log_mean_interval([0.5, 1.5], 0.95), 0.0, 0.05) == "undecided"


def test_every_law_is_documented_by_a_sentence() -> None:
    assert set(LAWS) == {
        "preserved",
        "preserved:channel_variance",
        "gradient-preserved",
        "jacobian-preserved",
        "doubling",
        "equal-shares",
        "equal-parameter-gradients",
        "predicted",
    }
    assert all(len(law.says) > 20 for law in LAWS.values())
