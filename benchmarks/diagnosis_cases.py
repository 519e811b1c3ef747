"""Networks with one fault each, and healthy ones, on which `sigprop.diagnose` is judged.

A case of `BROKEN` must have the finding it names, at the block it names; a family of `HEALTHY` must
have no error and no warning. Each returns records and the model they are of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import sigprop

WIDTH, DEPTH, SAMPLES = 64, 20, 128

Recorded = tuple[sigprop.Records, nn.Module]
Make = Callable[[int], Recorded]
#: Number of a layer -> what is done to its output.
Change = Mapping[int, Callable[[Tensor], Tensor]]


class Block(nn.Module):
    """``x + scale * f(x)``, f of two layers, with or without a norm in front."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.Identity, scale: float = 1.0) -> None:
        super().__init__()
        self.norm, self.scale = norm(WIDTH), scale
        self.first, self.second = he(nn.Linear(WIDTH, WIDTH)), he(nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(torch.relu(self.norm(x))))
        return x + self.scale * self.second(hidden)


class Wired(nn.Module):
    """Layers in sequence, one of which is replaced or followed by something else."""

    def __init__(self, layers: Sequence[nn.Module], change: Change) -> None:
        super().__init__()
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.layers, self.change = nn.ModuleList(layers), dict(change)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.change:
                x = self.change[number](x)
        return self.head(x)


class Failing(nn.Module):
    """A layer that takes the logarithm of what may be negative."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = he(nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).log()


def he(layer: nn.Linear, gain: float = 1.0) -> nn.Linear:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.mul_(gain)
    return layer


def layer(gain: float | None = 1.0, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """One affine layer and its activation; PyTorch's own weights where the gain is None."""
    linear = nn.Linear(WIDTH, WIDTH)
    return nn.Sequential(linear if gain is None else he(linear, gain), activation())


def layers(depth: int = DEPTH, gain: float | None = 1.0, **special: nn.Module) -> list[nn.Module]:
    made = [layer(gain) for _ in range(depth)]
    for number, module in special.items():
        made[int(number.removeprefix("at"))] = module
    return made


def measured(build: Callable[[], nn.Module], seed: int, samples: int = SAMPLES) -> Recorded:
    torch.manual_seed(seed)
    model, inputs = build(), torch.randn(samples, WIDTH)
    return sigprop.measure(model, inputs, torch.arange(samples) % 10, seeds=[seed]), model


def trained(
    build: Callable[[], nn.Module],
    seed: int,
    lr: float = 0.01,
    steps: int = 4,
    make_optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    samples: int = SAMPLES,
    before: Callable[[nn.Module, int], None] | None = None,
    held: Callable[[nn.Module], Any] = nn.Module.parameters,
) -> Recorded:
    torch.manual_seed(seed)
    model = build()
    optimizer = make_optimizer(held(model), lr=lr)
    with sigprop.attach(model, optimizer, seed=seed) as probe:
        for step in range(steps):
            if before is not None:
                before(model, step)
            inputs = torch.randn(samples, WIDTH)
            loss = nn.functional.cross_entropy(model(inputs), torch.arange(samples) % 10)
            optimizer.zero_grad()
            loss.backward()
            probe.log(loss=loss.item())
            optimizer.step()
    return probe.records, model


def wired(change: Change | None = None, **how: Any) -> nn.Module:
    return Wired(layers(**how), change or {})


def without_biases() -> nn.Module:
    parts = [nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU()) for _ in range(DEPTH)]
    return Wired(parts, {})


def zero_layer() -> nn.Module:
    return wired(at9=layer(0.0))


def large_layer() -> nn.Module:
    return wired(at7=layer(100.0))


def small_layer() -> nn.Module:
    return wired(at7=layer(0.01))


def failing() -> nn.Module:
    return wired(at6=Failing())


def detached() -> nn.Module:
    return wired({5: Tensor.detach})


def residual(depth: int = DEPTH, **how: Any) -> nn.Module:
    return Wired([Block(**how) for _ in range(depth)], {})


