"""What is trained: four networks with their data, loss and optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import sigprop

Act = Callable[[], object]


def nothing() -> None:
    """Do nothing: what a tool does at a moment that it does not care for."""


@dataclass
class Training:
    """A network in training on one batch.

    Attributes:
        forward: what is called in a step; the model, unless a tool puts something in its place.
    """

    model: nn.Module
    inputs: Tensor
    loss: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer = field(init=False)
    forward: Callable[[Tensor], Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.forward = self.model

    def step(self, ready: Act = nothing) -> None:
        """Take one step; ``ready`` is called when gradients are there and the weights are old."""
        self.optimizer.zero_grad()
        self.loss(self.forward(self.inputs)).backward()
        ready()
        self.optimizer.step()

    def leaves(self) -> dict[str, nn.Module]:
        """Return the modules without children, by name."""
        return {name: m for name, m in self.model.named_modules() if not any(m.children())}


Build = Callable[[torch.device], Training]


class _Field(nn.Module):
    """A published network, reduced to tensor in, tensor out."""

    def __init__(self, network: nn.Module, takes: str, gives: str) -> None:
        super().__init__()
        self.network, self.takes, self.gives = network, takes, gives

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.network(**{self.takes: x}), self.gives)


def classifier(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> Training:
    """Return the training of a classifier of ten classes on random inputs."""
    labels = torch.randint(0, 10, shape[:1], device=device)
    inputs = torch.randn(shape, device=device)
    return Training(model.to(device), inputs, lambda y: nn.functional.cross_entropy(y, labels))


def mlp(
    device: torch.device,
    depth: int = 20,
    width: int = 256,
    batch: int = 256,
    network: str = "batchnorm",
) -> Training:
    """Return a residual MLP of ``depth`` blocks of two matrices, batch-normalized."""
    torch.manual_seed(0)
    model = sigprop.networks.build(network, depth=depth, width=width, inputs=width)
    return classifier(model, (batch, width), device)


def resnet20(device: torch.device) -> Training:
    """Return the ResNet-20 for 32x32 images (He et al. 2016, section 4.2)."""
    torch.manual_seed(0)
    model = sigprop.networks.build(
        "batchnorm", architecture="resnet", depth=9, width=16, stages=3, inputs=(3, 32, 32)
    )
    return classifier(model, (64, 3, 32, 32), device)


def resnet50(device: torch.device) -> Training:
    """Return transformers' ResNet-50, on images small enough for a CPU."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig()
    config.num_labels = 10
    network = ResNetForImageClassification(config)
    return classifier(_Field(network, "pixel_values", "logits"), (8, 3, 64, 64), device)


def gpt2(device: torch.device) -> Training:
    """Return two of GPT-2 small's twelve blocks, fed with embeddings."""
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    # Without a vocabulary to speak of: the blocks are measured, not the embedding table.
    config = GPT2Config(
        n_layer=2, vocab_size=1, n_positions=128, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    model = _Field(GPT2Model(config), "inputs_embeds", "last_hidden_state").to(device)
    inputs = torch.randn(4, 128, config.n_embd, device=device)
    return Training(model, inputs, lambda y: y.square().mean())


#: Name -> how to build it.
SUBJECTS: Mapping[str, Build] = {
    "MLP, 20 blocks of 256, batch 256": mlp,
    "ResNet-20, batch 64 of 3x32x32": resnet20,
    "ResNet-50, batch 8 of 3x64x64": resnet50,
    "GPT-2 small, 2 blocks, 4x128 tokens": gpt2,
}
