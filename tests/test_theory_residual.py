"""RescaleNet's algebra, the residual recursion's identities, and the families' closed forms."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import refusal
from scipy import special

from sigprop import theory
from sigprop.errors import BadInput, UnknownName
from sigprop.theory import FAMILIES, Block, Branch, Gradient, Kernel

# every family, with the options that make it interesting
CASES: dict[str, list[dict[str, Any]]] = {
    "plain": [{}, {"layers": 1, "first": "weight"}, {"activation": "tanh", "centering": "weights"}],
    "rescale": [
        {},
        {"c": 0.5},
        {"init": "centered_he"},
        {"init": "centered_preserving", "layers": 3},
        {"activation": "identity"},
        {"activation": "gelu", "init": "centered_preserving"},
    ],
    "batchnorm": [
        {"order": order}
        for order in ("norm-act-weight", "act-norm-weight", "act-weight-norm", "weight-norm-act")
    ],
    "layernorm": [{}, {"scale": 1e-5}, {"order": "weight-norm-act"}],
    "nf": [{}, {"alpha": 1.0, "activation": "silu"}, {"skip_gain": 0.0}],
    "fixup": [{}, {"layers": 3}, {"layers": 1}],
    "skipinit": [{}, {"gain": 0.3}],
    "rezero": [{}, {"gain": 0.1, "layers": 1}],
    "weightnorm": [{"power": p} for p in (0.0, 0.5, 1.0)],
    "unit_scaled": [{}, {"residual_mult": 2.0, "attn_ratio": 0.5, "layers": 1}],
    "mlp": [{}, {"centering": "batch"}, {"norm": "batchnorm"}, {"norm": "layernorm"}],
    "transformer": [{"tokens": 3}, {"tokens": 3, "post": True}],
    "deepnorm": [{"tokens": 3}],
    "t_fixup": [{"tokens": 3}],
}
EVERY = [(name, options) for name, many in CASES.items() for options in many]


def test_every_family_is_tested():
    assert set(CASES) == set(FAMILIES)


def test_the_public_page_names_what_exists():
    assert len(set(theory.__all__)) == len(theory.__all__)
    for name in theory.__all__:
        assert hasattr(theory, name)
    for name in FAMILIES:
        assert getattr(theory, name) is FAMILIES[name]


# ---- a contract over the registry


@pytest.mark.parametrize(("name", "options"), EVERY)
@pytest.mark.parametrize("samples", [32, math.inf])
def test_variance_and_mean_shift_add_up_to_the_second_moment(name, options, samples):
    start = Kernel(1.0, 0.2, samples=samples, positions=options.get("tokens", 1))
    made = theory.predict(name, 7, start=start, **options)
    assert made.second_moment == pytest.approx(made.channel_variance + made.mean_shift, rel=1e-12)
    inner = made.branch_channel_variance + made.branch_mean_shift
    assert made.branch_second_moment[1:] == pytest.approx(inner[1:], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_shapes_and_missing_values(name, options):
    made = theory.predict(name, 5, **options)
    for column, values in made.columns().items():
        assert values.shape == (6,), column
        assert values.dtype == np.float64, column
        missing = column.startswith("branch") or column in ("skip", "scale")
        assert np.isnan(values[0]) == missing, column
        assert np.all(np.isfinite(values[1:])), column
    assert made.block.tolist() == [0, 1, 2, 3, 4, 5]
    assert made.gradient_second_moment[-1] == 1


# those whose coefficients do not depend on the depth
BY_DEPTH = ("rescale", "weightnorm", "fixup", "unit_scaled", "deepnorm", "t_fixup")
PREFIXES = [pair for pair in EVERY if pair[0] not in BY_DEPTH]


@pytest.mark.parametrize(("name", "options"), PREFIXES)
def test_a_stack_is_the_beginning_of_a_deeper_one(name, options):
    shallow, deep = theory.predict(name, 4, **options), theory.predict(name, 9, **options)
    assert deep.second_moment[:5] == pytest.approx(shallow.second_moment)
    assert deep.mean_shift[:5] == pytest.approx(shallow.mean_shift)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"rescale"}))
def test_depth_zero_is_the_input(name):
    made = theory.predict(name, 0)
    assert made.second_moment.tolist() == [1.0]
    assert made.gradient_second_moment.tolist() == [1.0]


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_negative_depth_is_refused(name):
    least = 1 if name == "rescale" else 0
    with refusal(BadInput, f"depth must be a whole number of at least {least}; got -1"):
        theory.predict(name, -1)


def test_an_unknown_family_suggests():
    with pytest.raises(UnknownName) as caught:
        theory.predict("rescal", 3)
    assert str(caught.value) == "no family is called 'rescal'; did you mean 'rescale'?"


# ---- claim 1: the coefficients


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.floats(1e-3, 1e4))
def test_coefficient_algebra(depth, c):
    made = theory.coefficients(depth, c)
    found = theory.shares(made.alpha, made.beta)
    assert np.allclose(made.alpha**2 + made.beta**2, 1, rtol=0, atol=1e-12)
    assert made.alpha.prod() == pytest.approx(math.sqrt(c / (depth + c)), rel=1e-12)
    after = np.append(np.cumprod(made.alpha[::-1])[::-1][1:], 1)
    assert np.allclose(made.beta * after, 1 / math.sqrt(depth + c), rtol=1e-12)
    assert found.input == pytest.approx(c / (depth + c), rel=1e-12)
    assert found.blocks == pytest.approx(1 / (depth + c), rel=1e-12)
    assert found.input + found.blocks.sum() == pytest.approx(1, rel=1e-12)


def test_c_defaults_to_the_depth_and_the_input_keeps_half():
    made = theory.coefficients(17)
    assert theory.shares(made.alpha, made.beta).input == pytest.approx(0.5, rel=1e-13)
    assert made.beta[0] == 1 / math.sqrt(18)


def test_the_official_code_has_c_one_less_than_the_depth():
    depth = 16
    index = np.arange(depth - 1, 2 * depth - 1)  # block_idx starts at L - 1
    made = theory.coefficients(depth, depth - 1)
    assert made.alpha == pytest.approx(np.sqrt(index / (index + 1)))
    assert made.alpha.prod() == pytest.approx(math.sqrt((depth - 1) / (2 * depth - 1)))


def test_shares_of_any_residual_stack():
    found = theory.shares([1, 1, 1], [1, 1, 1])
    assert found.input == 1
    assert found.blocks.tolist() == [1, 1, 1]
    late = theory.shares([0.5, 0.5], [1, 1])
    assert late.input == 0.0625
    assert late.blocks.tolist() == [0.25, 1.0]


def test_saboteur_shares_notice_one_wrong_alpha():
    made = theory.coefficients(10)
    alpha = made.alpha.copy()
    alpha[4] = 1.0
    found = theory.shares(alpha, made.beta)
    assert found.input + found.blocks.sum() > 1.01
    assert found.blocks.std() > 1e-4
    assert theory.shares(made.alpha, made.beta).blocks.std() < 1e-15


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_the_multiplier_form_is_beta(layers):
    depth, c = 12, 7.5
    made = theory.depth_multiplier(depth, layers, c)
    k = np.arange(1, depth + 1)
    assert made == pytest.approx(((k + c) / depth) ** (-1 / (2 * layers)))
    assert made**layers / math.sqrt(depth) == pytest.approx(theory.coefficients(depth, c).beta)


def test_exponent_one_sixth_belongs_to_three_layers_only():
    depth = 12
    sixth = theory.depth_multiplier(depth, 3)
    beta = theory.coefficients(depth).beta
    assert sixth**3 / math.sqrt(depth) == pytest.approx(beta)
    assert not np.allclose(sixth**2 / math.sqrt(depth), beta, rtol=1e-3)
    assert theory.depth_exponents(3) == pytest.approx((-1 / 3, -1 / 6))
    assert theory.depth_exponents(1) == pytest.approx((0.0, 0.5))


@pytest.mark.parametrize("c", [0, -1.0, math.nan, math.inf])
def test_c_must_be_positive(c):
    wanted = "above 0" if math.isfinite(c) else "a finite number"
    with refusal(BadInput, f"c must be {wanted}; got {c!r}"):
        theory.coefficients(5, c)


@pytest.mark.parametrize("depth", [0, -3, 2.0, True, "5"])
def test_depth_must_be_a_whole_number(depth):
    with refusal(BadInput, f"depth must be a whole number of at least 1; got {depth!r}"):
        theory.coefficients(depth)


def test_numpy_integers_are_whole_numbers():
    assert theory.coefficients(cast(int, np.int64(3))).alpha.shape == (3,)


def test_shares_of_different_lengths():
    with refusal(
        BadInput, "alpha and beta must be vectors of one length; got shapes (2,) and (1,)"
    ):
        theory.shares([1, 1], [1])


# ---- the numbers of one-layer ReLU branches


def test_channel_variance_of_rescale_at_c_equal_depth_equal_20():
    made = theory.predict("rescale", 20, layers=1)
    assert made.second_moment == pytest.approx(1, rel=1e-13)
    assert made.channel_variance[-1] == pytest.approx(0.81377, abs=5e-6)


def test_slope_of_the_plain_nets_channel_variance():
    made = theory.predict("plain", 20, layers=1)
    slope = math.log2(made.channel_variance[-1]) / 20
    assert slope == pytest.approx(0.85942, abs=5e-6)
    assert math.log2(made.second_moment[-1]) / 20 == pytest.approx(1)
    assert slope == pytest.approx(1 + math.log2(1 - made.correlation[-1]) / 20)


def test_the_correlation_recursion_is_facts_formula():
    made, depth = theory.coefficients(20), 20
    c = 0.0
    found = theory.predict("rescale", depth, layers=1).correlation
    for k, (a, b) in enumerate(zip(made.alpha, made.beta, strict=True), start=1):
        kappa = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
        c = a * a * c + b * b * kappa
        assert found[k] == pytest.approx(c, rel=1e-12)


def test_two_layer_branches_apply_kappa_twice():
    found = theory.predict("plain", 1, layers=2, start=Kernel(1.0, 0.3))
    kappa = theory.correlation_map
    assert found.branch_mean_shift[1] == pytest.approx(kappa("relu", kappa("relu", 0.3)))


def test_linear_branches_keep_the_channel_variance():
    made = theory.predict("rescale", 20, activation="identity", start=Kernel(samples=64))
    assert made.second_moment == pytest.approx(1, rel=1e-12)
    assert made.channel_variance == pytest.approx(1 - 1 / 64, rel=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_centered_he_branches_have_a_closed_form(layers):
    depth, c = 15, 6.0
    lost = 1 - (1 - 1 / math.pi) ** layers
    k = np.arange(depth + 1)
    expected = np.exp(  # prod (j + c - lost) / (j + c)
        special.gammaln(k + c + 1 - lost)
        - special.gammaln(c + 1 - lost)
        - special.gammaln(k + c + 1)
        + special.gammaln(c + 1)
    )
    made = theory.predict("rescale", depth, c=c, init="centered_he", layers=layers)
    assert made.second_moment == pytest.approx(expected, rel=1e-10)
    assert made.channel_variance == pytest.approx(expected, rel=1e-10)
    ratio = made.branch_second_moment[1:] / made.second_moment[:-1]
    assert ratio == pytest.approx((1 - 1 / math.pi) ** layers)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "identity"])
def test_the_preserving_gain_keeps_both_variances(activation):
    made = theory.predict("rescale", 12, init="centered_preserving", activation=activation)
    assert made.second_moment == pytest.approx(1, rel=1e-9)
    assert made.channel_variance == pytest.approx(1, rel=1e-9)


def test_what_the_preserving_gain_costs_backwards():
    depth, layers = 10, 2
    chi = math.pi / (math.pi - 1)
    made = theory.predict("rescale", depth, init="centered_preserving", layers=layers)
    coefficients = theory.coefficients(depth)
    factors = coefficients.alpha**2 + coefficients.beta**2 * chi**layers
    assert made.gradient_second_moment[0] == pytest.approx(factors.prod())
    kept = theory.predict("rescale", depth, init="centered_he", layers=layers)
    assert kept.gradient_second_moment == pytest.approx(1)


def test_relu_centering_formula_at_any_correlation():
    c, g2 = 0.35, 2.0
    branch = theory.weight_branch(1, centering="batch")
    out = branch.forward(Kernel(3.0, 3.0 * c))[-1]
    kappa = theory.correlation_map("relu", c)
    assert out.second_moment == pytest.approx(g2 * 3.0 * (1 - kappa) / 2)
    assert out.mean_shift == 0


# ---- the other families' closed forms


def test_batchnorm_growth_matches_the_recursion():
    for order in ("norm-act-weight", "act-norm-weight", "act-weight-norm"):
        for activation in ("relu", "gelu"):
            made = theory.predict("batchnorm", 30, order=order, activation=activation)
            law = theory.batchnorm_growth(30, order, activation)
            if order == "norm-act-weight" or activation == "relu":
                assert made.channel_variance == pytest.approx(law.channel_variance)
            assert made.second_moment == pytest.approx(law.second_moment)


def test_batchnorm_numbers():
    made = theory.predict("batchnorm", 30)
    assert made.second_moment[[10, 20, 30]] == pytest.approx([11, 21, 31])
    assert made.channel_variance == pytest.approx(1 + (1 - 1 / math.pi) * np.arange(31))
    assert made.branch_channel_variance[1:] == pytest.approx(0.68169, abs=5e-6)


def test_batchnorm_gradient_of_a_resnet_is_a_power_law():
    made = theory.predict("batchnorm", 40)
    variance = made.channel_variance
    ratio = made.gradient_second_moment[:-1] / made.gradient_second_moment[1:]
    assert ratio == pytest.approx(1 + 1 / variance[:-1])


def test_pre_layernorm_grows_by_one():
    made = theory.predict("layernorm", 32)
    assert made.second_moment == pytest.approx(np.arange(33) + 1)


def test_layernorm_of_rectified_values_takes_their_mean_away():
    out = Branch(("act", "layernorm", "weight"), "relu", 1.0).forward(Kernel())[-1]
    assert out.second_moment == pytest.approx(1)
    assert out.covariance == pytest.approx(0, abs=1e-15)  # E relu(u) relu(v) = (E relu)^2 at c = 0


def test_nf_growth_and_resets():
    made = theory.predict("nf", (3, 4, 6, 3))
    law = np.concatenate([[1.0], *theory.nf_growth((3, 4, 6, 3))])
    assert made.second_moment == pytest.approx(law)
    assert made.second_moment[1:4] == pytest.approx([1.04, 1.08, 1.12])
    assert made.channel_variance == pytest.approx(law)
    assert made.branch_channel_variance[1:] == pytest.approx(1)
    assert made.mean_shift == pytest.approx(0, abs=1e-14)


def test_nf_without_transitions_and_with_skipinit():
    assert theory.predict("nf", 5, alpha=1.0).second_moment == pytest.approx(np.arange(6) + 1)
    flat = theory.predict("nf", (2, 2), skip_gain=0.0).second_moment
    # beta of the next transition assumes growth that is not there
    assert flat == pytest.approx([1, 1, 1, 1 / 1.08, 1 / 1.08])


def test_standardized_weights_remove_what_he_weights_carry():
    he = theory.predict("nf", 8, activation="relu")
    plain = theory.predict("plain", 8, layers=1, gain="he")
    assert he.mean_shift[-1] == pytest.approx(0, abs=1e-14)
    assert plain.mean_shift[-1] > 0.3


def test_standardized_correlation_map():
    branch = Branch(("act", "standardized"), "relu", theory.gamma("relu") ** 2)
    kappa = theory.correlation_map("relu", 0.5)
    expected = (kappa - 1 / math.pi) / (1 - 1 / math.pi)
    assert branch.forward(Kernel(1.0, 0.5))[-1].correlation == pytest.approx(expected)


@pytest.mark.parametrize("name", ["fixup", "skipinit", "rezero"])
def test_identity_at_initialization(name):
    made = theory.predict(name, 9, start=Kernel(2.0, 0.5, samples=10))
    for column in (made.second_moment, made.channel_variance, made.mean_shift):
        assert column == pytest.approx(column[0])
    assert made.gradient_second_moment.tolist() == [1.0] * 10


def test_fixup_branch_is_zero_while_skipinits_is_not():
    assert theory.predict("fixup", 3).branch_second_moment[1:].tolist() == [0, 0, 0]
    assert theory.predict("skipinit", 3).branch_second_moment[1:] == pytest.approx(1)
    assert theory.predict("skipinit", 3).scale[1:].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("layers", "expected"), [(2, 16**-0.5), (3, 16**-0.25), (4, 16 ** (-1 / 6))]
)
def test_fixup_scale(layers, expected):
    scale = theory.fixup_scale(16, layers)
    assert scale == pytest.approx(expected)
    assert scale ** (2 * (layers - 1)) == pytest.approx(1 / 16)  # the branch's variance is 1/L


@pytest.mark.parametrize("blocks", [10, 40, 100])
def test_scaled_weight_norm_growth(blocks):
    for power, law in ((1.0, 1 + blocks**-2), (0.5, 1 + 1 / blocks), (0.0, 2)):
        made = theory.predict("weightnorm", blocks, power=power)
        assert made.second_moment[-1] == pytest.approx(float(law) ** blocks)
        assert made.gradient_second_moment[0] == pytest.approx(float(law) ** blocks)
        assert theory.stack_growth(blocks, power) == pytest.approx(float(law) ** blocks)


def test_scaled_weight_norm_numbers():
    full = [round(theory.stack_growth(b, 1), 3) for b in (10, 40, 100)]
    root = [round(theory.stack_growth(b, 0.5), 3) for b in (10, 40, 100)]
    assert full == [1.105, 1.025, 1.010]
    assert root == [2.594, 2.685, 2.705]


def test_centered_mlp():
    made = theory.predict("mlp", 9, centering="batch")
    assert made.second_moment[-1] == pytest.approx((1 - 1 / math.pi) ** 9)
    assert made.second_moment[-1] == pytest.approx(0.0318, abs=5e-5)  # (1 - 1/pi)^9
    kept = theory.predict("mlp", 9, centering="batch", gain="preserving")
    assert kept.second_moment == pytest.approx(1)


# ---- kernels and branches


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 100), st.floats(-0.03, 1), st.integers(2, 30))
def test_a_kernel_is_the_average_over_an_explicit_covariance(q, c, samples):
    """Batch statistics are quadratic forms of K = q((1-c) I + c 11'): evaluate them as such."""
    matrix = q * ((1 - c) * np.eye(samples) + c * np.ones((samples, samples)))
    ones = np.ones(samples) / samples
    kernel = Kernel(q, c * q, samples=samples)
    project = np.eye(samples) - np.ones((samples, samples)) / samples
    assert kernel.mean_shift == pytest.approx(ones @ matrix @ ones, rel=1e-9, abs=1e-12)
    centered = project @ matrix @ project
    assert kernel.channel_variance == pytest.approx(
        np.trace(centered) / samples, rel=1e-9, abs=1e-9
    )
    found = kernel.centered()
    assert found.second_moment == pytest.approx(centered[0, 0], rel=1e-9, abs=1e-9)
    assert found.covariance == pytest.approx(centered[0, 1], rel=1e-9, abs=1e-9)
    assert found.mean_shift == pytest.approx(0, abs=1e-12 * q)


def test_centering_twice_is_centering_once():
    once = Kernel(2.0, 0.5, samples=7).centered()
    twice = once.centered()
    assert twice.second_moment == pytest.approx(once.second_moment)
    assert twice.covariance == pytest.approx(once.covariance)


def test_a_branch_does_not_care_how_the_trunk_is_scaled():
    branch = theory.weight_branch(3)
    small, large = branch.forward(Kernel(0.5, 0.1))[-1], branch.forward(Kernel(50.0, 10.0))[-1]
    assert large.second_moment == pytest.approx(100 * small.second_moment)
    assert large.correlation == pytest.approx(small.correlation)


def test_gradients_through_a_chain():
    branch = Branch(("act", "weight", "scale"), "relu", 2.0, 3.0)
    states = branch.forward(Kernel(1.0, 0.0))
    back = branch.backward(states, Gradient(1.0, 1.0))
    assert back.second_moment == pytest.approx(9 * 2 * 0.5)
    assert back.covariance == pytest.approx(9 * 2 * 0.25)  # slopes of independent units


def test_a_shared_gradient_is_removed_by_batchnorm():
    branch = Branch(("weight", "batchnorm"), gain_squared=1.0)
    states = branch.forward(Kernel())
    assert branch.backward(states, Gradient(1.0, 1.0)).second_moment == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Branch(()), "a branch needs at least one operation; got none"),
        (lambda: Branch(("weight",), gain_squared=0.0), "gain_squared must be above 0; got 0.0"),
        (
            lambda: Branch(("act", "act")).forward(Kernel()),
            "an activation needs Gaussian input of mean 0: put a weight layer before it",
        ),
        (
            lambda: Branch(("batchnorm",)).forward(Kernel(1.0, 1.0)),
            "batchnorm needs a variance above 0; got 0.0",
        ),
        (
            lambda: Kernel(1.0, 0.0, samples=1).centered(),
            "centering a batch needs at least 2 samples; got 1",
        ),
        (lambda: Kernel(-1.0), "second_moment must not be below 0; got -1.0"),
        (lambda: Kernel(1.0, 2.0), "covariance must lie within ±second_moment = 1; got 2.0"),
        (lambda: Kernel(samples=0), "samples must be at least 1 (or infinite); got 0"),
        (
            lambda: theory.weight_branch(0),
            "layers must be a whole number of at least 1; got 0",
        ),
        (lambda: theory.weight_branch(gain=-1.0), "gain must be above 0; got -1.0"),
        (lambda: theory.predict("nf", 3, alpha=-0.1), "alpha must not be below 0; got -0.1"),
        (
            lambda: Block(Branch(("weight",)), skip=math.nan),
            "skip must be a finite number; got nan",
        ),
    ],
)
def test_bad_input_says_what_was_asked(call, message):
    with pytest.raises(BadInput) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Branch(("weigth",)), "no operation is called 'weigth'; did you mean 'weight'?"),
        (
            lambda: theory.weight_branch(centering="bath"),
            "no centering is called 'bath'; did you mean 'batch'?",
        ),
        (
            lambda: theory.predict("rescale", 3, init="xavier"),
            "no initialization is called 'xavier'; known: centered_he, centered_preserving, he",
        ),
        (
            lambda: theory.gain_squared("relu", "hee"),
            "no gain is called 'hee'; did you mean 'he'?",
        ),
    ],
)
def test_unknown_words_suggest(call, message):
    with pytest.raises(UnknownName) as caught:
        call()
    assert str(caught.value) == message


