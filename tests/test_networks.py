import copy
import io
import itertools
import math
from typing import Any

import pytest
import torch
from messages import refusal
from scipy import integrate, stats
from torch import nn

from sigprop import networks
from sigprop.errors import BadInput, UnknownName
from sigprop.networks import (
    NETWORKS,
    Add,
    BiasBefore,
    Design,
    Multiplier,
    Recipe,
    ResidualBlock,
    Scale,
    build,
    coefficients,
)
from sigprop.networks.weights import initialize

ORDERS = ("norm-act-weight", "act-norm-weight", "weight-norm-act")
#: Families of the shared skeleton that take every order; the whole zoo has test_zoo_contract.py.
FAMILIES = ("plain", "batchnorm", "rescale")
CASES = list(itertools.product(FAMILIES, ("mlp", "resnet"), ORDERS))


def small(name, architecture="mlp", order=ORDERS[0], **options):
    torch.manual_seed(options.pop("seed", 0))
    options = {"depth": 3, "width": 6, "inputs": (2, 6, 6), "classes": 4, **options}
    return build(name, architecture=architecture, order=order, **options)


def batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 2, 6, 6, generator=generator), torch.tensor([0, 1, 2, 3, 0])


def layer_names(sequence):
    return [name.rstrip("0123456789") for name, _ in sequence.named_children()]


# --- the contract of every registered network --------------------------------------------------


@pytest.mark.parametrize(("name", "architecture", "order"), CASES)
class TestEveryNetwork:
    def test_gives_logits_and_finite_gradients_to_every_parameter(self, name, architecture, order):
        net = small(name, architecture, order)
        inputs, targets = batch()
        logits = net(inputs)
        assert logits.shape == (5, 4)
        nn.functional.cross_entropy(logits, targets).backward()
        for parameter_name, parameter in net.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name

    def test_is_determined_by_the_seed(self, name, architecture, order):
        inputs, _ = batch()
        first, again = (small(name, architecture, order)(inputs) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, small(name, architecture, order, seed=1)(inputs))

    def test_survives_a_state_dict_file(self, name, architecture, order):
        net, other = small(name, architecture, order), small(name, architecture, order, seed=1)
        inputs, _ = batch()
        net(inputs)
        file = io.BytesIO()
        torch.save(net.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        second, _ = batch(seed=2)
        # in training mode: a bias initialized anew from this batch would show
        assert torch.equal(net(second), other(second))

    def test_survives_deepcopy(self, name, architecture, order):
        net = small(name, architecture, order)
        inputs, _ = batch()
        fresh = copy.deepcopy(net)
        assert torch.equal(fresh(inputs), net(inputs))
        assert torch.equal(copy.deepcopy(net)(inputs), net(inputs))

    def test_has_one_block_per_depth_on_the_shared_skeleton(self, name, architecture, order):
        net = small(name, architecture, order, depth=4)
        assert isinstance(net.blocks, nn.Sequential)
        assert len(net.blocks) == 4
        for block in net.blocks:
            assert isinstance(block, ResidualBlock)
            assert block.add.ports == ("skip", "branch")

    def test_slots_stand_in_the_order_asked_for(self, name, architecture, order):
        block = small(name, architecture, order, branch_layers=2).blocks[0]
        slots = [s for s in layer_names(block.branch) if s in ("norm", "act", "weight")]
        used = [s for s in order.split("-") if name == "batchnorm" or s != "norm"]
        expected = used * 2
        if order == "weight-norm-act":
            expected = expected[:-1]
            assert isinstance(block.after, nn.ReLU)
        else:
            assert isinstance(block.after, nn.Identity)
        assert slots == expected

    def test_a_bias_before_stands_immediately_before_its_weight(self, name, architecture, order):
        options = {"stages": 2} if architecture == "resnet" else {}
        net = small(name, architecture, order, **options)
        sequences = [m for m in net.modules() if isinstance(m, nn.Sequential)]
        pairs = [p for s in sequences for p in itertools.pairwise([None, *s.children()])]
        weights = [b for _, b in pairs if isinstance(b, nn.Linear | nn.Conv2d)]
        centered = [b for a, b in pairs if isinstance(a, BiasBefore)]
        assert centered == (weights if name == "rescale" else [])
        if name == "rescale":
            assert all(weight.bias is None for weight in weights)

    def test_leaves_no_state_behind_when_it_runs_without_gradient(self, name, architecture, order):
        net = small(name, architecture, order).eval()
        before = copy.deepcopy(net.state_dict())
        with torch.no_grad():
            net(batch()[0])
        after = net.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("activation", ["relu", "identity", "tanh"])
@pytest.mark.parametrize("branch_layers", [1, 2, 3])
def test_every_network_takes_every_activation_and_branch(name, activation, branch_layers):
    net = small(name, activation=activation, branch_layers=branch_layers)
    linears = [m for m in net.blocks[0].branch if isinstance(m, nn.Linear)]
    assert len(linears) == branch_layers
    kinds = {"relu": nn.ReLU, "identity": nn.Identity, "tanh": nn.Tanh}
    assert sum(isinstance(m, kinds[activation]) for m in net.blocks[0].branch) == branch_layers
    assert torch.isfinite(net(batch()[0])).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_builds_at_many_depths(name):
    for depth in (1, 2, 17):
        assert len(small(name, depth=depth, width=4).blocks) == depth


@pytest.mark.parametrize("name", FAMILIES)
def test_pickles_whole(name):
    net = small(name)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    inputs, _ = batch()
    assert torch.equal(torch.load(file, weights_only=False)(inputs), net(inputs))


# --- stages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("order", ORDERS)
def test_stages_halve_the_image_and_double_the_width(name, order):
    net = small(name, "resnet", order, depth=5, stages=3, inputs=(2, 9, 6))
    x = torch.randn(4, 2, 9, 6)
    shapes = []
    x = net.stem(x)
    for block in net.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(6, 9, 6), (6, 9, 6), (12, 5, 3), (12, 5, 3), (24, 3, 2)]
    assert net.head(x).shape == (4, 4)


