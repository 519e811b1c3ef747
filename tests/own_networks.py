"""Networks as users bring them: none is of the zoo, nothing in them knows of sigprop.

Each classifies the 8x8 digits in ten classes, so that the command line can train it; `own_inputs`
gives the inputs in which its inner network is measured without the adapter around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, CLASSES = 16, 10


class Residual(nn.Module):
    """A residual block that adds in its own code, ``F.relu(x + f(x))``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + self.second(nn.functional.relu(self.first(x))))


class Concatenating(nn.Module):
    """A DenseNet-like layer: what it makes is put beside what it takes."""

    def __init__(self, channels: int, growth: int = 4) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(nn.functional.relu(self.norm(x)))], dim=1)


class Recurrent(nn.Module):
    """Reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x.reshape(-1, 8, 8))
        return self.head(out[:, -1])


class Encoder(nn.Module):
    """PyTorch's own Transformer encoder over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, batch_first=True)
        self.embed = nn.Linear(8, WIDTH)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.reshape(-1, 8, 8))).mean(1))


class TwoInputs(nn.Module):
    """Takes two tensors; each half of an image goes through a tower of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.Linear(32, WIDTH), *(Residual() for _ in range(2))) for _ in range(2)
        )
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(left), self.right(right)], dim=-1))


class FromHalves(nn.Module):
    """Feeds a two-input model with the two halves of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.model = TwoInputs()

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.reshape(-1, 64).chunk(2, dim=-1)
        return self.model(left, right)


class FromPixels(nn.Module):
    """Feeds a language model with an image: each pixel is one of 17 words."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        words = (x.reshape(-1, 64)[:, ::4].sigmoid() * 16).long()
        return self.head(self.model(input_ids=words).last_hidden_state.mean(1))


def flat_mlp() -> nn.Module:
    layers = [layer for _ in range(3) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), *layers, nn.Linear(WIDTH, CLASSES)
    )


def residual() -> nn.Module:
    blocks = (Residual() for _ in range(4))
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), *blocks, nn.Linear(WIDTH, CLASSES))


def concatenating() -> nn.Module:
    layers = (Concatenating(4 + 4 * i) for i in range(3))
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def gpt2() -> nn.Module:
    import transformers

    return FromPixels(
        transformers.GPT2Model(
            transformers.GPT2Config(
                vocab_size=20, n_positions=16, n_embd=WIDTH, n_layer=3, n_head=2,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
            )
        )
    )  # fmt: skip


def bert() -> nn.Module:
    import transformers

    return FromPixels(
        transformers.BertModel(
            transformers.BertConfig(
                vocab_size=20, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=2,
                intermediate_size=32, max_position_embeddings=16, hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Own:
    """One network of a user.

    Attributes:
        factory: builds it, freshly initialized, for digits.
        blocks: how many blocks a probe finds in it.
        units: how many of a layer with what follows it, where `verify` judges such units.
        inner: builds what is measured with `inputs`, where that is another model.
        inputs: gives the inputs of ``inner``; images when not given.
        without_gradient: how many of the blocks come before every weight.
        blind: the modules that PyTorch never calls, by the last part of their names.
    """

    factory: Callable[[], nn.Module]
    blocks: int
    inner: Callable[[], nn.Module] | None = None
    inputs: Callable[[], Any] | None = None
    without_gradient: int = 0
    blind: list[str] = field(default_factory=list)
    units: int | None = None

    def to_measure(self) -> Callable[[], nn.Module]:
        return self.inner or self.factory

    def own_inputs(self) -> Any:
        return self.inputs() if self.inputs else images()


def images(n: int = 24) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def halves() -> tuple[Tensor, Tensor]:
    left, right = images().reshape(-1, 64).chunk(2, dim=-1)
    return left, right


OWN = {
    "flat_mlp": Own(flat_mlp, 10, without_gradient=1, units=4),
    "residual": Own(residual, 4),
    "concatenating": Own(concatenating, 3),
    "lstm": Own(Recurrent, 2),
    "encoder": Own(Encoder, 3, blind=["out_proj"] * 3),
    "gpt2": Own(gpt2, 3),
    "bert": Own(bert, 3),
    "two_inputs": Own(FromHalves, 4, TwoInputs, halves),
}

#: So that the command line can name each of them as ``own_networks:name``.
lstm, encoder, two_inputs = Recurrent, Encoder, FromHalves
