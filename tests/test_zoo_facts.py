"""The laws of the source papers, measured on the zoo's own networks and layers in float64."""

import math
from typing import Any

import pytest
import torch
from messages import refusal
from torch import nn
from zoo import channel_variance, gaussian, made, mean_shift, per_channel, second, trunk

import sigprop
from sigprop import networks, theory
from sigprop.inputs.datasets import resolve
from sigprop.networks import (
    Affine,
    Multiplier,
    Standardized,
    build,
    centered_gain,
    deepnorm_constants,
    expected_stds,
    he_gain,
    mup_groups,
    official_gamma,
    unit_scaled_taus,
)
from sigprop.networks.gains import OFFICIAL_GAMMAS, jacobian_gain
from sigprop.networks.norms import batch_norm, group_norm, layer_norm
from sigprop.networks.weights import initialize, orthogonal, standardize, unit_rows, xavier

LOST = 1 - 1 / math.pi


def gradients(net, inputs):
    """Return E[(dL/dx_k)^2], k = 0..L, for an independent normal gradient at x_L."""
    x = net.stem(inputs)
    trunk = [x]
    for block in net.blocks:
        trunk.append(block(trunk[-1]))
    found = torch.autograd.grad(trunk[-1], trunk, gaussian(9, *trunk[-1].shape))
    return [second(g) for g in found]


# --- row 9: batch normalization and its weight --------------------------------------------------


@pytest.mark.parametrize("c", [1e-3, 0.1, 7.0, 1e3])
def test_batch_norm_does_not_see_the_scale_of_its_weight(c):
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(3, 5, 3, bias=False).double(), batch_norm(5, 2).double()
    norm.eps = 1e-30  # type: ignore[assignment]  # torch refuses 0
    x, target = gaussian(0, 8, 3, 6, 6), gaussian(1, 8, 5, 4, 4)

    def out_and_gradient(scale):
        weight = (scale * layer.weight.detach()).requires_grad_()
        out = norm(nn.functional.conv2d(x, weight))
        (out * target).sum().backward()
        return out.detach(), weight, weight.grad

    out, weight, grad = out_and_gradient(1.0)
    scaled_out, _, scaled_grad = out_and_gradient(c)
    assert torch.allclose(out, scaled_out, rtol=1e-12, atol=1e-12)
    assert torch.allclose(grad, c * scaled_grad, rtol=1e-11, atol=1e-12)
    assert (weight * grad).flatten(1).sum(1).abs().max() < 1e-11


def test_the_zoo_leaves_out_the_biases_that_a_norm_cancels():
    def biased(name, **options):
        options = {"architecture": "resnet", "depth": 2, "width": 8, **options}
        net: Any = build(name, **options)
        blocks = net.blocks
        return {m.bias is not None for m in blocks.modules() if isinstance(m, nn.Conv2d)}

    assert biased("batchnorm") == {False}
    assert biased("groupnorm", per_group=1) == {False}  # instance normalization
    assert biased("groupnorm") == {True}
    assert biased("layernorm") == {True}


@pytest.mark.parametrize(
    ("norm", "cancels"),
    [(batch_norm, True), (group_norm(1), True), (group_norm(2), False), (layer_norm, False)],
    ids=["batch", "instance", "group", "layer"],
)
def test_a_bias_per_channel_is_cancelled_by_statistics_per_channel_only(norm, cancels):
    layer = norm(6, 2).double()
    layer.eps = 1e-30
    x, bias = gaussian(0, 4, 6, 5, 5), gaussian(1, 6, 1, 1)
    same = torch.allclose(layer(x), layer(x + bias), rtol=1e-10, atol=1e-10)
    assert same is cancels


# --- rows 10 and 11: weight normalization -------------------------------------------------------


def test_a_gradient_step_makes_directions_longer_by_pythagoras():
    net = made("weightnorm", depth=2, width=16, inputs=16)
    net(gaussian(0, 64, 16))
    directions = [p for n, p in net.named_parameters() if n.endswith("original")]
    before = [v.detach().clone() for v in directions]
    nn.functional.cross_entropy(net(gaussian(1, 64, 16)), torch.arange(64) % 10).backward()
    torch.optim.SGD(directions, lr=0.5).step()
    for v, old in zip(directions, before, strict=True):
        c = (v - old).norm(dim=1) / old.norm(dim=1)
        assert torch.allclose(v.norm(dim=1), (1 + c**2).sqrt() * old.norm(dim=1), rtol=1e-12)
        assert (v.grad * old).sum(1).abs().max() < 1e-12 * v.grad.abs().max() + 1e-15


