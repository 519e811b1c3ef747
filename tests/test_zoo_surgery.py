"""Surgery on models of one's own: what it changes, what it says, and what it refuses."""

import copy
import math
from typing import Any

import pytest
import torch
from messages import refusal
from torch import nn
from torch.nn.utils import parametrize

import sigprop
from sigprop.networks import (
    Add,
    BiasBefore,
    Change,
    RescaledAdd,
    build,
    center_,
    coefficients,
    lsuv_,
    rescale_,
    standardize_,
)


class Block(nn.Module):
    """A block as anyone writes it, but for the addition that is a module."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular")
        self.add = Add()

    def forward(self, x):
        return self.add(x, self.conv(torch.relu(x)))


def model(blocks=3):
    torch.manual_seed(0)
    body = [Block(8) for _ in range(blocks)]
    return nn.Sequential(nn.Conv2d(2, 8, 1), *body, nn.Flatten(), nn.Linear(8 * 36, 4))


def batch(size=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 2, 6, 6, generator=generator) + 1


def flags(net):
    return [module.training for module in net.modules()]


# --- rescale_ -----------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [None, 2.5, "official"])
def test_rescale_gives_every_addition_its_coefficients(c):
    net = model()
    operands, outs = [], []
    changes = rescale_(net, c)
    assert [change.name for change in changes] == ["1.add", "2.add", "3.add"]
    value = {None: 3.0, "official": 2.0}.get(c, c)

    def keep(module, args, out):  # a hook that returned something would replace the output
        operands.append(args)
        outs.append(out)

    for block in net[1:4]:
        block.add.register_forward_hook(keep)
    net(batch())
    pairs = zip(*coefficients(3, value), strict=True)
    for (alpha, beta), (skip, branch), out in zip(pairs, operands, outs, strict=True):
        assert torch.allclose(out, alpha * skip + beta * branch, rtol=1e-6, atol=1e-6)
    assert all(isinstance(block.add.m, nn.Parameter) for block in net[1:4])
    assert str(changes[0]).startswith("1.add: alpha_1 = 0.")


def test_rescaled_additions_keep_their_ports_and_train():
    net = model()
    rescale_(net)
    rows = sigprop.measure(net, batch(), torch.arange(16) % 4, spectra=False).signals
    assert set(rows[rows["name"].str.fullmatch("[123]")]["port"]) >= {"skip", "branch"}
    net(batch()).sum().backward()
    assert all(block.add.m.grad is not None for block in net[1:4])
    assert not [n for n, _ in copy.deepcopy(net).named_parameters() if "alpha" in n]
    rescale_(bare := model(), multiplier=False)
    assert all(block.add.m is None for block in bare[1:4])


def test_rescaling_makes_a_plain_network_preserve():
    torch.manual_seed(0)
    net: Any = build("plain", depth=20, width=256, inputs=256)
    x = torch.randn(256, 256)

    def growth():
        with torch.no_grad():
            begin = net.stem(x)
            return (net.blocks(begin).square().mean() / begin.square().mean()).item()

    before = growth()
    rescale_(net)
    # one network of width 256 has a standard deviation of 0.03 (test_facts_networks); two layers
    assert growth() == pytest.approx(1, abs=0.2)
    assert before > 1e4


def test_rescale_keeps_precision_and_mode():
    net = model().double().eval()
    rescale_(net)
    assert net[1].add.m.dtype == torch.float64
    assert not net[1].add.training
    assert net(batch().double()).dtype == torch.float64


def test_rescale_refuses_what_it_cannot_find_or_did_already():
    with refusal(
        sigprop.BadInput,
        (
            "no residual addition can be found: additions written x + f(x) "
            "have no module; write them as sigprop.networks.Add()(x, f(x)) "
            "in the model's blocks"
        ),
    ):
        rescale_(nn.Sequential(nn.Linear(2, 2)))
    net = model()
    rescale_(net)
    with refusal(sigprop.BadInput, "the model's additions have coefficients already"):
        rescale_(net)
    shared = model()
    shared[2].add = shared[1].add
    with refusal(
        sigprop.BadInput,
        (
            "'2.add' and '1.add' are one module in two places; what suits "
            "one does not suit the other: give each its own"
        ),
    ):
        rescale_(shared)
    with refusal(
        sigprop.BadInput, "c must be a positive number, got 0; the paper's choice is the depth"
    ):
        rescale_(model(), c=0)


# --- standardize_ -------------------------------------------------------------------------------


def test_standardize_gives_convolutions_gamma_and_leaves_linears():
    net = model()
    changes = standardize_(net, "silu")
    assert [change.name for change in changes] == ["0", "1.conv", "2.conv", "3.conv"]
    for name in ("0", "1.conv"):
        rows = net.get_submodule(name).weight.flatten(1)
        assert rows.mean(1).abs().max() < 1e-6
        assert rows.square().sum(1).sqrt().tolist() == pytest.approx([1.787187] * 8, rel=1e-4)
    assert not parametrize.is_parametrized(net[5])
    assert len(standardize_(model(), linears=True)) == 5
    net(batch()).sum().backward()
    assert net[0].parametrizations.weight[0].gain.grad is not None


def test_standardize_refuses_what_has_no_variance_and_what_is_parametrized():
    with refusal(sigprop.BadInput, "the model has no Conv2d layer of its own"):
        standardize_(nn.Sequential(nn.Linear(2, 2)))
    with refusal(sigprop.BadInput, "'0' has one input per output: its variance is 0"):
        standardize_(nn.Sequential(nn.Conv2d(1, 4, 1)))
    with refusal(sigprop.BadInput, "no gain is known for 'rleu'; did you mean 'relu'?"):
        standardize_(model(), "rleu")
    net = model()
    standardize_(net)
    with refusal(sigprop.BadInput, "'0' is parametrized already; remove that first"):
        standardize_(net)
    with refusal(
        sigprop.BadInput, "the model is one Conv2d itself; wrap it in nn.Sequential first"
    ):
        standardize_(nn.Conv2d(2, 2, 3))


# --- center_ ------------------------------------------------------------------------------------


def inputs_of_weights(net, x):
    """Return what every convolution and linear layer reads."""
    seen = []
    handles = [
        m.register_forward_pre_hook(lambda m, args: seen.append((m, args[0])))
        for m in net.modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return [x.movedim(1, 0).flatten(1) for _, x in seen]


def test_center_takes_the_mean_in_front_of_every_weight():
    net = model()
    x = batch()
    assert max(v.mean(1).abs().max() for v in inputs_of_weights(net, x)) > 0.5
    net.train()
    changes = center_(net, x)
    assert [change.name for change in changes] == ["0", "1.conv", "2.conv", "3.conv", "5"]
    assert all(change.done for change in changes)
    assert str(changes[0]).startswith("0: bias of 2 in front, norm 1.")
    assert max(v.mean(1).abs().max() for v in inputs_of_weights(net, x)) < 1e-5
    assert all(flags(net))


def test_center_changes_biases_only():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    center_(net, torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(state, torch.get_rng_state())
    after = {
        k.replace("weight.weight", "weight").replace("weight.bias", "bias"): v
        for k, v in net.state_dict().items()
        if "bias.bias" not in k and "extra" not in k
    }
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_without_inputs_the_first_training_batch_centers():
    net = model()
    changes = center_(net)
    assert str(changes[0]) == "0: bias of 2 in front, waits for a first batch"
    x = batch()
    net.train()(x)
    assert max(v.mean(1).abs().max() for v in inputs_of_weights(net.eval(), x)) < 1e-5


def test_a_layer_that_the_pass_does_not_reach_is_reported():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    changes = center_(Unused(), torch.randn(4, 2))
    assert [change.done for change in changes] == [True, False]
    assert str(changes[1]).startswith("unused: unchanged, bias in front is 0")
    lsuv = lsuv_(Unused(), torch.randn(4, 2))
    assert str(lsuv[1]) == "unused: unchanged, never called"


BATCHES = [
    (
        torch.randn(1, 2, 6, 6),
        "the first batch has shape (1, 2, 6, 6); statistics need at least 2 samples",
    ),
    (
        torch.randn(0, 2, 6, 6),
        "the first batch has shape (0, 2, 6, 6); statistics need at least 2 samples",
    ),
    (torch.full((4, 2, 6, 6), math.nan), "the first batch holds NaN or infinity"),
    ([1, 2], "inputs must be one tensor, got list"),
]


@pytest.mark.parametrize("operation", [center_, lsuv_])
@pytest.mark.parametrize(("inputs", "message"), BATCHES)
def test_unusable_batches_are_refused_before_anything_changes(operation, inputs, message):
    net = model()
    before = str(net)
    with refusal(sigprop.BadInput, message):
        operation(net, inputs)
    assert str(net) == before
    assert not [m for m in net.modules() if isinstance(m, BiasBefore)]


@pytest.mark.parametrize(
    "operation", [lambda m: center_(m), lambda m: lsuv_(m, batch(4).flatten(1))]
)
def test_shared_lazy_and_parametrized_layers_are_refused(operation):
    linear = nn.Linear(72, 72)
    with refusal(
        sigprop.BadInput,
        (
            "'1' and '0' are one module in two places; what suits one does "
            "not suit the other: give each its own"
        ),
    ):
        operation(nn.Sequential(linear, linear))
    with refusal(sigprop.BadInput, "'0' is lazy: send one batch through the model first"):
        operation(nn.Sequential(nn.LazyLinear(3)))
    with refusal(sigprop.BadInput, "'0' is parametrized already; remove that first"):
        operation(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(72, 3))))
    with refusal(sigprop.BadInput, "the model has no Conv2d or Linear layer of its own"):
        operation(nn.Sequential(nn.ReLU()))


def test_the_projection_inside_attention_is_passed_over():
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert [change.name for change in center_(net)] == ["linear1", "linear2"]


# --- lsuv_ --------------------------------------------------------------------------------------


def output_variances(net, x):
    seen: dict[str, float] = {}
    handles = [
        m.register_forward_hook(
            lambda m, args, out, name=name: seen.__setitem__(name, out.var(correction=0).item())
        )
        for name, m in net.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        net.eval()(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("target", [1.0, 0.25])
def test_lsuv_gives_every_output_the_variance(target):
    net, x = model().train(), batch()
    changes = lsuv_(net, x, target)
    assert [change.name for change in changes] == ["0", "1.conv", "2.conv", "3.conv", "5"]
    assert all(flags(net))
    assert all(change.done for change in changes)
    assert list(output_variances(net, x).values()) == pytest.approx([target] * 5, rel=0.011)


def test_lsuv_reports_a_constant_output_and_says_what_it_multiplied():
    net: Any = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2))
    nn.init.zeros_(net[0].weight)
    before = net[1].weight.detach().clone()
    changes = lsuv_(net, torch.randn(8, 2))
    assert str(changes[0]) == "0: unchanged, its output has variance 0"
    assert str(changes[1]).startswith("1: unchanged, its bias alone has variance")
    assert torch.equal(net[1].weight, before)
    with refusal(sigprop.BadInput, "target must be above 0, got 0"):
        lsuv_(net, torch.randn(8, 2), target=0)


def test_lsuv_goes_in_the_order_of_execution():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    torch.manual_seed(0)
    net, x = Backwards(), torch.randn(32, 4)
    assert [change.name for change in lsuv_(net, x)] == ["first", "second"]
    assert list(output_variances(net, x).values()) == pytest.approx([1, 1], rel=0.011)


def test_a_change_is_readable():
    assert str(Change("a", "did this")) == "a: did this"
    assert repr(RescaledAdd(0.5, 0.25)) == "RescaledAdd(alpha=0.5, beta=0.25)"
