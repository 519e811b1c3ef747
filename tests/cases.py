"""The small networks that tests share: one of every kind that a probe or a surgery meets.

A test that asks something of every kind of network is parametrized over ``CASES``; one that needs a
kind by itself takes the class. What a single test needs, and no other, stays in that test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sigprop.networks import Add

WIDTH, CHANNELS, SIDE, SAMPLES = 6, 4, 5, 7


def gaussian(seed: int, *shape: int) -> Tensor:
    """Return standard normal numbers from a stream of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """x + W relu(x), the addition written as an operator."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(functional.relu(x))


class AddedInPlace(nn.Module):
    """relu(x + W x), the addition and the rectifier in place."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(width, width), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        out += x
        return self.act(out)


class ConvBlock(nn.Module):
    """relu(x + BN(conv(x))): the addition a module, the rectifier in place, as torchvision's."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.add(x, self.bn(self.conv(x))))


class ResNet(nn.Module):
    """A stem, two blocks with batch normalization, a pool and a head."""

    def __init__(self, inputs: int = 2, channels: int = CHANNELS) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, channels, 3, padding=1)
        self.blocks = nn.Sequential(ConvBlock(channels), ConvBlock(channels))
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class PreNorm(nn.Module):
    """A Transformer's layer with two additions, normalized in front of either branch."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.mlp = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q = self.mix(self.norm1(x))
        x = x + functional.scaled_dot_product_attention(q, q, q)
        return x + functional.gelu(self.mlp(self.norm2(x)))


class LastState(nn.Module):
    """An LSTM, whose output is nested, and a head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(WIDTH, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, (state, _) = self.lstm(x)
        return self.head(state[-1])


class TwoInputs(nn.Module):
    """Two towers whose outputs are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(WIDTH, 4), nn.Linear(2, 4)
        self.head = nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(left).tanh(), self.right(right).tanh()], dim=1))


class DictOutput(nn.Module):
    """A classifier whose output is a dict with logits and features."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(WIDTH, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x).relu()
        return {"logits": self.head(features), "features": features}


class Shared(nn.Module):
    """One layer and one rectifier, each called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(WIDTH, WIDTH), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(self.act(self.fc(x))))


class PartlyCalled(nn.Module):
    """A frozen layer, a trained one, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.used, self.unused = nn.Linear(WIDTH, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(self.frozen(x).relu())


class Tagger(nn.Module):
    """An embedding of whole numbers, averaged over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).mean(1))


@dataclass(frozen=True)
class Case:
    """A kind of network, and what it is called with.

    Attributes:
        name: of the kind.
        make: builds it from torch's global generator.
        inputs: positional arguments of one call, from a seed.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]

    def network(self, seed: int = 0) -> nn.Module:
        """Return the network, freshly initialized from a seed."""
        torch.manual_seed(seed)
        return self.make()

    def loss(self, output: object) -> Tensor:
        """Return a scalar that depends on every tensor of an output."""
        tensors = output.values() if isinstance(output, dict) else [output]
        return torch.stack([t.square().mean() for t in tensors if isinstance(t, Tensor)]).sum()


def _rows(seed: int) -> tuple[Tensor, ...]:
    return (gaussian(seed, SAMPLES, WIDTH),)


def _images(seed: int) -> tuple[Tensor, ...]:
    return (gaussian(seed, SAMPLES, 2, SIDE, SIDE),)


def _sequences(seed: int) -> tuple[Tensor, ...]:
    return (gaussian(seed, SAMPLES, 3, WIDTH),)


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


CASES = {
    case.name: case
    for case in (
        Case(
            "mlp",
            lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 3)),
            _rows,
        ),
        Case("functional residual", lambda: nn.Sequential(Residual(), Residual()), _rows),
        Case("in place", lambda: nn.Sequential(AddedInPlace(), AddedInPlace()), _rows),
        Case(
            "convolutions",
            lambda: nn.Sequential(
                nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            ),
            _images,
        ),
        Case("resnet", ResNet, _images),
        Case("lstm", LastState, _sequences),
        Case("encoder", _encoder, _sequences),
        Case("pre-norm", lambda: nn.Sequential(PreNorm(), PreNorm()), _sequences),
        Case("two inputs", TwoInputs, lambda seed: (*_rows(seed), gaussian(seed + 1, SAMPLES, 2))),
        Case("dict output", DictOutput, _rows),
        Case("shared", Shared, _rows),
        Case(
            "dropout",
            lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
            _rows,
        ),
        Case("partly called", PartlyCalled, _rows),
        Case(
            "embedding",
            Tagger,
            lambda seed: (
                torch.randint(11, (SAMPLES, 3), generator=torch.Generator().manual_seed(seed)),
            ),
        ),
    )
}
