"""Which weights are scale invariant, and the laws of their motion, on walks of optimizers."""

import functools

import pytest
import torch
from instrument_cases import cross_entropy, labeled
from messages import refusal
from torch import nn

import sigprop
from sigprop import scale_invariance
from sigprop.errors import BadInput, UnknownName
from sigprop.inputs.devices import normal, seeded


def invariant(net, tolerance=0.01):
    with seeded(0):
        model = net()
    found = scale_invariance.find(model, cross_entropy, labeled(), tolerance)
    return dict(zip(found["name"], found["invariant"], strict=True))


def test_behind_batch_normalization_every_unit_is_invariant_and_behind_layer_norm_the_matrix():
    def net(norm):
        return lambda: nn.Sequential(
            nn.Linear(5, 6, bias=False), norm(6), nn.Tanh(), nn.Linear(6, 3)
        )

    batch = invariant(net(nn.BatchNorm1d))
    assert batch == {
        "0.weight": "unit", "1.weight": "", "1.bias": "", "3.weight": "", "3.bias": ""
    }  # fmt: skip
    layer = invariant(net(nn.LayerNorm))
    assert layer["0.weight"] == "tensor"
    assert set(layer.values()) == {"tensor", ""}
    assert set(invariant(net(nn.Identity)).values()) == {""}


def test_weight_normalization_and_relus():
    """Of v in g v/‖v‖ each row; not of a ReLU net, where f(2 w) = 2 f(w) is no invariance."""
    made = invariant(
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.ReLU(), nn.Linear(6, 3)
        )
    )
    assert [name for name, kind in made.items() if kind] == ["0.parametrizations.weight.original1"]


def test_a_parameter_without_gradient_is_not_invariant():
    made = invariant(lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)))
    assert made["0.weight"] == "unit"
    assert made["0.bias"] == ""  # batch normalization takes it away: its gradient is 0 or rounding


def test_a_tolerance_out_of_range():
    with refusal(BadInput, "tolerance is between 0 and 1, not 0"):
        invariant(lambda: nn.Linear(5, 3), tolerance=0)


class Sphere(nn.Module):
    """A loss <x, w/‖w‖> of random x: scale invariant, with isotropic gradients."""

    def __init__(self, size, invariant=True):
        super().__init__()
        self.w = nn.Parameter(normal((size,), 0).double() / size**0.5)
        self.invariant = invariant

    def forward(self, x):
        length = self.w.norm()
        return (x * self.w).sum() / (length if self.invariant else length.detach())


OPTIMIZERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.04, weight_decay=0.1),
    "momentum": lambda weights: torch.optim.SGD(weights, lr=0.02, weight_decay=0.1, momentum=0.9),
    "adamw": lambda weights: torch.optim.AdamW(
        weights, lr=0.04, weight_decay=0.1, betas=(0.9, 0.99)
    ),
    "free": lambda weights: torch.optim.SGD(weights, lr=0.04),
}


@functools.cache
def walk(kind, steps, invariant=True):
    """A recorded walk, cheap enough to be recorded by hand: the columns that the laws read."""
    import pandas as pd

    model = Sphere(200, invariant)
    optimizer = OPTIMIZERS[kind](model.parameters())
    x = normal((steps, 200), 1).double()
    rows = []
    for step in range(steps):
        optimizer.zero_grad()
        model(x[step]).backward()
        assert model.w.grad is not None
        before, g = model.w.detach().clone(), model.w.grad.clone()
        optimizer.step()
        after = model.w.detach()
        length, moved = float(before.norm()), float((after - before).norm())
        cosine = float(before @ after) / (length * float(after.norm()))
        angle = float(torch.acos(torch.tensor(min(1.0, cosine), dtype=torch.float64)))
        rows.append(
            {
                "step": step, "name": "w", "count": 200, "weight_norm": length,
                "grad_norm": float(g.norm()), "update_to_weight": moved / length,
                "angular_update": angle,
                "effective_lr": optimizer.param_groups[0]["lr"] / length**2,
            }
        )  # fmt: skip
    records = sigprop.Records()
    records.parameters = pd.DataFrame(rows)
    return records, optimizer


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("law", ["equilibrium-angle", "equilibrium-norm"])
def test_a_walk_with_decay_settles_where_theory_has_it(kind, law):
    records, optimizer = walk(kind, 1500)
    found = scale_invariance.verify_motion(records, optimizer, law, ["w"], 0.1)
    assert found.holds, found