def test_the_shortcut_pools_then_projects_with_gain_one():
    torch.manual_seed(0)
    net: Any = build(
        "rescale", architecture="resnet", depth=2, stages=2, width=64, inputs=(2, 6, 6)
    )
    assert layer_names(net.blocks[1].skip) == ["pool", "bias", "weight", "scale"]
    weight = net.blocks[1].skip.weight.weight
    # the variance of M normal numbers is off by sqrt(2/M) in relative terms; 4 standard errors
    tolerance = 4 * math.sqrt(2 / weight.numel())
    assert weight.double().square().mean().item() * 64 == pytest.approx(1, rel=tolerance)


def test_only_the_post_activation_shortcut_of_batchnorm_is_normalized():
    kinds = {
        order: layer_names(small("batchnorm", "resnet", order, stages=2).blocks[2].skip)
        for order in ORDERS
    }
    assert kinds == {
        "norm-act-weight": ["pool", "weight"],
        "act-norm-weight": ["pool", "weight"],
        "weight-norm-act": ["pool", "weight", "norm"],
    }


# --- initialization ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (nn.Linear(48, 512), 48),
        (nn.Conv2d(16, 256, 3), 16 * 9),
        (nn.Conv2d(16, 256, 3, groups=4), 4 * 9),
    ],
)
def test_initialize_draws_normal_weights_of_the_asked_gain(layer, fan_in):
    torch.manual_seed(0)
    initialize(layer, gain=1.5)
    scaled = layer.weight.detach().double().flatten() * math.sqrt(fan_in) / 1.5
    count = len(scaled)
    assert scaled.mean().item() == pytest.approx(0, abs=4 / math.sqrt(count))
    assert scaled.var().item() == pytest.approx(1, rel=4 * math.sqrt(2 / count))
    assert stats.kstest(scaled.numpy(), "norm").pvalue > 1e-3
    assert not layer.bias.any()


def normal_expectation(function):
    density = stats.norm.pdf
    return integrate.quad(lambda z: function(z) * density(z), -12, 12, points=[0])[0]