@pytest.mark.parametrize("architecture", ["mlp", "resnet"])
@pytest.mark.parametrize("skip", [True, False])
def test_after_the_first_batch_every_preactivation_is_standardized(architecture, skip):
    options = {"architecture": architecture, "skip": skip, "width": 12, "depth": 4}
    net = made("weightnorm", **options)
    seen = []
    for module in net.modules():
        if isinstance(module, Affine):
            module.register_forward_hook(lambda m, args, out: seen.append(per_channel(out)))
    net(gaussian(0, 32, 1, 8, 8))
    assert len(seen) == 1 + 4 * 2
    for out in seen:
        assert out.mean(1).abs().max() < 1e-10
        assert (out.std(1, correction=0) - 1).abs().max() < 1e-10


def test_the_formula_of_the_slides_does_not_standardize():
    torch.manual_seed(0)
    layer = nn.Linear(30, 20, bias=False).double()
    response = layer(gaussian(0, 4096, 30))
    length, spread = layer.weight.norm(dim=1), response.std(0, correction=0)
    right, slide = length / spread, (length / spread**2).sqrt()
    assert torch.allclose(right * spread / length, torch.ones(20).double())
    assert torch.allclose(slide * spread / length, length**-0.5)
    assert (length**-0.5 - 1).abs().min() > 0.15


def test_mean_only_batch_norm_takes_the_mean_and_keeps_the_spread():
    layer = networks.MeanOnlyBatchNorm(3, dims=2).double()
    x = 4 * gaussian(0, 16, 3, 4, 4) + 5
    out = layer(x)
    assert per_channel(out).mean(1).abs().max() < 1e-12
    assert torch.allclose(per_channel(out).std(1), per_channel(x).std(1))
    assert torch.allclose(layer.running_mean, 0.1 * per_channel(x).mean(1).view(3, 1, 1))
    assert torch.allclose(layer.eval()(x), x - layer.running_mean)
    kinds = {type(m).__name__ for m in build("weightnorm", depth=1, mean_only=True).modules()}
    assert "MeanOnlyBatchNorm" in kinds


# --- rows 12 and 13: scaled weight normalization ------------------------------------------------


def norms_kept(scaled, seeds, width=128, depth=20):
    """Return the mean ratio of squared norms over a ReLU network without skips."""
    ratios = []
    for seed in range(seeds):
        options = {"skip": False, "branch_layers": 1, "depth": depth, "scaled": scaled}
        net = made("scaled-weightnorm", seed, width=width, inputs=width, **options)
        seen = trunk(net, gaussian(seed, 64, width))
        ratios.append(seen[-1] / seen[0])
    return sum(ratios) / seeds


def test_scaled_weight_norm_keeps_the_squared_norm_and_unscaled_halves_it():
    # at n = 128, L = 20 one network's ratio has a standard deviation of about 0.3: 4 errors of 24
    assert norms_kept(True, seeds=24) == pytest.approx(1, abs=0.25)
    assert norms_kept(False, seeds=24) == pytest.approx(0.5**20, rel=0.25)


def test_rows_have_the_norm_of_the_paper_for_any_shape():
    torch.manual_seed(0)
    net: Any = build("scaled-weightnorm", architecture="resnet", depth=2, stages=2, width=8)
    block = net.blocks[1].branch
    for weight, affine in ((block.weight1, block.after1), (block.weight2, block.after2)):
        norms = affine.gain.flatten() * weight.weight.flatten(1).norm(dim=1)
        expected = math.sqrt(2 * weight.in_channels / weight.out_channels)
        assert torch.allclose(norms, torch.full_like(norms, expected), rtol=1e-5)


