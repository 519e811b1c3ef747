"""RescaleNet complete: every option of the paper and of the authors' code, and what is refused."""

import math
from typing import Any

import pytest
import torch
from messages import refusal
from torch import nn
from zoo import channel_variance, gaussian, second, trunk
from zoo import made as made_of

import sigprop
from sigprop.networks import BiasBefore, Multiplier, build, coefficients

LOST = 1 - 1 / math.pi


def made(name="rescale", **options):
    return made_of(name, **options)


# --- the official constants ---------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 16, 33])
def test_the_official_c_is_one_less_than_the_depth(depth):
    net = made(depth=depth, width=4, c="official")
    alphas = [block.skip.scale.factor for block in net.blocks]
    # the code's own indices: block_idx runs from L - 1, identity = sqrt(idx/(idx + 1))
    code = [math.sqrt(index / (index + 1)) for index in range(depth - 1, 2 * depth - 1)]
    assert alphas == pytest.approx(code, rel=1e-14)
    product = math.sqrt((depth - 1) / (2 * depth - 1))
    assert math.prod(alphas) == pytest.approx(product, rel=1e-12)


def test_the_official_exponent_is_a_sixth_for_three_weights():
    # multiplier = (block_idx + 1)^(-1/6) L^(1/6), residual = L^(-1/2)
    torch.manual_seed(0)
    net: Any = build("rescale", depth=8, width=256, c="official", gain="he", branch_layers=3)
    for k in (1, 8):
        branch = net.blocks[k - 1].branch
        code = (k + 7) ** (-1 / 6) * 8 ** (1 / 6)
        squared = second(branch.weight2.weight.double()) * 256
        assert squared == pytest.approx(2 * code**2, rel=4 * math.sqrt(2 / 256**2))
        assert branch.scale.factor == pytest.approx(8**-0.5)


def test_a_post_activation_block_loses_a_little_of_the_second_moment():
    # 0.91 to 0.96 of the variance per block inside a stage
    options: dict[str, Any] = {
        "c": "official",
        "gain": "he",
        "order": "weight-norm-act",
        "block": "bottleneck",
    }
    options |= {"architecture": "resnet", "depth": 12, "width": 64, "padding": "circular"}

    seen = trunk(made(**options), gaussian(0, 16, 1, 8, 8), of=channel_variance)
    kept = (seen[-1] / seen[0]) ** (1 / 12)
    assert 0.90 < kept < 0.97


def test_three_he_weights_with_centered_inputs_keep_what_is_derived():
    # T3: act-weight three times, the first reading the stem, loses 1 - 1/π at each: relative to
    # the input's second moment the branch has (1 - 1/π)³; a branch that starts with a weight has
    # 2³ · 0.340845² = 0.9294 of its variance
    net = made(depth=1, width=512, inputs=512, gain="he", branch_layers=3, reparametrize=False)
    x = net.stem(gaussian(0, 1024, 512))
    branch = net.blocks[0].branch
    out = branch[: list(dict(branch.named_children())).index("scale")](x)
    assert second(out) / second(x) == pytest.approx(LOST**3, rel=0.06)
    tail = branch[1:]  # from the first bias on
    for module in tail:
        if isinstance(module, BiasBefore):
            module.reset_parameters()
    out = tail[: list(dict(tail.named_children())).index("scale")](x)
    assert second(out) / second(x) == pytest.approx(8 * (LOST / 2) ** 2, rel=0.06)


# --- options ------------------------------------------------------------------------------------


def test_multipliers_are_scalars_vectors_or_none():
    images = {"architecture": "resnet", "depth": 2, "width": 6}
    assert made(**images).blocks[0].branch.multiplier.m.shape == (1,)
    assert made(**images, multiplier="vector").blocks[0].branch.multiplier.m.shape == (6, 1, 1)
    dense = made(depth=2, width=6, multiplier="vector")
    assert dense.blocks[0].branch.multiplier.m.shape == (6,)
    assert not [m for m in made(**images, multiplier="none").modules() if isinstance(m, Multiplier)]