def batchnorm_layers(depth: int = DEPTH) -> nn.Module:
    parts = [
        nn.Sequential(he(nn.Linear(WIDTH, WIDTH)), nn.BatchNorm1d(WIDTH), nn.ReLU())
        for _ in range(depth)
    ]
    return Wired(parts, {})


def silenced(model: nn.Module, step: int, at: int = 6) -> None:
    """Push every unit of one layer below 0 before step 2."""
    if step == 2:
        with torch.no_grad():
            model.get_parameter(f"layers.{at}.0.bias").fill_(-100.0)


def broken_weight(model: nn.Module, step: int, at: int = 6) -> None:
    if step == 2:
        with torch.no_grad():
            model.get_parameter(f"layers.{at}.0.weight")[0, 0] = float("nan")


def mostly_off() -> nn.Module:
    model = wired()
    with torch.no_grad():
        model.get_parameter("layers.5.0.bias")[: int(0.8 * WIDTH)] = -100.0
    return model


def never_on() -> nn.Module:
    model = batchnorm_layers(6)
    with torch.no_grad():
        model.get_parameter("layers.3.1.bias")[:32] = -1000.0
    return model


def never_called() -> nn.Module:
    model = wired()
    model.extra = nn.Linear(WIDTH, WIDTH)
    return model


class InBfloat16(nn.Module):
    """A network whose weights are bfloat16, fed with float32."""

    def __init__(self) -> None:
        super().__init__()
        self.model = wired(depth=5).to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.bfloat16()).float()


def tanh(gain: float) -> nn.Module:
    parts = [layer(gain, nn.Tanh) for _ in range(DEPTH)]
    return Wired(parts, {})


@dataclass(frozen=True)
class Case:
    """A network with one fault.

    Attributes:
        id: the finding that it must have.
        name: what is wrong with it.
        make: seed -> records and model.
        block: where it must be found, give or take one; None where no block is meant.
    """

    id: str
    name: str
    make: Make
    block: int | None = None

    def found_in(self, findings: sigprop.Findings) -> bool:
        """Return whether the fault is named, at its block give or take one.

        Of a fault of many blocks the first one counts, in the direction of travel.
        """
        for one in findings:
            ends = one.where.blocks[:1] + one.where.blocks[-1:]
            if one.id == self.id and (
                self.block is None or any(abs(end - self.block) <= 1 for end in ends)
            ):
                return True
        return False


def _measured(build: Callable[[], nn.Module]) -> Make:
    return partial(measured, build)


def _trained(build: Callable[[], nn.Module], **how: Any) -> Make:
    return partial(trained, build, **how)