@pytest.mark.parametrize("blocks", [10, 40])
@pytest.mark.parametrize(
    ("power", "growth"),
    [(1.0, lambda b: (1 + 1 / b**2) ** b), (0.5, lambda b: (1 + 1 / b) ** b)],
    ids=["1/B", "1/sqrt(B)"],
)
def test_a_scaled_weight_norm_resnet_grows_as_derived(blocks, power, growth):
    forward, backward = [], []
    for seed in range(3):
        net = made("scaled-weightnorm", seed, depth=blocks, power=power, width=200, inputs=200)
        inputs = gaussian(seed, 128, 200)
        seen, back = trunk(net, inputs), gradients(net, inputs)
        forward.append(seen[-1] / seen[0])
        backward.append(back[0] / back[-1])
    for found in (forward, backward):
        assert sum(found) / 3 == pytest.approx(growth(blocks), rel=0.04)


# --- row 14: batch normalization makes gradients explode without skips --------------------------


def test_batch_norm_multiplies_squared_gradients_by_pi_over_pi_minus_one_per_layer():
    # 1.462 ± 0.004 at B = n = 512; the ends are transient, so layers 5 to 15 of 20
    rates = []
    for seed in range(2):
        torch.manual_seed(seed)
        net = build("batchnorm", skip=False, branch_layers=1, width=512, inputs=512).double()
        back = gradients(net, gaussian(seed, 512, 512))
        rates.append((back[5] / back[15]) ** (1 / 10))
    assert sum(rates) / 2 == pytest.approx(math.pi / (math.pi - 1), abs=0.03)


# --- rows 16 to 19: normalizer-free networks ----------------------------------------------------


@pytest.mark.parametrize("activation", networks.activations.ACTIVATIONS)
def test_gammas_and_gains_are_those_of_theory(activation):
    # two implementations: Simpson's rule on the torch module, adaptive quadrature on numpy
    assert centered_gain(activation) == pytest.approx(theory.gamma(activation), rel=1e-7)
    assert he_gain(activation) == pytest.approx(theory.gain(activation), rel=1e-7)
    factor = theory.slope_second_moment(activation) / theory.variance(activation)
    assert jacobian_gain(activation) == pytest.approx(factor**-0.5, rel=1e-6)


@pytest.mark.parametrize("activation", OFFICIAL_GAMMAS)
def test_the_official_gammas_are_monte_carlo_values_within_a_thousandth(activation):
    assert official_gamma(activation) == pytest.approx(centered_gain(activation), rel=1e-3)
    if activation != "identity":
        assert official_gamma(activation) != pytest.approx(centered_gain(activation), rel=1e-5)


def test_an_official_gamma_that_does_not_exist():
    with refusal(
        sigprop.BadInput,
        (
            "no official gamma is known for 'mish'; known: celu, elu, gelu,"
            " identity, leaky_relu, logsigmoid, relu, selu, sigmoid, silu, "
            "softplus, tanh"
        ),
    ):
        official_gamma("mish")


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_variance_grows_by_alpha_squared_and_starts_again_at_a_transition(alpha):
    options = {"architecture": "resnet", "depth": 7, "stages": 2, "padding": "circular"}
    seen = []
    for seed in range(4):
        # 16 channels: the stem of an image of one has 9 taps, and what it gives few directions
        net = made("nf-resnet", seed, width=64, alpha=alpha, inputs=(16, 8, 8), **options)
        seen.append(trunk(net, gaussian(seed, 12, 16, 8, 8), of=channel_variance)[1:])
    stage = [1 + k * alpha**2 for k in range(1, 5)]
    # 4 % for one network of C = 64
    assert torch.tensor(seen).mean(0).tolist() == pytest.approx([*stage, *stage[:3]], rel=0.04)


def test_wide_dense_ones_agree_to_a_percent():
    for seed in range(2):
        net = made("nf-resnet", seed, depth=6, width=512, inputs=512)
        seen = trunk(net, gaussian(seed, 1024, 512), of=channel_variance)
        assert seen[1:] == pytest.approx([1 + 0.04 * k for k in range(1, 7)], rel=0.02)


def test_with_the_official_gain_of_zero_the_variance_falls_behind_what_beta_assumes():
    # within a stage nothing is added; a transition divides variance 1 by the d blocks' 1 + d alpha²
    options = {"architecture": "resnet", "stages": 2, "width": 64, "padding": "circular"}
    net = made("nf-resnet", depth=10, alpha=0.5, skip_gain=0.0, **options)
    seen = trunk(net, gaussian(0, 24, 1, 8, 8), of=channel_variance)[1:]
    assert seen[:5] == pytest.approx([1.0] * 5, rel=0.04)
    assert seen[5:] == pytest.approx([1 / (1 + 5 * 0.25)] * 5, rel=0.05)