def test_all_multipliers_are_one_function_at_initialization():
    x = gaussian(0, 8, 1, 8, 8)
    outs = [made(depth=4, width=8, multiplier=m)(x) for m in ("scalar", "vector", "none")]
    outs.append(made(depth=4, width=8, backbone=True)(x))
    for out in outs[1:]:
        assert torch.equal(out, outs[0])


def test_a_backbone_scalar_multiplies_the_skip():
    net = made(depth=3, width=8, backbone=True)
    with torch.no_grad():
        net.blocks[1].skip.multiplier.m.fill_(2.0)
    x = gaussian(0, 8, 8)
    alphas, _ = coefficients(3, 3)
    assert torch.allclose(net.blocks[1].skip(x), 2 * alphas[1] * x)
    assert sum(isinstance(m, Multiplier) for m in net.modules()) == 6


@pytest.mark.parametrize("c", [0.5, 4, 40])
def test_c_shares_the_variance(c):
    net = made(depth=8, width=256, inputs=256, c=c)
    seen = trunk(net, gaussian(0, 256, 256))
    assert seen[-1] / seen[0] == pytest.approx(1, abs=0.08)
    assert math.prod(b.skip.scale.factor for b in net.blocks) == pytest.approx(
        math.sqrt(c / (8 + c))
    )


def test_multipliers_above_one_break_the_law_as_their_formula_says():
    # a reviewer's objection: Var[x_L]/Var[x_0] = Π(α² + m² β²)
    for m in (0.5, 2.0):
        net = made(depth=12, width=256, inputs=256)
        for block in net.blocks:
            nn.init.constant_(block.branch.multiplier.m, m)
        seen = trunk(net, gaussian(0, 256, 256))
        pairs = zip(*coefficients(12, 12), strict=True)
        expected = math.prod(a * a + m * m * b * b for a, b in pairs)
        assert seen[-1] / seen[0] == pytest.approx(expected, rel=0.15)
        assert not 0.8 < expected < 1.25


# --- biases -------------------------------------------------------------------------------------


def test_a_bias_of_several_batches_is_minus_the_mean_of_their_means():
    layer = BiasBefore(3, batches=4).double()
    batches = [gaussian(i, 16, 3) + i for i in range(6)]
    for index, x in enumerate(batches):
        assert layer.initialized is (index >= 4)
        layer(x)
    expected = -torch.stack([x.mean(0) for x in batches[:4]]).mean(0)
    assert torch.allclose(layer.bias, expected)
    assert repr(layer) == "BiasBefore(3, dims=0, batches=4)"


def test_an_interrupted_average_goes_on_from_its_state():
    layer, other = BiasBefore(3, batches=3).double(), BiasBefore(3, batches=3).double()
    batches = [gaussian(i, 16, 3) + i for i in range(3)]
    layer(batches[0])
    other.load_state_dict(layer.state_dict())
    for x in batches[1:]:
        layer(x)
        other(x)
    assert torch.equal(layer.bias, other.bias)
    assert other.initialized


def test_evaluation_does_not_count_towards_the_average():
    layer = BiasBefore(2, batches=8)
    layer.eval()(torch.randn(4, 2))
    assert layer.seen == 0


def test_every_bias_of_the_network_averages():
    net = made(depth=2, width=8, bias_batches=3)
    assert {m.batches for m in net.modules() if isinstance(m, BiasBefore)} == {3}
    for seed in range(4):
        net(gaussian(seed, 8, 1, 8, 8))
    assert all(m.initialized for m in net.modules() if isinstance(m, BiasBefore))


