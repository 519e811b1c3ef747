"""Adaptive gradient clipping: unit by unit, in the place and by the norms of DeepMind's code."""

import copy
import math

import pytest
import torch
from messages import refusal
from torch import nn

import sigprop
from sigprop.networks import AGC, build, clip_adaptively, unit_norms


def parameter(weight, gradient):
    made = nn.Parameter(torch.as_tensor(weight, dtype=torch.float64))
    made.grad = torch.as_tensor(gradient, dtype=torch.float64)
    return made


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double()


def with_gradients(net, scale=100.0):
    generator = torch.Generator().manual_seed(1)
    for p in net.parameters():
        p.grad = scale * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return net


def ratios(p):
    """Return ‖G_i‖/max(‖W_i‖, 1e-3) by plain loops over output units."""
    if p.dim() < 2:
        return [p.grad.norm().item() / max(p.detach().norm().item(), 1e-3)]
    return [
        math.sqrt(sum(g * g for g in grad.flatten().tolist()))
        / max(math.sqrt(sum(w * w for w in weight.flatten().tolist())), 1e-3)
        for weight, grad in zip(p.detach(), p.grad, strict=True)
    ]


@pytest.mark.parametrize(
    ("shape", "units"),
    [((), 1), ((5,), 1), ((3, 4), 3), ((3, 4, 2, 2), 3), ((6, 1, 1, 1), 1), ((1, 7), 1)],
)
def test_a_unit_is_an_output_and_a_gain_is_one_unit(shape, units):
    x = torch.randn(shape, dtype=torch.float64)
    norms = unit_norms(x)
    assert norms.numel() == units
    assert torch.broadcast_shapes(norms.shape, x.shape) == x.shape
    assert norms.square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-12)


def test_clipped_units_have_exactly_the_ratio_and_others_are_untouched():
    net = with_gradients(model())
    kernel = net[0].weight
    kernel.grad[1] *= 1e-6  # below the bound
    before = kernel.grad.clone()
    clip_adaptively(net.parameters(), clipping=0.02)
    found = ratios(kernel)
    assert [found[i] for i in (0, 2, 3)] == pytest.approx([0.02] * 3, rel=1e-6)
    assert torch.equal(kernel.grad[1], before[1])
    for i in (0, 2, 3):  # the direction stays
        cosine = (kernel.grad[i] * before[i]).sum() / (kernel.grad[i].norm() * before[i].norm())
        assert cosine.item() == pytest.approx(1, rel=1e-12)


def test_a_weight_at_zero_moves_by_eps():
    p = parameter([[0.0, 0.0], [3.0, 4.0]], [[3.0, 4.0], [3.0, 4.0]])
    clip_adaptively([p], clipping=0.01, eps=1e-3)
    assert p.grad.norm(dim=1).tolist() == pytest.approx([1e-5, 0.05], rel=1e-12)


def test_a_gradient_of_zero_or_none_stays():
    p, without = parameter([[1.0]], [[0.0]]), nn.Parameter(torch.ones(2))
    clip_adaptively([p, without])
    assert p.grad.item() == 0
    assert without.grad is None


def test_the_formula_of_the_summary_is_another():
    # it scales by λ ‖W‖/‖G‖ whatever the norms: a small gradient would grow (errata, S5)
    p = parameter([[3.0, 4.0]], [[0.003, 0.004]])
    clip_adaptively([p], clipping=0.01)
    assert p.grad.norm().item() == pytest.approx(0.005)


def test_the_head_is_left_out_and_said_to_be():
    net = with_gradients(model())
    head = net[3].weight.grad.clone()
    optimizer = AGC(torch.optim.SGD(net.parameters(), lr=0.0), clipping=0.01, exclude=net[3])
    optimizer.step()
    assert torch.equal(net[3].weight.grad, head)
    assert max(ratios(net[0].weight)) == pytest.approx(0.01, rel=1e-6)
    listed = AGC(torch.optim.SGD(net.parameters(), lr=0.0), exclude=list(net[3].parameters()))
    listed.step()
    assert torch.equal(net[3].weight.grad, head)


def test_clipping_comes_before_momentum_and_weight_decay():
    by_hand, wrapped = with_gradients(model()), with_gradients(model())
    plain, clipped = (
        torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        for net in (by_hand, wrapped)
    )
    agc = AGC(clipped, clipping=0.05)
    for _ in range(3):
        clip_adaptively(by_hand.parameters(), clipping=0.05)
        plain.step()
        agc.step()
        with_gradients(by_hand, 3.0)
        with_gradients(wrapped, 3.0)
    for a, b in zip(by_hand.parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_state_is_that_of_the_optimizer_that_steps():
    net = with_gradients(model())
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    agc = AGC(base)
    agc.step()
    assert agc.param_groups is base.param_groups
    assert agc.state is base.state
    saved = copy.deepcopy(agc.state_dict())
    other_net = with_gradients(copy.deepcopy(net))
    other = AGC(torch.optim.SGD(other_net.parameters(), lr=0.5, momentum=0.0))
    other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.1
    with_gradients(net)
    agc.step()
    other.step()
    for a, b in zip(net.parameters(), other_net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_schedules_closures_and_new_groups_work():
    net = model()
    agc = AGC(torch.optim.SGD(net[0].parameters(), lr=1.0))
    schedule = torch.optim.lr_scheduler.StepLR(agc, step_size=1, gamma=0.5)
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)

    def closure():
        agc.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    assert torch.as_tensor(agc.step(closure)).item() > 0
    schedule.step()
    assert agc.optimizer.param_groups[0]["lr"] == 0.5
    agc.add_param_group({"params": list(net[3].parameters())})
    assert len(agc.optimizer.param_groups) == len(agc.param_groups) == 2


def test_a_probe_sees_the_steps_of_the_wrapper():
    net = build("nfnet", depth=2, width=4, inputs=(1, 8, 8))
    agc = AGC(torch.optim.SGD(net.parameters(), lr=0.1), exclude=net.head)
    with sigprop.attach(net, agc) as probe:
        for _ in range(2):
            agc.zero_grad()
            nn.functional.cross_entropy(net(torch.randn(8, 1, 8, 8)), torch.arange(8)).backward()
            agc.step()
    assert sorted(probe.records.signals["step"].unique()) == [0, 1]


def test_it_keeps_an_nfnet_from_diverging():
    torch.manual_seed(0)
    x, y = torch.randn(32, 1, 8, 8), torch.arange(32) % 10

    def last_loss(clip):
        torch.manual_seed(0)
        net = build("nfnet", depth=4, width=16, skip_gain=1.0, stochastic_depth=0.0)
        optimizer: torch.optim.Optimizer
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9)
        if clip:
            optimizer = AGC(optimizer, exclude=net.head)
        for _ in range(15):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
        return loss.item()

    assert last_loss(clip=True) < 3
    assert not last_loss(clip=False) < 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clipping": 0}, "clipping must be above 0, got 0"),
        ({"clipping": -1.0}, "clipping must be at least 0 and finite, got -1.0"),
        ({"eps": math.inf}, "eps must be at least 0 and finite, got inf"),
        ({"exclude": nn.Linear(2, 2)}, "exclude has a parameter that the optimizer does not have"),
    ],
)
def test_bad_options(options, message):
    with refusal(sigprop.BadInput, message):
        AGC(torch.optim.SGD(model().parameters(), lr=0.1), **options)


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with refusal(
        sigprop.BadInput, "adaptive clipping needs dense gradients; leave sparse embeddings out"
    ):
        clip_adaptively(embedding.parameters())