@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", lambda z: max(z, 0.0)), ("identity", lambda z: z), ("tanh", math.tanh)],
)
def test_gains_are_what_quadrature_says(activation, function):
    mean = normal_expectation(function)
    second = normal_expectation(lambda z: function(z) ** 2)
    assert networks.he_gain(activation) == pytest.approx(second**-0.5, rel=1e-9)
    assert networks.centered_gain(activation) == pytest.approx((second - mean**2) ** -0.5, rel=1e-9)


def test_the_centered_relu_gain_is_the_closed_form():
    assert networks.centered_gain("relu") ** 2 == pytest.approx(2 / (1 - 1 / math.pi), rel=1e-14)


def test_an_unknown_gain_says_what_is_known():
    with refusal(BadInput, "no gain is known for 'rleu'; did you mean 'relu'?"):
        networks.he_gain("rleu")


def branch_gains(name, **options):
    torch.manual_seed(0)
    net: Any = build(name, depth=1, width=256, inputs=256, **options)
    weights = [m.weight for m in net.blocks[0].branch if isinstance(m, nn.Linear)]
    return [w.detach().double().square().mean().item() * 256 for w in weights]


@pytest.mark.parametrize(
    ("name", "options", "squared_gain"),
    [
        ("plain", {}, 2),
        ("plain", {"activation": "identity"}, 1),
        ("batchnorm", {}, 2),
        ("batchnorm", {"order": "act-norm-weight"}, 1),
        ("plain", {"order": "act-norm-weight"}, 2),
        ("rescale", {"reparametrize": False}, 2 / (1 - 1 / math.pi)),
        ("rescale", {"reparametrize": False, "gain": "he"}, 2),
        ("rescale", {"reparametrize": False, "bias": False}, 2),
        # c = L = k = 1: ((1 + 1)/1)^(-1/(2*2)) on the std
        ("rescale", {"gain": "he"}, 2 * 2**-0.5),
    ],
)
def test_each_family_has_its_gain(name, options, squared_gain):
    for measured in branch_gains(name, **options):
        assert measured == pytest.approx(squared_gain, rel=4 * math.sqrt(2 / 256**2))


# --- layers --------------------------------------------------------------------------------------


def test_add_scale_and_multiplier():
    x = torch.tensor([1.0, -2.0])
    assert torch.equal(Add()(x, 2 * x), 3 * x)
    assert torch.equal(Scale(0.25)(x), 0.25 * x)
    assert not list(Scale(0.25).parameters())
    assert repr(Scale(1 / 3)) == "Scale(factor=0.333333)"
    multiplier = Multiplier()
    assert multiplier.m.shape == (1,)
    assert torch.equal(multiplier(x), x)
    multiplier(x).sum().backward()
    assert multiplier.m.grad is not None
    assert multiplier.m.grad.item() == x.sum().item()