def test_expected_stds_are_those_of_the_recursion():
    assert [s**2 for s in expected_stds([True, False, False, True, False], 0.2)] == pytest.approx(
        [1, 1.04, 1.08, 1.12, 1.04]
    )


def test_activation_then_scale_is_another_function_for_silu_and_the_same_for_relu():
    def out(activation, act_first):
        net = made("nf-resnet", depth=3, width=16, activation=activation, act_first=act_first)
        return net(gaussian(0, 8, 1, 8, 8))

    assert torch.allclose(out("relu", True), out("relu", False))
    assert not torch.allclose(out("silu", True), out("silu", False), rtol=1e-3)


def test_standardized_weights_have_no_mean_shift_and_he_weights_do():
    def shift(name):
        options = {"architecture": "resnet", "padding": "circular"}
        net = made(name, depth=16, width=32, **options)
        return max(trunk(net, gaussian(0, 8, 1, 8, 8), of=mean_shift)[4:])

    assert shift("nf-resnet") < 0.02  # 0.01 at 16 blocks of more channels
    assert shift("plain") > 0.3


@pytest.mark.parametrize(
    "layer", [nn.Linear(40, 7), nn.Conv2d(8, 6, 3), nn.Conv2d(8, 6, 3, groups=2)]
)
def test_standardized_rows_have_mean_0_and_sum_of_squares_1(layer):
    layer.double()
    standardize(layer)
    rows = layer.weight.flatten(1)
    assert rows.mean(1).abs().max() < 1e-15
    assert torch.allclose(rows.square().sum(1), torch.ones(len(rows)).double(), atol=1e-12)
    standardized = layer.parametrizations.weight[0]
    assert standardized.gain.shape == (len(rows), *[1] * (layer.weight.dim() - 1))


def test_the_floor_under_a_constant_row_keeps_it_finite():
    form = Standardized(1, 2)
    assert torch.equal(form(torch.ones(1, 4)), torch.zeros(1, 4))


def test_stochastic_depth_drops_whole_samples_more_with_depth_and_rescales_nothing():
    net = build("nfnet", depth=4, width=8, stochastic_depth=0.8)
    rates = [m.rate for m in net.modules() if isinstance(m, networks.StochasticDepth)]
    assert rates == pytest.approx([0.2, 0.4, 0.6])  # none at the first block
    torch.manual_seed(0)
    layer, x = networks.StochasticDepth(0.3), torch.ones(4000, 2, 3, 3)
    kept = layer(x)
    alive = kept.flatten(1).amax(1)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(alive, kept.flatten(1).amin(1))
    assert alive.mean().item() == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / 4000))
    assert networks.StochasticDepth(0.5, rescale=True)(x).unique().tolist() == [0.0, 2.0]
    assert torch.equal(layer.eval()(x), x)


def test_squeeze_excite_is_open_at_zero():
    gate = networks.SqueezeExcite(6)
    nn.init.zeros_(gate.excite.weight)
    nn.init.zeros_(gate.excite.bias)
    x = torch.randn(2, 6, 3, 3)
    assert torch.allclose(gate(x), x)


# --- normalization propagation ------------------------------------------------------------------


def test_normprop_has_the_constants_of_the_paper():
    net: Any = build("normprop", depth=2, width=8)
    constants = net.blocks[0].after[1]
    assert constants.mean == pytest.approx(0.398942, abs=1e-6)
    assert constants.std == pytest.approx(0.583819, abs=1e-6)
    gain = net.blocks[0].branch.after1.gain
    assert 1 / gain[0].item() == pytest.approx(1.211174, abs=1e-6)
    assert jacobian_gain("relu") == pytest.approx(math.sqrt(LOST), rel=1e-12)


def test_without_the_jacobian_factor_normprop_keeps_mean_0_and_variance_1():
    # the constants hold for N(0, 1) pre-activations: 3 % for rows that share the inputs' samples
    net = made("normprop", depth=4, width=512, inputs=512, jacobian=False)
    x = gaussian(0, 512, 512)
    shifts, spreads = trunk(net, x, of=mean_shift), trunk(net, x, of=channel_variance)
    assert max(shifts) < 0.03
    assert spreads == pytest.approx([1] * 5, abs=0.05)