def test_theory_imports_neither_torch_nor_the_upper_layers():
    # the package's own __init__ is left out: it may import torch, theory may not
    root = Path(theory.__file__).parents[1]
    code = (
        "import sys, types; package = types.ModuleType('sigprop');"
        f"package.__path__ = [{str(root)!r}]; sys.modules['sigprop'] = package;"
        "import sigprop.theory; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "sigprop.theory.families" in loaded
    ours = {name for name in loaded if name.startswith("sigprop.")}
    allowed = ("sigprop.theory", "sigprop.errors", "sigprop.registry")
    assert all(name.startswith(allowed) for name in ours)
    assert not {"torch", "pandas", "matplotlib"} & set(loaded)


def test_shares_of_matrices_are_refused():
    message = "alpha and beta must be vectors of one length; got shapes (2, 2) and (2, 2)"
    with refusal(BadInput, message):
        theory.shares(np.ones((2, 2)), np.ones((2, 2)))


def test_a_kernel_of_zeros_has_no_correlation():
    assert Kernel(0.0).correlation == 0.0


def test_a_scaled_kernel_keeps_the_sign_of_its_mean():
    made = Kernel(2.0, 0.5, mean=0.5).scaled(-3.0)
    assert (made.second_moment, made.covariance, made.mean) == (18.0, 4.5, -1.5)


def test_layer_normalization_divides_by_the_variance_over_features():
    # behind a ReLU: q = 1/2, m^2 = 1/2 pi, p = kappa(c)/2, and the gradient is divided by q - m^2
    start, c = Kernel(1.0, 0.5), 0.5
    branch = Branch(("act", "layernorm"), "relu", 1.0)
    states = branch.forward(start)
    kappa = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
    common, spread = 1 / (2 * math.pi), 0.5 - 1 / (2 * math.pi)
    assert states[-1].second_moment == 1.0
    assert states[-1].covariance == pytest.approx((kappa / 2 - common) / spread, rel=1e-12)
    back = branch.backward(states, Gradient(1.0))
    assert back.second_moment == pytest.approx(0.5 / spread, rel=1e-12)


def test_gradients_are_relative_to_that_of_the_last_block():
    made = theory.recursion([Block(theory.weight_branch())] * 2, gradient=Gradient(4.0, 1.0))
    assert made.gradient_second_moment.tolist() == pytest.approx([4.0, 2.0, 1.0])