class TestBiasBefore:
    def test_is_minus_the_mean_of_the_first_batch_and_used_at_once(self):
        layer = BiasBefore(7)
        x = torch.randn(40, 7) + 3
        out = layer(x)
        # float32: the mean of 40 numbers of size 4 is right to about 4 * 2^-24 * 40^0.5
        assert torch.allclose(layer.bias, -x.mean(0), atol=2e-6)
        assert out.mean(0).abs().max() < 2e-6
        assert layer.bias.abs().min() > 1  # not zero: an alias of the bias would have left it there

    def test_images_have_channels_on_axis_one(self):
        layer = BiasBefore(3, dims=2)
        x = torch.randn(4, 3, 5, 6) + torch.arange(3.0).view(3, 1, 1)
        assert layer.bias.shape == (3, 1, 1)
        assert layer(x).mean(dim=(0, 2, 3)).abs().max() < 2e-6

    def test_sequences_have_channels_last(self):
        layer = BiasBefore(3)
        assert layer(torch.randn(4, 5, 3) + 2).mean(dim=(0, 1)).abs().max() < 2e-6

    def test_later_batches_do_not_change_it(self):
        layer = BiasBefore(2)
        layer(torch.randn(8, 2))
        bias = layer.bias.clone()
        layer(torch.randn(8, 2) + 5)
        assert torch.equal(layer.bias, bias)

    def test_evaluation_never_initializes(self):
        layer = BiasBefore(2).eval()
        x = torch.randn(8, 2) + 5
        assert torch.equal(layer(x), x)
        assert not layer.initialized
        assert layer.train()(x).mean().abs() < 1e-5

    def test_one_sample_is_enough_in_evaluation(self):
        layer = BiasBefore(2)
        layer(torch.randn(8, 2))
        assert layer.eval()(torch.randn(1, 2)).shape == (1, 2)

    def test_gradient_reaches_bias_and_input(self):
        layer = BiasBefore(2)
        x = torch.randn(3, 2, requires_grad=True)
        layer(x).sum().backward()
        assert layer.bias.grad is not None
        assert x.grad is not None
        assert torch.equal(layer.bias.grad, torch.full((2,), 3.0))
        assert torch.equal(x.grad, torch.ones(3, 2))

    def test_the_optimizer_still_owns_the_parameter(self):
        layer = BiasBefore(2)
        optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
        layer(torch.randn(4, 2)).sum().backward()
        before = layer.bias.detach().clone()
        optimizer.step()
        assert torch.equal(layer.bias, before - 4)

    @pytest.mark.parametrize("initialize_first", [False, True])
    def test_the_flag_is_part_of_the_state(self, initialize_first):
        layer, other = BiasBefore(2), BiasBefore(2)
        if initialize_first:
            layer(torch.randn(4, 2))
        other(torch.randn(4, 2) + 1)
        other.load_state_dict(layer.state_dict())
        assert other.initialized is initialize_first
        assert torch.equal(other.bias, layer.bias)
        assert isinstance(layer.get_extra_state(), torch.Tensor)

    def test_deepcopies_are_independent(self):
        layer = BiasBefore(2)
        other = copy.deepcopy(layer)
        layer(torch.randn(4, 2) + 1)
        assert not other.initialized
        assert not other.bias.any()
        assert copy.deepcopy(layer).initialized

    def test_reset_waits_for_a_first_batch_again(self):
        layer = BiasBefore(2)
        layer(torch.randn(4, 2) + 1)
        layer.reset_parameters()
        assert not layer.initialized
        assert not layer.bias.any()

    def test_works_under_compile(self):
        layer = BiasBefore(2)
        compiled = torch.compile(layer, backend="eager")
        x = torch.randn(6, 2) + 4
        assert compiled(x).mean(0).abs().max() < 1e-5
        bias = layer.bias.clone()
        later = torch.randn(6, 2)
        assert torch.equal(compiled(later), later + bias)

    def test_half_precision_inputs_are_averaged_in_the_precision_of_the_bias(self):
        layer = BiasBefore(1)
        x = torch.full((4096, 1), 1.0, dtype=torch.bfloat16)
        x[0] = 3.0
        layer(x)
        assert layer.bias.item() == pytest.approx(-(1 + 2 / 4096), abs=1e-6)

    @pytest.mark.parametrize(
        ("x", "dims", "message"),
        [
            (torch.zeros(0, 2), 0, "the first training batch is empty (shape (0, 2))"),
            (
                torch.zeros(1, 2),
                0,
                (
                    "the first training batch has one value per channel (shape (1, "
                    "2)), which is its own mean and has no variance: start with a "
                    "batch of at least 2 samples"
                ),
            ),
            (
                torch.zeros(1, 2, 1, 1),
                2,
                (
                    "the first training batch has one value per channel (shape (1, "
                    "2, 1, 1)), which is its own mean and has no variance: start "
                    "with a batch of at least 2 samples"
                ),
            ),
            (
                torch.tensor([[1.0, math.nan], [1.0, 1.0]]),
                0,
                (
                    "the first training batch holds NaN or infinity (shape (2, 2));"
                    " BiasBefore(2, dims=0) cannot be initialized from it"
                ),
            ),
            (
                torch.tensor([[1.0, math.inf], [1.0, 1.0]]),
                0,
                (
                    "the first training batch holds NaN or infinity (shape (2, 2));"
                    " BiasBefore(2, dims=0) cannot be initialized from it"
                ),
            ),
            (
                torch.zeros(4, 3),
                0,
                "BiasBefore(2, dims=0) needs 2 channels on axis -1, got a batch of shape (4, 3)",
            ),
            (
                torch.zeros(4, 3, 2, 2),
                2,
                "BiasBefore(2, dims=2) needs 2 channels on axis -3, "
                "got a batch of shape (4, 3, 2, 2)",
            ),
            (
                torch.zeros(4, 2),
                2,
                "BiasBefore(2, dims=2) needs 2 channels on axis -3, got a batch of shape (4, 2)",
            ),
        ],
    )
    def test_an_unusable_first_batch_is_refused_and_leaves_it_unset(self, x, dims, message):
        layer = BiasBefore(2, dims)
        with refusal(BadInput, message):
            layer(x)
        assert not layer.initialized
        assert not layer.bias.any()

    def test_one_image_has_many_values_per_channel(self):
        assert BiasBefore(2, dims=2)(torch.randn(1, 2, 4, 4)).shape == (1, 2, 4, 4)


