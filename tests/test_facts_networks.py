"""The laws that the networks are built to obey, measured on the networks themselves in float64."""

import copy
import math

import pytest
import torch
from torch import nn

from sigprop.experiments.training import Plan, Training
from sigprop.inputs.datasets import resolve
from sigprop.networks import (
    BiasBefore,
    Design,
    Recipe,
    ResidualNet,
    build,
    centered_gain,
    coefficients,
    he_gain,
)
from sigprop.networks.weights import initialize

DEPTH, WIDTH, SAMPLES = 20, 256, 512
LOST = 1 - 1 / math.pi  # what is left of a ReLU's second moment after its mean


@pytest.fixture(scope="module")
def digits():
    return resolve("digits")


def gaussian(seed, *shape):
    generator = torch.Generator().manual_seed(10_000 + seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def moments(x):
    """Return second moment, mean biased channel variance, and mean squared channel mean."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    mean = x.mean(dim=axes)
    return torch.stack(
        [x.square().mean(), x.var(dim=axes, correction=0).mean(), mean.square().mean()]
    )


@torch.no_grad()
def trunk(net, inputs):
    """Return the moments of x_0..x_L, shape (L + 1, 3)."""
    x = net.stem(inputs)
    seen = [moments(x)]
    for block in net.blocks:
        x = block(x)
        seen.append(moments(x))
    return torch.stack(seen)


def trunks(make, seeds, inputs=None):
    """Return the moments over seeds, shape (seeds, L + 1, 3)."""
    seen = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        net = make().double()
        seen.append(trunk(net, gaussian(seed, SAMPLES, WIDTH) if inputs is None else inputs))
    return torch.stack(seen)


def made(name, **options):
    options = {"depth": DEPTH, "width": WIDTH, "inputs": WIDTH, **options}
    return lambda: build(name, **options)


def begun(layer, gain):
    initialize(layer, gain)
    return layer


def log2_slope(seen, column=0):
    return (seen[:, -1, column] / seen[:, 0, column]).log2().mean().item() / (seen.shape[1] - 1)


def is_preserved(seen, column=0, tolerance=0.05, per_block=0.02):
    """Return whether a moment of x_k is that of x_{k-1}, over all blocks and at each."""
    whole = (seen[:, -1, column] / seen[:, 0, column]).mean()
    each = (seen[:, 1:, column] / seen[:, :-1, column]).mean(dim=0)
    return bool((whole - 1).abs() < tolerance and (each - 1).abs().max() < per_block)


# --- rows 2 and 3: the plain network doubles ----------------------------------------------------


def test_a_plain_linear_network_doubles_the_second_moment_per_block():
    # measured standard error of the slope over 5 seeds: 0.0022
    seen = trunks(made("plain", activation="identity", branch_layers=1), seeds=5)
    assert log2_slope(seen) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("branch_layers", [1, 2])
def test_a_plain_relu_network_doubles_the_second_moment_per_block(branch_layers):
    # measured standard errors over 5 seeds: 0.008 and 0.013
    seen = trunks(made("plain", branch_layers=branch_layers), seeds=5)
    assert log2_slope(seen) == pytest.approx(1, abs=0.04)


def arccos_kernel(c):
    """Return the correlation behind a ReLU of a pair that has correlation c before it."""
    return (math.sqrt(max(0.0, 1 - c * c)) + c * (math.pi - math.acos(min(1.0, c)))) / math.pi


def correlations(alphas_squared):
    c = [0.0]
    for a in alphas_squared:
        c.append(a * c[-1] + (1 - a) * arccos_kernel(c[-1]))
    return c


def test_but_its_channel_variance_grows_more_slowly():
    # two samples drift together, c_k; what remains of the second moment as variance is 1 - c_k
    seen = trunks(made("plain", branch_layers=1), seeds=5)
    expected = 1 + math.log2(1 - correlations([0.5] * DEPTH)[-1]) / DEPTH
    assert 0.85 < expected < 0.87
    assert log2_slope(seen, column=1) == pytest.approx(expected, abs=0.04)


# --- rows 1 and 4: the rescaled network preserves -----------------------------------------------


def test_without_biases_the_second_moment_is_preserved():
    # at n = 256 one network's ratio has a standard deviation of 0.032 (300 seeds); of 10: 0.010
    seen = trunks(made("rescale", bias=False, gain="he", branch_layers=1), seeds=10)
    assert is_preserved(seen)


def test_but_the_channel_variance_is_not():
    seen = trunks(made("rescale", bias=False, gain="he", branch_layers=1), seeds=5)
    alphas, _ = coefficients(DEPTH, DEPTH)
    expected = 1 - correlations([a * a for a in alphas])[-1]
    assert expected == pytest.approx(0.8138, abs=1e-4)
    ratio = (seen[:, -1, 1] / seen[:, 0, 1]).mean().item()
    assert ratio == pytest.approx(expected, abs=0.02)
    assert not is_preserved(seen, column=1)


@pytest.mark.parametrize("branch_layers", [1, 2])
@pytest.mark.parametrize("reparametrize", [True, False])
def test_with_biases_and_the_preserving_gain_both_are_preserved(branch_layers, reparametrize):
    # means are 0, samples do not drift together: 0.0085 per network (100 seeds), 0.004 for 5
    make = made("rescale", branch_layers=branch_layers, reparametrize=reparametrize)
    seen = trunks(make, seeds=5)
    for column in (0, 1):
        assert is_preserved(seen, column, tolerance=0.02, per_block=0.01)
    assert seen[..., 2].max() < 1e-25


@pytest.mark.parametrize("branch_layers", [1, 2])
def test_the_law_holds_on_digits(digits, branch_layers):
    # Images have unequal norms and few directions, so that pre-activations are only roughly
    # Gaussian; measured 0.992 ± 0.009 and 0.983 ± 0.006 over 6 networks.
    inputs = digits.train[0][:1024].double()
    make = made("rescale", branch_layers=branch_layers, inputs=(1, 8, 8))
    seen = trunks(make, seeds=5, inputs=inputs)
    assert is_preserved(seen, column=0)
    assert is_preserved(seen, column=1)


@pytest.mark.parametrize("branch_layers", [1, 2])
def test_he_gain_behind_a_centered_relu_loses_what_theory_says(branch_layers):
    # each weight of a branch keeps 1 - 1/π: block k keeps alpha² + beta² (1 - 1/π)^m
    seen = trunks(made("rescale", gain="he", branch_layers=branch_layers), seeds=5)
    alphas, betas = coefficients(DEPTH, DEPTH)
    kept = [a * a + b * b * LOST**branch_layers for a, b in zip(alphas, betas, strict=True)]
    ratio = (seen[:, -1, 0] / seen[:, 0, 0]).mean().item()
    assert ratio == pytest.approx(math.prod(kept), rel=0.02)
    assert not is_preserved(seen)


@pytest.mark.parametrize("activation", ["identity", "tanh"])
def test_odd_activations_need_no_other_gain(activation):
    seen = trunks(made("rescale", activation=activation), seeds=5)
    assert is_preserved(seen)


@pytest.mark.parametrize("c", [1, 5, 80])
def test_the_law_holds_for_any_c(c):
    # small c: the first blocks weigh more, and with them the fluctuation of their few weights
    assert is_preserved(trunks(made("rescale", c=c), seeds=5), tolerance=0.05, per_block=0.03)


def test_a_circular_resnet_preserves_and_a_zero_padded_one_loses_its_border():
    def resnet(padding):
        return lambda: build("rescale", architecture="resnet", width=64, padding=padding)

    inputs = gaussian(0, 64, 1, 8, 8)
    assert is_preserved(trunks(resnet("circular"), 3, inputs), tolerance=0.08, per_block=0.03)
    seen = trunks(resnet("zeros"), 3, inputs)
    assert (seen[:, -1, 0] / seen[:, 0, 0]).mean() < 0.95


def test_a_zero_padded_convolution_keeps_the_share_of_its_taps():
    torch.manual_seed(0)
    layer = begun(nn.Conv2d(64, 256, 3, padding=1, bias=False), gain=1.0).double()
    x = gaussian(0, 64, 64, 8, 8)
    ratio = layer(x).square().mean() / x.square().mean()
    # relative error of the variance of 64·256·9 weights: sqrt(2/147456) = 0.004; 4 of them
    assert ratio.item() == pytest.approx(((3 * 8 - 2) / (3 * 8)) ** 2, rel=0.016)


# --- saboteurs: the check of the law can fail ---------------------------------------------------


def sabotaged(**changes):
    alphas, betas = coefficients(DEPTH, DEPTH)
    right = {
        "gain": centered_gain,
        "before_weight": BiasBefore,
        "alpha": lambda k: alphas[k - 1],
        "beta": lambda k: betas[k - 1],
    }
    recipe = Recipe(**{**right, **changes})
    return lambda: ResidualNet(Design(depth=DEPTH, width=WIDTH, inputs=(WIDTH,)), recipe)


def test_the_unsabotaged_recipe_passes():
    assert is_preserved(trunks(sabotaged(), seeds=3))


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": lambda k: 1.0},
        {"beta": lambda k: 1.1 / math.sqrt(k + DEPTH)},
        {"gain": he_gain},
        {"gain": lambda activation: 1.1 * centered_gain(activation)},
        {"before_weight": None},
        # the paper's exponent for three weights in a branch of two
        {
            "beta": lambda k: DEPTH**-0.5,
            "weight_scale": lambda k: ((k + DEPTH) / DEPTH) ** (-1 / 6),
        },
    ],
    ids=["alpha forgotten", "branch x1.1", "He", "gain x1.1", "bias forgotten", "exponent"],
)
def test_a_sabotaged_recipe_does_not(changes):
    assert not is_preserved(trunks(sabotaged(**changes), seeds=3))


def test_the_wrong_exponent_is_off_by_what_theory_says():
    wrong = {
        "beta": lambda k: DEPTH**-0.5,
        "weight_scale": lambda k: ((k + DEPTH) / DEPTH) ** (-1 / 6),
    }
    seen = trunks(sabotaged(**wrong), seeds=5)
    blocks = range(1, DEPTH + 1)
    kept = [
        (k - 1 + DEPTH) / (k + DEPTH) + ((k + DEPTH) / DEPTH) ** (-2 / 3) / DEPTH for k in blocks
    ]
    assert 1.08 < math.prod(kept) < 1.1
    ratio = (seen[:, -1, 0] / seen[:, 0, 0]).mean().item()
    assert ratio == pytest.approx(math.prod(kept), abs=0.02)


class BiasLeftAtZero(BiasBefore):
    """The aliasing mistake of a public port: the mean is added to itself and taken away again."""

    def initialize_from(self, values):
        alias = self.bias.data
        alias += values.mean(1)
        self.bias.data += 0 - alias


def with_zero_biases(net):
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if type(child) is BiasBefore:
                setattr(module, name, BiasLeftAtZero(child.bias.numel(), child.dims))
    return net


# --- row 5: mean subtraction --------------------------------------------------------------------


def he_stack(width, layers):
    stack = []
    for _ in range(layers):
        weight = begun(nn.Linear(width, width, bias=False), he_gain("relu"))
        stack += [nn.ReLU(), BiasBefore(width), weight]
    return nn.Sequential(*stack)


def test_each_he_layer_loses_one_pi_th_after_mean_subtraction():
    ratios = []
    for seed in range(3):
        torch.manual_seed(seed)
        x = gaussian(seed, 1024, 512)
        with torch.no_grad():
            out = he_stack(512, layers=10).double()(x)
        ratios.append((out.square().mean() / x.square().mean()).item())
    assert sum(ratios) / 3 == pytest.approx(LOST**10, rel=0.05)


# --- row 6: the bias leaves no unit dead --------------------------------------------------------


@torch.no_grad()
def rectified_inputs(net, inputs):
    """Return what every ReLU of a network reads in a training-mode forward."""
    seen = []
    handles = [
        module.register_forward_hook(lambda m, args, out: seen.append(args[0].double()))
        for module in net.modules()
        if isinstance(module, nn.ReLU)
    ]
    net.train()(inputs)
    for handle in handles:
        handle.remove()
    return seen


def dead_units(net, inputs):
    axes_but_channel = [(x.movedim(1, 0).flatten(1) > 0) for x in rectified_inputs(net, inputs)]
    return sum(int((~active.any(dim=1)).sum()) for active in axes_but_channel)


def largest_mean(net, inputs):
    means = [x.movedim(1, 0).flatten(1).mean(dim=1) for x in rectified_inputs(net, inputs)]
    return max(mean.abs().max().item() for mean in means)


@pytest.mark.parametrize("architecture", ["mlp", "resnet"])
def test_on_its_first_batch_every_preactivation_has_mean_zero_and_no_unit_is_dead(
    digits, architecture
):
    torch.manual_seed(0)
    net = build("rescale", architecture=architecture, depth=10, width=32, padding="circular")
    inputs = digits.train[0][:64]
    assert dead_units(net, inputs) == 0
    # float32: sums of up to 64·9 products of size 1 in single precision
    assert largest_mean(net, inputs) < 5e-6


@pytest.mark.parametrize(("padding", "stages"), [("zeros", 1), ("circular", 2)])
def test_borders_and_strides_leave_a_small_mean_but_no_dead_unit(digits, padding, stages):
    # a tap of the kernel that reads some positions only reads another mean than that of all
    torch.manual_seed(0)
    options = {"depth": 10, "width": 32, "padding": padding, "stages": stages}
    net = build("rescale", architecture="resnet", **options)
    inputs = digits.train[0][:64]
    assert dead_units(net, inputs) == 0
    assert 1e-3 < largest_mean(net, inputs) < 1


def test_even_a_tiny_first_batch_leaves_no_unit_dead():
    net_of = {}
    for bias in (True, False):
        torch.manual_seed(0)
        net_of[bias] = build("rescale", width=64, inputs=64, bias=bias)
    inputs = gaussian(0, 4, 64).float()
    assert dead_units(net_of[True], inputs) == 0
    # at x_0 a unit is off for all of 4 independent samples with probability 1/16
    assert dead_units(net_of[False], inputs) > 10 * 64 / 16


def test_a_bias_left_at_zero_is_noticed():
    torch.manual_seed(0)
    net = with_zero_biases(build("rescale", width=64, inputs=64))
    inputs = gaussian(0, 32, 64).float()
    assert largest_mean(net, inputs) > 0.1
    assert all(not m.bias.any() for m in net.modules() if isinstance(m, BiasBefore))
    torch.manual_seed(0)
    sabotaged_seen = trunks(lambda: with_zero_biases(made("rescale")()), seeds=3)
    assert not is_preserved(sabotaged_seen)


def test_after_the_first_batch_new_samples_leave_no_unit_dead_either():
    torch.manual_seed(0)
    net = build("rescale", width=64, inputs=64)
    net(gaussian(0, 64, 64).float())
    assert dead_units(net, gaussian(1, 4096, 64).float()) == 0


# --- row 15: the trunk of batch normalization grows linearly ------------------------------------


@pytest.mark.parametrize("branch_layers", [1, 2])
def test_relu_norm_weight_grows_by_one_per_block(branch_layers):
    # measured standard error over 5 seeds: 0.5 %
    seen = trunks(made("batchnorm", order="act-norm-weight", branch_layers=branch_layers), seeds=5)
    growth = (seen[..., 1] / seen[:, :1, 1]).mean(dim=0)
    for k in (1, 5, 10, 20):
        assert growth[k].item() == pytest.approx(k + 1, rel=0.05)


@pytest.mark.parametrize("branch_layers", [1, 2])
def test_norm_relu_weight_grows_by_one_but_its_channel_variance_by_less(branch_layers):
    seen = trunks(made("batchnorm", branch_layers=branch_layers), seeds=5)
    growth = (seen / seen[:, :1, :1]).mean(dim=0)
    for k in (5, 10, 20):
        assert growth[k, 0].item() == pytest.approx(k + 1, rel=0.05)
        assert growth[k, 1].item() == pytest.approx(1 + LOST * k, rel=0.05)


def test_no_other_network_grows_linearly():
    for name in ("plain", "rescale"):
        seen = trunks(made(name, order="act-norm-weight"), seeds=1)
        growth = seen[0, -1, 1] / seen[0, 0, 1]
        assert not 0.9 * (DEPTH + 1) < growth < 1.1 * (DEPTH + 1)


# --- rows 7 and 8: what it means for training ---------------------------------------------------


def trained(name, digits, learning_rate):
    torch.manual_seed(0)
    net = build(name, depth=30, width=64)
    plan = Plan(steps=150, learning_rate=learning_rate, schedule="constant")
    training = Training(net, digits, plan)
    rows = list(training.run())
    return training, rows[-1].accuracy


@pytest.mark.parametrize("name", ["rescale", "batchnorm"])
def test_thirty_blocks_train_when_they_are_rescaled_or_normalized(name, digits):
    # an accuracy of 0.96 on 360 digits has a standard error of 0.010
    training, accuracy = trained(name, digits, learning_rate=1e-2)
    assert not training.diverged
    assert accuracy >= 0.93


@pytest.mark.parametrize("learning_rate", [1e-5, 1e-4, 1e-3, 1e-2])
def test_thirty_plain_blocks_do_not(learning_rate, digits):
    training, accuracy = trained("plain", digits, learning_rate)
    # at 1e-5 the loss stays finite, but the network has learned next to nothing
    assert training.diverged or accuracy < 0.5
    assert training.diverged or learning_rate < 1e-3


def loss_along_gradient(name, digits, distances):
    """Return loss(θ - η grad) / loss(θ) for each η, on 512 digits in training mode."""
    torch.manual_seed(0)
    net = build(name, depth=30, width=64)
    inputs, targets = digits.train[0][:512], digits.train[1][:512]
    loss = nn.functional.cross_entropy(net(inputs), targets)
    loss.backward()
    ratios = []
    for distance in distances:
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for there, here in zip(moved.parameters(), net.parameters(), strict=True):
                there.sub_(distance * here.grad)
            ratios.append((nn.functional.cross_entropy(moved(inputs), targets) / loss).item())
    return ratios


def test_a_step_along_the_gradient_explodes_in_the_plain_network_only(digits):
    (plain,) = loss_along_gradient("plain", digits, [1e-3])
    assert math.isnan(plain) or plain > 1
    for name in ("batchnorm", "rescale"):
        assert all(ratio < 1 for ratio in loss_along_gradient(name, digits, [1e-3, 1e-2]))
