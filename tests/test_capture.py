"""Block selection, names and nests: what the probe looks at before any number is read."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from sigprop.capture import select
from sigprop.capture.model.blocks import owner
from sigprop.capture.model.channels import channel_axis
from sigprop.capture.model.naming import clean, modules
from sigprop.capture.model.nested import tensors
from sigprop.capture.recording.tensor_cache import TensorCache


class BasicBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.downsample = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(x) + self.conv2(self.conv1(x))


class ResNet(nn.Module):
    """torchvision's layout: stages are Sequentials, the second has a single block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 7)
        self.layer1 = nn.Sequential(BasicBlock(), BasicBlock())
        self.layer2 = nn.Sequential(BasicBlock())
        self.fc = nn.Linear(4, 2)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mlp = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attention(x))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, 2)
        self.h = nn.ModuleList([Layer(), Layer(), Layer()])


STACKS = {
    "resnet": (ResNet(), ["layer1.0", "layer1.1", "layer2.0"]),
    "transformer": (Transformer(), ["h.0", "h.1", "h.2"]),
    "sequentials": (
        nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(2))),
        ["0", "1"],
    ),
    "flat": (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), ["0", "1", "2"]),
    "leaf": (nn.Linear(2, 2), ["(model)"]),
}


@pytest.mark.parametrize(("model", "names"), STACKS.values(), ids=STACKS)
def test_blocks_are_found(model: nn.Module, names: list[str]) -> None:
    assert list(select(model)) == names


def test_a_modules_owner_is_the_innermost_target_around_it() -> None:
    targets = {"layer1", "layer1.0"}
    assert owner("layer1.0.conv1.weight", targets) == "layer1.0"
    assert owner("layer1.1.conv1", targets) == "layer1"
    assert owner("fc", targets) is None
    assert owner("fc", {"(model)"}) == "(model)"


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("_orig_mod", "(model)"),
        ("_orig_mod.layer1.0", "layer1.0"),
        ("h.0._checkpoint_wrapped_module.mlp", "h.0.mlp"),
        ("_fsdp_wrapped_module.h.0._fsdp_wrapped_module", "h.0"),
        ("my_orig_mod.x", "my_orig_mod.x"),
    ],
)
def test_wrappers_leave_no_trace_in_names(raw: str, name: str) -> None:
    assert clean(raw) == name


def test_a_compiled_model_has_the_names_of_the_bare_one() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    assert [name for name, _ in modules(compiled)] == [name for name, _ in modules(model)]


def test_weights_are_no_activations() -> None:
    model = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    assert [name for name, _ in modules(nn.Sequential(model, nn.ReLU()))] == ["(model)", "0", "1"]


def test_generators_are_not_consumed() -> None:
    numbers = (n for n in range(3))
    assert next(iter(tensors((numbers, torch.ones(1)))))[0] == "[1]"
    assert list(numbers) == [0, 1, 2]


@pytest.mark.parametrize(
    ("shape", "maker", "axis"),
    [
        ((2, 4, 5, 5), (1, 4), 1),
        ((2, 5, 5, 4), (1, 4), -1),  # permuted since
        ((2, 7, 4), (-1, 4), -1),
        ((2, 4, 7), (-1, 4), 1),  # permuted since
        ((2, 3, 5, 5), None, 1),
        ((2, 3, 5), None, -1),
        ((8, 3), None, -1),
        ((8,), (1, 8), -1),
    ],
)
def test_channel_axis(shape: tuple[int, ...], maker: tuple[int, int] | None, axis: int) -> None:
    assert channel_axis(torch.empty(shape), maker) == axis


def test_a_memo_forgets_a_tensor_that_was_written_to() -> None:
    cache: TensorCache[str] = TensorCache()
    x = torch.ones(3)
    cache.put(x, 0, "read")
    assert cache.get(x, 0) == "read"
    assert cache.get(x, 1) is None
    x.add_(1)
    assert cache.get(x, 0) is None


def test_a_memo_does_not_mistake_a_new_tensor_for_an_old_one() -> None:
    """Freed tensors give their id away; the weak reference tells."""
    cache: TensorCache[str] = TensorCache()

    def put() -> None:
        cache.put(torch.ones(3), 0, "old")

    put()
    fresh: list[Tensor] = [torch.ones(3) for _ in range(50)]
    assert all(cache.get(x, 0) is None for x in fresh)