# --- rescale -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "c"), [(1, 1), (3, 3), (20, 20), (50, 0.5), (100, 7)])
def test_coefficients_obey_the_algebra(depth, c):
    alphas, betas = coefficients(depth, c)
    assert len(alphas) == len(betas) == depth
    for alpha, beta in zip(alphas, betas, strict=True):
        assert alpha**2 + beta**2 == pytest.approx(1, abs=1e-12)
    assert math.prod(alphas) == pytest.approx(math.sqrt(c / (depth + c)), abs=1e-12)
    for k, beta in enumerate(betas):
        share = beta * math.prod(alphas[k + 1 :])
        assert share == pytest.approx(1 / math.sqrt(depth + c), abs=1e-12)


def operands(net, inputs):
    seen = []
    for block in net.blocks:
        block.add.register_forward_hook(lambda m, args, out: seen.append((*args, out)))
    net(inputs)
    return seen


@pytest.mark.parametrize("reparametrize", [True, False])
def test_the_addition_sees_the_two_scaled_operands(reparametrize):
    net = small("rescale", depth=5, reparametrize=reparametrize)
    with torch.no_grad():
        for block in net.blocks:
            block.branch.multiplier.m.fill_(1.5)
    inputs, _ = batch()
    alphas, betas = coefficients(5, 5)
    x = net.stem(inputs)
    for k, (skip, branch, out) in enumerate(operands(net, inputs)):
        block = net.blocks[k]
        function = block.branch[: list(dict(block.branch.named_children())).index("scale")]
        coefficient = 5**-0.5 if reparametrize else betas[k]
        assert torch.allclose(skip, alphas[k] * x, rtol=1e-6)
        assert torch.allclose(branch, 1.5 * coefficient * function(x), rtol=1e-5, atol=1e-6)
        assert torch.equal(out, skip + branch)
        x = out


@pytest.mark.parametrize("branch_layers", [1, 2, 3])
@pytest.mark.parametrize("architecture", ["mlp", "resnet"])
@pytest.mark.parametrize("order", ORDERS)
def test_both_forms_are_one_function_at_initialization(branch_layers, architecture, order):
    inputs, _ = batch()
    forms = [
        small(
            "rescale",
            architecture,
            order,
            depth=6,
            branch_layers=branch_layers,
            reparametrize=reparametrize,
        ).double()(inputs.double())
        for reparametrize in (True, False)
    ]
    # weights are drawn in float32 and scaled by std, so that each carries a rounding of 2^-24
    assert torch.allclose(forms[0], forms[1], rtol=1e-5, atol=1e-5)