def test_a_first_batch_of_one_sample_is_refused():
    with refusal(
        sigprop.BadInput,
        (
            "the first training batch has one value per channel (shape (1, "
            "4)), which is its own mean and has no variance: start with a "
            "batch of at least 2 samples"
        ),
    ):
        made(depth=1, width=4, inputs=4)(gaussian(0, 1, 4))
    with refusal(
        sigprop.BadInput,
        (
            "the first training batch has one value per channel (shape (1, "
            "4)), which is its own mean and has no variance: start with a "
            "batch of at least 2 samples"
        ),
    ):
        made("weightnorm", depth=1, width=4, inputs=4)(gaussian(0, 1, 4))


def test_a_constant_channel_has_no_weight_norm_gain():
    net = made("weightnorm", depth=1, width=4, inputs=4)
    with refusal(
        sigprop.BadInput,
        (
            "4 of 4 channels are constant over the first training batch; a "
            "gain of 1/std does not exist for them"
        ),
    ):
        net(torch.ones(8, 4).double())


# --- dropout ------------------------------------------------------------------------------------


def test_dropout_in_front_of_the_weights_leaves_the_second_moment():
    options = {"depth": 8, "width": 256, "inputs": 256}
    with_drop = made(**options, drop=0.3)
    x = gaussian(0, 512, 256)
    seen = trunk(with_drop, x)
    assert seen[-1] / seen[0] == pytest.approx(1, abs=0.08)
    drops = [m.p for m in with_drop.modules() if isinstance(m, nn.Dropout)]
    assert drops == [0.3] * 16
    assert [m.p for m in made(**options, drop_head=0.2).modules() if isinstance(m, nn.Dropout)] == [
        0.2
    ]


# --- transformer --------------------------------------------------------------------------------


def test_the_transformer_variant_counts_two_blocks_per_layer():
    net = made(architecture="transformer", depth=5, width=16)
    alphas, _ = coefficients(10, 10)
    assert [b.skip.scale.factor for b in net.blocks] == pytest.approx(alphas)
    assert not [m for m in net.modules() if isinstance(m, nn.LayerNorm)]
    biases = [n for n, m in net.blocks[0].named_modules() if isinstance(m, BiasBefore)]
    assert biases == ["branch.bias1", "branch.bias2"]
    assert all(m.bias is None for m in net.modules() if isinstance(m, nn.Linear))


def test_its_feed_forward_blocks_preserve_and_attention_takes_no_more_than_it_has():
    net = made(architecture="transformer", depth=6, width=128, inputs=(10, 128))
    seen = trunk(net, gaussian(0, 64, 10, 128))
    alphas, betas = coefficients(12, 12)
    for k in range(12):
        ratio = seen[k + 1] / seen[k]
        if k % 2:
            assert ratio == pytest.approx(1, abs=0.03)
        else:  # near-uniform attention over 10 tokens leaves a tenth of their values' variance
            least = alphas[k] ** 2
            assert least * 0.98 < ratio < 1.02
            assert ratio < least + 0.6 * betas[k] ** 2


def test_both_forms_are_one_function_in_a_transformer_and_a_bottleneck():
    x = gaussian(0, 6, 1, 8, 8)
    for options in (
        {"architecture": "transformer", "depth": 2, "width": 8},
        {"architecture": "resnet", "depth": 3, "width": 8, "block": "bottleneck"},
    ):
        outs = [made(**options, reparametrize=form)(x) for form in (True, False)]
        assert torch.allclose(outs[0], outs[1], rtol=1e-5, atol=1e-5)


# --- VGG ----------------------------------------------------------------------------------------


def vgg_variances(**options):
    net = made("vgg", **options)
    return trunk(net, gaussian(0, 8, 3, 32, 32)), net


def test_the_authors_vgg_loses_variance_as_derived():
    # T4: 0.68 per same-size layer less padding, half of it where fan_out is twice fan_in
    kept, net = vgg_variances(
        init="fan_out", plan="vgg19", inputs=(3, 32, 32), width=32, padding="circular"
    )
    ratios: dict[bool, list[float]] = {}
    for k, block in enumerate(net.blocks):
        convolution = block.branch.weight
        if "pool" not in dict(block.branch.named_children()):
            wider = convolution.out_channels > convolution.in_channels
            ratios.setdefault(wider, []).append(kept[k + 1] / kept[k])
    same = ratios[False]
    assert sum(same[:6]) / 6 == pytest.approx(LOST, rel=0.08)