BROKEN: list[Case] = [
    Case("vanishing-forward", "default weights, no bias", _measured(without_biases), 0),
    Case("mean-shift", "PyTorch's default weights", _measured(partial(wired, gain=None)), 4),
    Case("vanishing-forward", "gain 0.7", _measured(partial(wired, gain=0.7)), 0),
    Case(
        "vanishing-forward",
        "one layer of gain 0.01",
        _measured(small_layer),
        7,
    ),
    Case("vanishing-forward", "a layer that returns 0", _measured(zero_layer), 9),
    Case("exploding-forward", "gain 1.5", _measured(partial(wired, gain=1.5)), 0),
    Case("exploding-forward", "one layer of gain 100", _measured(large_layer), 7),
    Case("exploding-forward", "an addition without scale", _measured(residual), 0),
    Case("exploding-forward", "deeper", _measured(partial(residual, depth=40)), 0),
    Case(
        "exploding-forward",
        "a multiplication in the model's own code",
        _measured(partial(wired, {4: lambda x: 1000 * x})),
        5,
    ),
    Case("exploding-backward", "gain 1.5", _measured(partial(wired, gain=1.5)), DEPTH - 1),
    Case("exploding-backward", "no scale", _measured(residual), DEPTH - 1),
    Case(
        "exploding-backward",
        "batch normalization without skip connections",
        _measured(partial(batchnorm_layers, 30)),
        28,
    ),
    Case("vanishing-backward", "default weights", _measured(partial(wired, gain=None)), DEPTH - 1),
    Case("vanishing-backward", "gain 0.7", _measured(partial(wired, gain=0.7)), DEPTH - 1),
    Case("dead-layer", "silenced at step 2", _trained(wired, before=silenced), 6),
    Case("dead-units", "80 % of one layer are off", _measured(mostly_off), 5),
    Case("saturated-units", "weights 50 times too large", _measured(partial(tanh, 50.0)), 0),
    Case("saturated-units", "weights 200 times too large", _measured(partial(tanh, 200.0)), 0),
    Case("overflow-margin", "gain 2.5", _measured(partial(wired, gain=2.5)), 9),
    Case("loss-diverged", "a learning rate of 100", _trained(wired, lr=100.0)),
    Case("loss-diverged", "a residual network without scale", _trained(residual, lr=0.1)),
    Case(
        "learning-rate-too-large",
        "Adam with 0.1",
        _trained(partial(residual, scale=0.2), lr=0.1, steps=1, make_optimizer=torch.optim.Adam),
    ),
    Case("learning-rate-too-small", "1e-9", _trained(wired, lr=1e-9)),
    Case("uneven-gradients", "default weights", _measured(partial(wired, gain=None)), 0),
    Case("swallowed-updates", "bfloat16 weights", _trained(InBfloat16, lr=1e-6)),
    Case(
        "not-in-optimizer",
        "half of the layers",
        _trained(wired, held=lambda model: model.layers[:10].parameters()),
    ),
    Case(
        "not-finite",
        "a logarithm in layer 6",
        _measured(failing),
        6,
    ),
    Case("not-finite", "a weight that became NaN", _trained(wired, before=broken_weight), 6),
    Case(
        "not-finite",
        "a root at 0 behind layer 8",
        _measured(partial(wired, {8: lambda x: torch.sqrt(torch.relu(x - 1e6)) + x})),
        8,
    ),
    Case("no-gradient", "a detach behind layer 5", _measured(detached), 5),
    Case("never-called", "a layer that is not used", _measured(never_called)),
    Case("tiny-batch", "four samples", partial(measured, batchnorm_layers, samples=4)),
    Case("dead-by-normalization", "a bias of -1000", _measured(never_on)),
]


def convolutional() -> nn.Module:
    parts = [
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        for _ in range(4)
    ]
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.Sequential(*parts),
        nn.Flatten(),
        nn.Linear(16 * WIDTH, 10),
    )


class Encoder(nn.Module):
    """PyTorch's own encoder over eight tokens."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        one = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first
        )
        self.embed = nn.Linear(8, 32)
        self.encoder = nn.TransformerEncoder(one, 6, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.reshape(-1, 8, 8))).mean(1))


def zoo(name: str, **options: Any) -> Make:
    return _measured(
        partial(sigprop.networks.build, name, depth=12, width=WIDTH, inputs=WIDTH, **options)
    )


HEALTHY: dict[str, Make] = {
    "He ReLU": _measured(partial(wired, depth=10)),
    "tanh": _measured(partial(tanh, 0.75)),
    "scaled residual": _measured(partial(residual, scale=DEPTH**-0.5)),
    "LayerNorm residual": _measured(partial(residual, norm=nn.LayerNorm)),
    "BatchNorm residual": _measured(partial(residual, norm=nn.BatchNorm1d)),
    "BatchNorm convolutions": _measured(convolutional),
    "pre-norm Transformer": _measured(partial(Encoder, True)),
    "post-norm Transformer": _measured(partial(Encoder, False)),
    "RescaleNet": zoo("rescale"),
    "NF-ResNet": zoo("nf-resnet"),
    "Fixup": zoo("fixup"),
    "He ReLU, trained": _trained(partial(wired, depth=8), lr=0.01),
    "LayerNorm residual, Adam": _trained(
        partial(residual, norm=nn.LayerNorm), lr=1e-3, make_optimizer=torch.optim.Adam
    ),
}