def test_but_their_gradients_differ_by_the_factor_on_the_weights():
    inputs, targets = batch()
    weights, gradients = [], []
    for reparametrize in (True, False):
        net = small("rescale", depth=6, branch_layers=2, reparametrize=reparametrize)
        nn.functional.cross_entropy(net(inputs), targets).backward()
        weights.append([b.branch.weight1.weight for b in net.blocks])
        gradients.append([b.branch.weight1.weight.grad for b in net.blocks])
    for k in range(6):
        factor = ((k + 1 + 6) / 6) ** (-1 / 4)
        assert torch.allclose(weights[0][k], factor * weights[1][k], rtol=1e-5)
        assert torch.allclose(gradients[0][k], gradients[1][k] / factor, rtol=1e-3, atol=1e-6)


def test_the_wrong_exponent_is_another_function():
    # saboteur: the exponent 1/6, which only suits three weights, in a branch of two
    inputs, _ = batch()
    design = Design(depth=6, width=6, inputs=(2, 6, 6), classes=4)
    alphas, _ = coefficients(6, 6)
    wrong = Recipe(
        gain=networks.centered_gain,
        before_weight=BiasBefore,
        alpha=lambda k: alphas[k - 1],
        beta=lambda k: 6**-0.5,
        weight_scale=lambda k: ((k + 6) / 6) ** (-1 / 6),
        multiplier=lambda channels, dims: Multiplier(),
    )
    torch.manual_seed(0)
    sabotaged = networks.ResidualNet(design, wrong)(inputs)
    assert not torch.allclose(sabotaged, small("rescale", depth=6)(inputs), rtol=1e-3, atol=1e-3)


def test_tanh_takes_the_form_that_is_exact():
    default = small("rescale", activation="tanh")(batch()[0])
    plain_form = small("rescale", activation="tanh", reparametrize=False)(batch()[0])
    assert torch.equal(default, plain_form)
    with refusal(
        BadInput,
        (
            "reparametrize=True moves factors through the activation, which"
            " 'tanh' does not allow with more than one weight per branch; "
            "use reparametrize=False"
        ),
    ):
        small("rescale", activation="tanh", reparametrize=True)
    small("rescale", activation="tanh", reparametrize=True, branch_layers=1)


def test_options_of_rescale():
    without = small("rescale", multiplier="none", bias=False)
    kinds = {type(module) for module in without.modules()}
    assert not kinds & {Multiplier, BiasBefore}
    assert all("bias" not in name for name, _ in without.named_parameters())
    assert small("rescale", c=3).blocks[0].skip.scale.factor == pytest.approx(math.sqrt(3 / 4))


# --- the catalogue -------------------------------------------------------------------------------


def test_names_and_options():
    assert networks.names()[:3] == ["plain", "feedforward", "batchnorm"]
    assert dict(networks.options("plain")) == {}
    assert list(networks.options("rescale")) == [
        "c",
        "multiplier",
        "reparametrize",
        "bias",
        "bias_batches",
        "gain",
        "backbone",
        "drop",
        "drop_head",
    ]