def test_with_the_preserving_gain_it_keeps_it_up_to_pooling():
    kept, net = vgg_variances(plan="vgg13", inputs=(3, 32, 32), width=32, padding="circular")
    for k, block in enumerate(net.blocks):
        if "pool" not in dict(block.branch.named_children()):
            assert kept[k + 1] / kept[k] == pytest.approx(1, abs=0.12)


def test_a_widening_layer_of_fan_out_gets_half():
    from sigprop.networks.vgg import fan_out

    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, 3)
    fan_out(layer, math.sqrt(2))
    squared = second(layer.weight.double()) * 64 * 9
    assert squared == pytest.approx(1, rel=4 * math.sqrt(2 / layer.weight.numel()))


def test_vgg_biases_stand_before_or_after():
    before, after = (made("vgg", depth=3, width=4, bias=b) for b in ("before", "after"))
    assert all(m.bias is None for m in before.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert all(m.bias is not None for m in after.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert sum(isinstance(m, BiasBefore) for m in before.modules()) == 4
    assert not [m for m in after.modules() if isinstance(m, BiasBefore)]


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "rescale",
            {"c": -1},
            "c must be a positive number, got -1; the paper's choice is the depth",
        ),
        ("rescale", {"c": "L"}, "c must be a positive number or 'official' (L - 1), got 'L'"),
        (
            "rescale",
            {"c": "official", "depth": 1},
            "c must be a positive number, got 0.0; the paper's choice is the depth",
        ),
        (
            "rescale",
            {"multiplier": "vectr"},
            "no multiplier is called 'vectr'; did you mean 'vector'?",
        ),
        (
            "rescale",
            {"bias_batches": 0},
            "bias_batches must be a whole number of at least 1, got 0",
        ),
        ("rescale", {"drop": 1.0}, "drop must be at least 0 and below 1, got 1.0"),
        ("rescale", {"drop_head": -0.1}, "drop_head must be at least 0 and below 1, got -0.1"),
        (
            "plain",
            {"activation": "swish"},
            "no activation is called 'swish'; did you mean 'hardswish' or 'mish'?",
        ),
        (
            "plain",
            {"activation": "zzz"},
            (
                "no activation is called 'zzz'; known: celu, elu, erf, gelu, "
                "gelu_tanh, hardswish, identity, leaky_relu, logsigmoid, mish, "
                "quickgelu, relu, selu, sigmoid, silu, softplus, softsign, tanh"
            ),
        ),
        ("plain", {"groups": 2}, "groups=2 needs architecture='resnet'"),
        ("plain", {"block": "bottleneck"}, "block='bottleneck' needs architecture='resnet'"),
        (
            "plain",
            {"architecture": "resnet", "groups": 3},
            "groups=3 does not divide the 8 channels of a branch; use one of 1, 2, 4, 8",
        ),
        (
            "plain",
            {"architecture": "resnet", "block": "bottleneck", "width": 6},
            (
                "width=6 does not divide by bottleneck=4; the inner width of a bottleneck is "
                "their quotient"
            ),
        ),
        (
            "plain",
            {"architecture": "resnet", "block": "bottlneck"},
            "no block is called 'bottlneck'; did you mean 'bottleneck'?",
        ),
        ("transformer", {"heads": 3}, "heads=3 does not divide width=8; use one of 1, 2, 4, 8"),
        (
            "transformer",
            {"inputs": 64},
            (
                "a transformer needs inputs=(tokens, features) or (channels, "
                "height, width), got (64,)"
            ),
        ),
        (
            "plain",
            {"architecture": "transformer", "stages": 2},
            "stages=2 needs architecture='resnet'; a Transformer has one",
        ),
        (
            "transformer",
            {"order": "weight-norm-act"},
            (
                "a transformer has skip connections and "
                "order='norm-act-weight', got order='weight-norm-act', "
                "skip=True"
            ),
        ),
        (
            "lstm",
            {"inputs": 64},
            "an LSTM needs inputs=(steps, features) or (channels, height, width), got (64,)",
        ),
        (
            "lstm",
            {"forget_bias": math.inf},
            "the size of forget_bias must be at least 0 and finite, got inf",
        ),
        ("groupnorm", {"per_group": 3}, "per_group=3 does not divide 8 channels"),
        ("groupnorm", {"per_group": 0}, "per_group must be a whole number of at least 1, got 0"),
        (
            "groupnorm",
            {"per_group": 1},
            (
                "one unit per group normalizes single numbers to 0; an MLP "
                "needs per_group of at least 2, instance normalization needs "
                "architecture='resnet'"
            ),
        ),
        (
            "groupnorm",
            {"per_group": 1, "architecture": "resnet", "stages": 2, "inputs": (1, 2, 2)},
            (
                "2 stages shrink 2x2 to one pixel, which instance normalization sets to 0; use "
                "fewer stages"
            ),
        ),
        ("feedforward", {"init": "hee"}, "no init is called 'hee'; did you mean 'he'?"),
        (
            "feedforward",
            {"sigma_w": 0.0},
            "sigma_w must be above 0 and sigma_b at least 0, got 0.0, 0.0",
        ),
        (
            "feedforward",
            {"sigma_b": -1.0},
            "sigma_w must be above 0 and sigma_b at least 0, got None, -1.0",
        ),
        (
            "feedforward",
            {"architecture": "transformer"},
            (
                "a transformer has skip connections and "
                "order='norm-act-weight', got order='norm-act-weight', "
                "skip=False"
            ),
        ),
        ("skipinit", {"gain": -0.1}, "gain must be at least 0 and finite, got -0.1"),
        ("layerscale", {"start": math.nan}, "start must be at least 0 and finite, got nan"),
        ("scaled-weightnorm", {"power": -1.0}, "power must be at least 0 and finite, got -1.0"),
        (
            "nf-resnet",
            {"gamma": "offcial"},
            "no gamma is called 'offcial'; did you mean 'official'?",
        ),
        ("nf-resnet", {"alpha": -0.2}, "alpha must be at least 0 and finite, got -0.2"),
        (
            "nf-resnet",
            {"stochastic_depth": 1.5},
            "stochastic_depth must be at least 0 and below 1, got 1.5",
        ),
        (
            "nfnet",
            {"variant": "F9"},
            "no variant is called 'F9'; known: F0, F1, F2, F3, F4, F5, F6",
        ),
        ("nfnet", {"width": 12, "group_width": 4}, "group_width=4 does not divide 6 channels"),
        (
            "nfnet",
            {"inputs": 64},
            (
                "a resnet needs inputs=(channels, height, width), got (64,); "
                "use architecture='mlp' for flat inputs"
            ),
        ),
        (
            "vgg",
            {"plan": "vgg12"},
            "no plan is called 'vgg12'; did you mean 'vgg19' or 'vgg16' or 'vgg13'?",
        ),
        ("vgg", {"bias": "none"}, "no bias is called 'none'; known: after, before"),
        ("vgg", {"init": "fanout"}, "no init is called 'fanout'; did you mean 'fan_out'?"),
        ("mup", {"base_width": 0}, "base_width must be a whole number of at least 1, got 0"),
        (
            "unit-scaled",
            {"residual_mult": -1.0},
            "residual_mult must be at least 0 and finite, got -1.0",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(name, options, message):
    with refusal(sigprop.BadInput, message):
        build(name, **{"depth": 3, "width": 8, **options})