def test_with_it_the_jacobian_is_one_in_the_mean():
    net = made("normprop", depth=4, width=512, inputs=512)
    back = gradients(net, gaussian(0, 256, 512))
    assert (back[0] / back[-1]) ** (1 / 4) == pytest.approx(1, abs=0.05)


# --- rows 25 and 26: what starts as the identity ------------------------------------------------


def zero_gradients(net, head=False):
    if head:
        nn.init.normal_(net.head.weight.weight)
    logits = net(gaussian(0, 32, 64))
    loss = nn.functional.cross_entropy(logits, torch.arange(32) % 10)
    loss.backward()
    still = {n for n, p in net.named_parameters() if not p.grad.any()}
    return loss.item(), still, {n for n, _ in net.named_parameters()}


def test_fixup_starts_at_the_logarithm_of_the_classes_and_moves_its_head_only():
    net = made("fixup", depth=6, width=16, inputs=64)
    loss, still, every = zero_gradients(net)
    assert loss == pytest.approx(math.log(10), rel=1e-15)
    assert every - still == {"head.weight.weight", "head.weight.bias"}


def test_with_a_head_the_first_weights_of_fixup_still_have_no_gradient():
    net = made("fixup", depth=6, width=16, inputs=64)
    _, still, every = zero_gradients(net, head=True)
    first = {n for n in every if "weight1" in n}
    assert len(first) == 6
    assert first <= still
    assert not any("weight2" in n for n in still)


def test_fixup_scales_all_but_its_last_weight_by_the_depth():
    for layers in (2, 3):
        net = made("fixup", depth=16, width=256, inputs=64, branch_layers=layers)
        branch = net.blocks[3].branch
        squared = branch.weight1.weight.square().mean().item() * 256
        expected = 2 * 16 ** (-2 / (2 * layers - 2))
        assert squared == pytest.approx(expected, rel=4 * math.sqrt(2 / 256**2))
        assert not getattr(branch, f"weight{layers}").weight.any()


@pytest.mark.parametrize("name", ["skipinit", "rezero"])
def test_gains_at_zero_move_alone(name):
    net = made(name, depth=6, width=16, inputs=64)
    _, still, every = zero_gradients(net)
    branches = {n for n in every if ".branch." in n}
    gains = {n for n in branches if n.endswith("multiplier.m")}
    assert len(gains) == 6
    assert branches & still == branches - gains


def test_zero_gradients_and_zero_weights_are_reported_without_a_nan_where_defined():
    factory = lambda: build("fixup", depth=4, width=8)  # noqa: E731
    inputs, targets = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    rows = sigprop.measure(factory, inputs, targets).parameters.set_index("name")
    ratios = rows["grad_to_weight"]
    assert ratios["blocks.0.branch.weight1.weight"] == 0
    assert math.isnan(ratios["blocks.0.branch.weight2.weight"])  # 0/0 is undefined, not 0
    assert math.isnan(ratios["head.weight.weight"])  # a gradient over a weight of 0 likewise
    assert rows["grad_norm"]["head.weight.weight"] > 0
    assert not rows["grad_norm"].isna().any()


def test_the_jacobian_of_rezero_is_the_identity():
    net = made("rezero", depth=16, width=24, inputs=24)
    x = gaussian(0, 1, 24)
    jacobian = torch.autograd.functional.jacobian(net.blocks, x)[0, :, 0]
    values = torch.linalg.svdvals(jacobian)
    assert (values - 1).abs().max() < 1e-12


def test_a_transformer_layer_of_rezero_shares_its_gain():
    net: Any = build("rezero", architecture="transformer", depth=3, width=8)
    gains = [block.branch.multiplier for block in net.blocks]
    assert gains[0] is gains[1]
    assert gains[1] is not gains[2]
    assert sum(n.endswith("multiplier.m") for n, _ in net.named_parameters()) == 3