def test_a_network_of_ones_own(monkeypatch):
    monkeypatch.setattr(NETWORKS, "_entries", dict(NETWORKS._entries))

    @networks.register("mine")
    def mine(design: Design, slope: float = 1.0) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(72, design.classes), Scale(slope))

    assert "mine" in networks.names()
    assert small("mine", slope=2.0)[2].factor == 2
    with refusal(
        BadInput,
        "network 'mine' has no option 'slop' (its own options: slope); did you mean 'slope'?",
    ):
        small("mine", slop=2.0)
    with refusal(BadInput, "a network called 'mine' exists already; choose another name"):
        networks.register("mine")(mine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth must be a whole number of at least 1, got 0"),
        ({"depth": 2.5}, "depth must be a whole number of at least 1, got 2.5"),
        ({"depth": True}, "depth must be a whole number of at least 1, got True"),
        ({"width": 0}, "width must be a whole number of at least 1, got 0"),
        ({"classes": -1}, "classes must be a whole number of at least 1, got -1"),
        ({"branch_layers": 0}, "branch_layers must be a whole number of at least 1, got 0"),
        ({"stages": 0}, "stages must be a whole number of at least 1, got 0"),
        ({"inputs": (1, 0)}, "every size in inputs must be a whole number of at least 1, got 0"),
        ({"inputs": ()}, "inputs is empty; give the shape of one sample, such as (1, 8, 8)"),
        (
            {"order": "act-weight-norm"},
            (
                "no order is called 'act-weight-norm'; did you mean "
                "'weight-norm-act' or 'norm-act-weight' or 'act-norm-weight'?"
            ),
        ),
        ({"architecture": "mpl"}, "no architecture is called 'mpl'; did you mean 'mlp'?"),
        ({"activation": "rlu"}, "no activation is called 'rlu'; did you mean 'relu' or 'elu'?"),
        ({"padding": "zero"}, "no padding is called 'zero'; did you mean 'zeros'?"),
        ({"stages": 2}, "stages=2 needs architecture='resnet'; an MLP has one stage"),
        (
            {"architecture": "resnet", "inputs": 64},
            (
                "a resnet needs inputs=(channels, height, width), got (64,); "
                "use architecture='mlp' for flat inputs"
            ),
        ),
        (
            {"architecture": "resnet", "stages": 4},
            "stages=4 needs at least as many blocks, got depth=3",
        ),
        (
            {"architecture": "resnet", "depth": 9, "stages": 5},
            "an image of 6x6 is too small for stages=5, each of which halves it; use at most 4",
        ),
        ({"c": 0}, "c must be a positive number, got 0; the paper's choice is the depth"),
        ({"c": math.inf}, "c must be a positive number, got inf; the paper's choice is the depth"),
        ({"gain": "preserve"}, "no gain is called 'preserve'; did you mean 'preserving'?"),
        (
            {"multiplyer": True},
            (
                "network 'rescale' has no option 'multiplyer' (its own options:"
                " c, multiplier, reparametrize, bias, bias_batches, gain, "
                "backbone, drop, drop_head); did you mean 'multiplier'?"
            ),
        ),
        (
            {"dept": 3},
            (
                "network 'rescale' has no option 'dept' (its own options: c, "
                "multiplier, reparametrize, bias, bias_batches, gain, backbone, drop, "
                "drop_head); did you mean 'depth'?"
            ),
        ),
    ],
)
def test_bad_options_are_named(options, message):
    with refusal(BadInput, message):
        small("rescale", **options)


def test_too_small_is_decided_by_the_last_size_that_is_halved():
    # 6 -> 3 -> 2 -> 1: three halvings, as strided convolutions with padding round up
    net = small("plain", "resnet", depth=4, stages=4)
    assert net.blocks(net.stem(batch()[0])).shape == (5, 48, 1, 1)


def test_unknown_networks_and_options_without_choice():
    with refusal(
        UnknownName, "no network is called 'rescal'; did you mean 'rescale' or 'layerscale'?"
    ):
        build("rescal")
    with refusal(
        BadInput,
        (
            "network 'plain' has no option 'c' (it has none of its own); "
            "known: activation, architecture, block, bottleneck, "
            "branch_layers, classes, depth, groups, heads, inputs, order, "
            "padding, skip, stages, width"
        ),
    ):
        build("plain", c=3)
    with refusal(BadInput, "depth must be at least 1, got 0"):
        coefficients(0, 1)


def test_defaults_build_the_documented_network():
    torch.manual_seed(0)
    net: Any = build("rescale")
    assert len(net.blocks) == 20
    assert net.stem.weight.weight.shape == (64, 64)
    assert build("plain", inputs=12, depth=1)(torch.randn(3, 12)).shape == (3, 10)


@pytest.mark.parametrize(
    ("name", "only"), [("nfnet", "resnet"), ("vgg", "resnet"), ("t-fixup", "transformer")]
)
def test_a_network_of_one_architecture_has_it_whatever_is_asked_for(name: str, only: str) -> None:
    assert {
        networks.resolve(name, **given)["architecture"] for given in ({}, {"architecture": "mlp"})
    } == {only}
    design: dict[str, Any] = {"depth": 2, "width": 8, "inputs": (1, 8, 8)}
    if only == "resnet":
        design |= {"stages": 2}
    out = build(name, architecture="mlp", **design)(torch.randn(2, 1, 8, 8))
    assert out.shape == (2, 10)