def test_steps_without_decay_are_orthogonal():
    records, optimizer = walk("free", 100)
    for law in ("growth", "effective-rate"):
        assert scale_invariance.verify_motion(records, optimizer, law, ["w"], 0.001).holds


@pytest.mark.parametrize(
    ("kind", "steps", "invariant", "law"),
    [
        ("sgd", 1500, True, "growth"),  # weight decay
        ("momentum", 1500, True, "effective-rate"),  # momentum
        ("free", 100, False, "growth"),  # not scale invariant
    ],
    ids=range(3),
)
def test_saboteurs_of_each_law_are_found(kind, steps, invariant, law):
    records, optimizer = walk(kind, steps, invariant)
    found = scale_invariance.verify_motion(records, optimizer, law, ["w"], 0.1)
    assert found.verdict == "violated", found


@pytest.mark.parametrize("law", ["equilibrium-angle", "equilibrium-norm"])
def test_the_equilibrium_of_another_momentum_is_found(law):
    records, _ = walk("momentum", 1500)
    other = OPTIMIZERS["sgd"]([nn.Parameter(torch.ones(1))])
    other.param_groups[0]["lr"] = 0.02
    found = scale_invariance.verify_motion(records, other, law, ["w"], 0.1)
    assert found.verdict == "violated"


def test_a_probe_records_what_the_laws_read():
    with seeded(0):
        net = nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 3))
    net, batch = net.double(), labeled()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    with sigprop.attach(net, optimizer) as probe:
        for _ in range(25):
            optimizer.zero_grad()
            cross_entropy(net(batch[0]), batch[1]).backward()
            optimizer.step()
    for law in ("growth", "effective-rate"):
        made = scale_invariance.verify_motion(probe.records, optimizer, law, ["0.weight"], 0.01)
        assert made.holds, made
        bad = scale_invariance.verify_motion(probe.records, optimizer, law, ["2.weight"], 0.01)
        assert bad.verdict == "violated"


@pytest.mark.parametrize(
    ("names", "law", "error", "message"),
    [
        (["v"], "growth", BadInput, "no parameter 'v' was recorded; known: w"),
        ([], "growth", BadInput,
         "give at least one parameter's name; scale_invariance.find tells them"),
        (["w"], "growht", UnknownName,
         "no law of motion is called 'growht'; did you mean 'growth'?"),
        (["w"], "equilibrium-angle", BadInput,
         "an equilibrium needs a learning rate and weight decay above 0, got lr=0.04, "
         "weight_decay=0"),
    ],
    ids=range(4),
)  # fmt: skip
def test_what_cannot_be_judged(names, law, error, message):
    records, optimizer = walk("free", 100)
    with refusal(error, message):
        scale_invariance.verify_motion(records, optimizer, law, names)


def test_too_few_steps_and_steps_left_out():
    records, optimizer = walk("free", 100)
    with pytest.raises(BadInput, match="10 steps of 'w' are left after the first 90"):
        scale_invariance.verify_motion(records, optimizer, "growth", ["w"], discard=90)
    thinned = sigprop.Records()
    thinned.parameters = records.parameters[::2]
    with refusal(
        BadInput, "'w' was not recorded at every step of one training; attach with every=1"
    ):
        scale_invariance.verify_motion(thinned, optimizer, "growth", ["w"])


def test_an_optimizer_without_a_known_equilibrium():
    weights = [nn.Parameter(torch.ones(1))]
    optimizer = torch.optim.SGD(weights, lr=0.1, weight_decay=0.1, momentum=0.9, nesterov=True)
    with refusal(
        BadInput,
        "no equilibrium is known for SGD with these settings; there is one for SGD, SGD with plain "
        "momentum, and AdamW",
    ):
        scale_invariance.equilibrium(optimizer)