@pytest.mark.parametrize(("depth", "start"), [(18, 0.1), (19, 1e-5), (24, 1e-5), (25, 1e-6)])
def test_layerscale_starts_by_depth(depth, start):
    net: Any = build("layerscale", depth=depth, width=4)
    assert torch.allclose(net.blocks[-1].branch.multiplier.m, torch.full((4,), start))


def test_skipinit_with_a_gain_grows_as_derived():
    net = made("skipinit", depth=10, gain=10**-0.5, width=256, inputs=256)
    seen = trunk(net, gaussian(0, 256, 256))
    assert seen[-1] / seen[0] == pytest.approx(1.1**10, rel=0.1)


# --- row 36: what is invariant to what ----------------------------------------------------------


class Normed(nn.Module):
    """One normalized layer of W x: what Ba et al.'s table compares."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.norm = {"batch": batch_norm, "layer": layer_norm}.get(kind, lambda *_: nn.Identity())(
            5, 0
        )
        if kind != "weight":
            self.norm.eps = 1e-30  # torch refuses 0

    def forward(self, weight, x):
        if self.kind == "weight":
            return x @ networks.UnitRows()(weight).T
        return self.norm(x @ weight.T)


WEIGHT, DATA = gaussian(0, 5, 7), gaussian(1, 32, 7)
CHANGES = {
    "weight rescaled": (3.0 * WEIGHT, DATA),
    "weight recentered": (WEIGHT + gaussian(2, 7), DATA),
    "one row rescaled": (WEIGHT * torch.tensor([[3.0], [1], [1], [1], [1]]).double(), DATA),
    "data rescaled": (WEIGHT, 3.0 * DATA),
    "data shifted": (WEIGHT, DATA + gaussian(3, 7)),
    "one case rescaled": (WEIGHT, DATA * torch.linspace(1, 3, 32).double()[:, None]),
}
INVARIANT = {
    "batch": (True, False, True, True, True, False),
    "weight": (True, False, True, False, False, False),
    "layer": (True, True, False, True, False, True),
}


@pytest.mark.parametrize(
    ("kind", "change", "invariant"),
    [(k, c, v) for k, row in INVARIANT.items() for c, v in zip(CHANGES, row, strict=True)],
)
def test_the_table_of_invariances(kind, change, invariant):
    # Ba et al. call weight normalization invariant to data only through the network's scale: a
    # single layer of it is not, hence False under data rescaled
    layer = Normed(kind).double()
    before, after = layer(WEIGHT, DATA), layer(*CHANGES[change])
    assert torch.allclose(before, after, rtol=1e-10, atol=1e-10) is invariant


# --- row 37: one step, whatever the depth -------------------------------------------------------


def output_change(name, depth, digits, seed=0):
    """Return the RMS change of the logits by one SGD step of 1e-3 on the branches' weights."""
    torch.manual_seed(seed)
    net: Any = build(name, depth=depth, width=64)
    inputs, targets = digits.train[0][:256], digits.train[1][:256]
    torch.manual_seed(seed)  # the same stem and head at every depth
    initialize(net.stem.weight, 1.0)
    initialize(net.head.weight, 1.0)
    before = net(inputs)
    nn.functional.cross_entropy(before, targets).backward()
    with torch.no_grad():
        for parameter_name, parameter in net.blocks.named_parameters():
            if ".weight" in parameter_name:
                assert parameter.grad is not None
                parameter.sub_(1e-3 * parameter.grad)
        return (net(inputs) - before).square().mean().sqrt().item()


@pytest.mark.parametrize("name", ["fixup", "rescale"])
def test_one_step_changes_the_output_alike_at_every_depth(name):
    digits = resolve("digits")
    changes = [
        sum(output_change(name, depth, digits, seed) for seed in range(4)) / 4
        for depth in (8, 32, 128)
    ]
    middle = sum(changes) / 3
    assert all(change == pytest.approx(middle, rel=0.1) for change in changes)


def test_of_a_plain_network_it_explodes():
    digits = resolve("digits")
    shallow, deep = (output_change("plain", depth, digits) for depth in (8, 32))
    assert shallow > 20 * output_change("rescale", 8, digits)
    assert not deep < 100 * shallow


# --- scales of Transformers ---------------------------------------------------------------------


