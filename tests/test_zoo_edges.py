"""The zoo and its surgery at the edges: small images, first blocks, exact constants, exceptions."""

import math
from typing import Any

import pytest
import torch
from messages import refusal
from torch import nn

from sigprop.errors import BadInput
from sigprop.networks import build, center_, gains, lsuv_
from sigprop.networks.gains import gaussian_moments


def widths(net: nn.Module) -> list[int]:
    return [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]


def test_vgg_doubles_its_width_up_to_eight_times_the_first() -> None:
    net = build("vgg", plan="vgg13", width=4, inputs=(3, 32, 32))
    assert widths(net) == [4, 4, 8, 8, 16, 16, 32, 32, 32, 32]


@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_vgg_pools_no_further_than_one_pixel(side: int) -> None:
    net = build("vgg", plan="vgg11", width=2, inputs=(1, side, side))
    pools = [m for m in net.modules() if isinstance(m, nn.MaxPool2d)]
    assert len(pools) == math.log2(side)
    assert net(torch.randn(3, 1, side, side)).shape == (3, 10)


def test_an_nfnet_strides_where_a_stage_begins_but_not_the_first() -> None:
    net: Any = build("nfnet", architecture="resnet", depth=4, stages=2, width=8, inputs=(2, 8, 8))
    strides = [block.branch.weight2.stride for block in net.blocks]
    assert strides == [(1, 1), (1, 1), (2, 2), (1, 1)]
    with torch.no_grad():
        x = net.stem(torch.randn(2, 2, 8, 8))
        assert net.blocks[0](x).shape[2:] == (8, 8)
        assert net.blocks(x).shape[2:] == (4, 4)


def test_weight_normalization_without_data_starts_as_the_network_of_its_directions() -> None:
    torch.manual_seed(0)
    net: Any = build("weightnorm", data_dependent=False, depth=1, width=256, inputs=256)
    layer, affine = net.blocks[0].branch.weight1, net.blocks[0].branch.after1
    rows = (affine.gain.view(-1, 1) * layer.weight).norm(dim=1)
    # N(0, 0.05²) entries: a row of 256 has norm 0.05·16 on average
    assert rows.mean().item() == pytest.approx(0.05 * 16, rel=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "erf", "softsign", "identity"])
def test_an_odd_activation_has_a_mean_of_exactly_zero(activation: str) -> None:
    assert gaussian_moments(activation)[0] == 0.0


class Fragile(nn.Module):
    """Raises from its second call on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.calls = nn.Linear(3, 3), nn.Linear(3, 3), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("a second call")
        return self.second(self.first(x))


def test_lsuv_cleans_up_after_a_model_that_raises() -> None:
    model = Fragile().train()
    model.first.eval()
    with refusal(RuntimeError, "a second call"):
        lsuv_(model, torch.randn(4, 3))
    assert not any(module._forward_hooks for module in model.modules())
    assert [m.training for m in model.modules()] == [True, False, True]


def test_center_restores_modes_after_a_model_that_raises() -> None:
    model = Fragile().train()
    model.second.eval()
    model.calls = 1
    with refusal(RuntimeError, "a second call"):
        center_(model, torch.randn(4, 3))
    both = model.first, model.second
    assert [m.training for pair in both for m in pair.modules()] == [True] * 3 + [False] * 3


def test_a_center_is_refused_where_nothing_has_weights() -> None:
    with refusal(BadInput, "the model has no Conv2d or Linear layer of its own"):
        center_(nn.Sequential(nn.ReLU()))


def test_an_nf_resnet_strides_its_shortcut_instead_of_pooling() -> None:
    net: Any = build("nf-resnet", architecture="resnet", depth=4, stages=2, width=8)
    names = [[name for name, _ in block.skip.named_children()] for block in net.blocks]
    assert names == [["scale1", "act1", "weight"], [], ["scale1", "act1", "weight"], []]
    assert [net.blocks[k].skip.weight.stride for k in (0, 2)] == [(1, 1), (2, 2)]


def test_a_gain_that_needs_a_gradient_is_found_without_one() -> None:
    expected = gains.jacobian_gain("silu")
    gains._slope_moment.cache_clear()
    with torch.no_grad():
        assert gains.jacobian_gain("silu") == expected