def test_deepnorm_has_the_constants_of_its_paper():
    alone = deepnorm_constants(100)
    assert (alone.alpha, alone.beta) == pytest.approx((200**0.25, 800**-0.25))
    assert alone.decoder_alpha is None
    both = deepnorm_constants(18, 6)
    root = (18**4 * 6) ** (1 / 16)
    assert (both.alpha, both.beta) == pytest.approx((0.81 * root, 0.87 / root))
    assert (both.decoder_alpha, both.decoder_beta) == pytest.approx((18**0.25, 72**-0.25))
    assert both.beta != pytest.approx(1.15 / root, rel=0.1)  # a public library's factor


def weight_of(net, block, path):
    return net.blocks[block].branch.get_submodule(path).weight.double()


def test_deepnorm_scales_values_output_and_feed_forward_but_not_queries():
    torch.manual_seed(0)
    net: Any = build("deepnorm", architecture="transformer", depth=8, width=64)
    beta = deepnorm_constants(8).beta
    tolerance = 4 * math.sqrt(2 / 64**2)
    for path, block, gain in (
        ("attention.query", 0, 1.0),
        ("attention.key", 0, 1.0),
        ("attention.value", 0, beta),
        ("weight2", 0, beta),
        ("weight1", 1, beta),
        ("weight2", 1, beta),
    ):
        weight = weight_of(net, block, path)
        xavier_variance = 2 / sum(weight.shape)
        found = second(weight) / xavier_variance
        assert found == pytest.approx(gain**2, rel=tolerance), path
    assert net.blocks[0].skip.scale.factor == pytest.approx(16**0.25)
    assert isinstance(net.blocks[0].after, nn.LayerNorm)


def test_t_fixup_scales_by_the_number_of_layers():
    torch.manual_seed(0)
    net = build("t-fixup", depth=16, width=64)
    assert not [m for m in net.modules() if isinstance(m, nn.LayerNorm)]
    scale = 0.67 * 16**-0.25
    tolerance = 4 * math.sqrt(2 / 64**2)
    for path, block, gain in (
        ("attention.query", 0, 0.5**0.5),
        ("attention.value", 0, scale),
        ("weight2", 0, scale),
        ("weight1", 1, scale),
    ):
        weight = weight_of(net, block, path)
        found = second(weight) * sum(weight.shape) / 2
        assert found == pytest.approx(gain**2, rel=tolerance), path


@pytest.mark.parametrize(("post", "last"), [(False, 9.0), (True, 1.0)])
def test_layer_norm_before_grows_linearly_and_after_holds_the_trunk(post, last):
    options = {"depth": 8, "width": 256, "inputs": 256, "post": post}
    seen = [trunk(made("layernorm", seed, **options), gaussian(seed, 64, 256)) for seed in range(3)]
    growth = sum(s[-1] / s[0] for s in seen) / 3
    assert growth == pytest.approx(last, rel=0.06)


def test_unit_scaling_is_rescalenet_at_half_the_depth():
    taus = unit_scaled_taus(20)
    betas = networks.coefficients(20, c=10)[1]
    assert [t / math.sqrt(1 + t * t) for t in taus] == pytest.approx(betas, rel=1e-14)
    seen = trunk(made("unit-scaled", depth=20, width=256, inputs=256), gaussian(0, 256, 256))
    assert seen[-1] / seen[0] == pytest.approx(1, abs=0.12)


def test_unit_scaling_weighs_attention_against_feed_forward():
    taus = unit_scaled_taus(4, residual_mult=2.0, attn_ratio=0.5)
    feed_forward = 2 * 4 / 1.25
    attention = 0.25 * feed_forward
    assert taus[0] ** 2 == pytest.approx(attention / 2)
    assert taus[1] ** 2 == pytest.approx(feed_forward / (2 + attention))
    assert taus[2] ** 2 == pytest.approx(attention / (2 + attention + feed_forward))


def coordinate(name, width, groups):
    """Return the mean absolute logit after three Adam steps: μP's coordinate check."""
    digits = resolve("digits").train
    assert isinstance(digits, tuple)
    inputs, targets = digits[0][:128], digits[1][:128]
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = build(name, depth=2, width=width)
        optimizer = torch.optim.Adam(groups(net))
        begin = net(inputs).detach()
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), targets).backward()
            optimizer.step()
        found.append((net(inputs) - begin).abs().mean().item())
    return sum(found) / 3


def test_mup_updates_do_not_grow_with_the_width_and_standard_ones_do():
    def mup(net):
        return mup_groups(net, 1e-2)

    def standard(net):
        return [{"params": list(net.parameters()), "lr": 1e-2}]

    widths = (64, 512)
    ours = [coordinate("mup", width, mup) for width in widths]
    usual = [coordinate("plain", width, standard) for width in widths]
    assert 1 / 2 < ours[1] / ours[0] < 2
    assert usual[1] / usual[0] > 3


# --- plain networks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer", [nn.Linear(24, 24), nn.Linear(12, 24), nn.Linear(24, 12), nn.Conv2d(6, 6, 3)]
)
def test_orthogonal_weights_keep_the_second_moment(layer):
    torch.manual_seed(0)
    layer.double()
    orthogonal(layer, 1.5)
    if isinstance(layer, nn.Conv2d):
        assert layer.weight.count_nonzero() == 36
        matrix = layer.weight[:, :, 1, 1]
    else:
        matrix = layer.weight
    outputs, inputs = matrix.shape
    gram = matrix @ matrix.T if outputs <= inputs else matrix.T @ matrix
    scale = 1.5**2 * max(1, outputs / inputs)
    assert torch.allclose(gram, scale * torch.eye(len(gram)).double(), atol=1e-12)
    assert not layer.bias.any()


def test_orthogonal_linear_networks_are_isometries_and_grouped_ones_refused():
    net = made(
        "feedforward", init="orthogonal", activation="identity", depth=30, width=64, inputs=64
    )
    seen = trunk(net, gaussian(0, 8, 64))
    assert seen == pytest.approx([seen[0]] * 31, rel=1e-5)  # begun in float32
    with refusal(
        sigprop.BadInput,
        "an orthogonal start of a grouped convolution is not defined; use groups=1",
    ):
        build("feedforward", init="orthogonal", architecture="resnet", groups=2)


def test_xavier_weights_have_the_mean_of_the_fans():
    torch.manual_seed(0)
    for layer, fans in ((nn.Linear(300, 100), 400), (nn.Conv2d(16, 64, 3, groups=2), 9 * (8 + 32))):
        xavier(layer, 1.0)
        count = layer.weight.numel()
        assert second(layer.weight.double()) == pytest.approx(
            2 / fans, rel=4 * math.sqrt(2 / count)
        )


def test_a_mean_field_network_has_the_fixed_point_of_its_variances():
    # tanh at (σ_w², σ_b²) = (2.5, 0.05): q* = 1.063958
    net = made(
        "feedforward",
        activation="tanh",
        sigma_w=2.5**0.5,
        sigma_b=0.05**0.5,
        depth=30,
        width=600,
        inputs=600,
    )
    seen = trunk(net, gaussian(0, 32, 600))
    assert sum(seen[10:]) / len(seen[10:]) == pytest.approx(1.063958, rel=0.03)


@pytest.mark.parametrize("init", ["he", "orthogonal"])
def test_a_relu_chain_keeps_the_second_moment(init):
    seen = [
        trunk(
            made("feedforward", seed, init=init, depth=10, width=128, inputs=128),
            gaussian(seed, 64, 128),
        )
        for seed in range(6)
    ]
    # Var log ≈ 5 L/n: sd 0.63 for one He network, 0.26 for the mean of 6
    assert sum(s[-1] / s[0] for s in seen) / 6 == pytest.approx(1, abs=0.5)


def test_final_batch_norm_normalizes_the_head_and_nothing_else():
    net = build("batchnorm-last", architecture="resnet", depth=3, width=8)
    norms = [n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == ["head.norm"]
    seen = trunk(made("batchnorm-last", depth=8, width=256, inputs=256), gaussian(0, 64, 256))
    assert seen[-1] / seen[0] == pytest.approx(2**8, rel=0.5)


def test_initialize_leaves_a_layer_without_bias_alone():
    layer: Any = nn.Linear(3, 4, bias=False)
    for begin in (initialize, xavier, orthogonal):
        begin(layer, 1.0)
    assert layer.bias is None
    unit_rows(layer)
    assert torch.allclose(layer.weight.norm(dim=1), torch.ones(4))
    assert isinstance(Multiplier(0.5, 4).m, nn.Parameter)
