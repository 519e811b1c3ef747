"""Automatic blocks on the layouts that people build, and bit-identity, neutrality and memory."""

from __future__ import annotations

import gc
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from test_any_model_functional import Block, images, resnet
from torch import Tensor, nn

import sigprop
from sigprop import ProbeWarning
from sigprop.capture import select
from sigprop.capture.model.blocks import adds


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 8), nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class MixerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(6), nn.LayerNorm(6)
        self.tokens, self.channels = Mlp(4), Mlp(6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Stage(nn.Module):
    """A hierarchy's stage: a stack of blocks behind a projection."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, out, 1)
        self.blocks = nn.ModuleList(Block("operator", out, out) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        for block in self.blocks:
            x = block(x)
        return x


class Hierarchy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Stage(3, 4), Stage(4, 6)])

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


class Experts(nn.Module):
    """A Transformer layer whose weights lie in a list of experts: the layer is the block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.experts = nn.ModuleList(Mlp(6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for expert in self.experts:
            y = y + expert(self.norm(x)) / 3
        return x + y


class OneOff(nn.Module):
    """Two blocks of different classes: nothing is repeated, but both add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.conv = nn.Linear(6, 6), MixerBlock(), Experts()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.mix(self.stem(x)))


class DoubleConv(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inc, self.down, self.up = DoubleConv(3, 4), DoubleConv(4, 4), DoubleConv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.inc(x)
        b = F.interpolate(self.down(F.max_pool2d(a, 2)), scale_factor=2)
        return self.up(torch.cat([a, b], 1))


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(9, 4), nn.LSTM(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0])


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def tokens() -> Tensor:
    return torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))


STAGED = [f"stages.{s}.blocks.{b}" for s in (0, 1) for b in (0, 1)]
MODELS = {
    "resnet": (lambda: resnet("inplace"), images, ["1.0", "1.1", "2.0", "2.1"]),
    "hierarchy": (Hierarchy, images, STAGED),
    "mixer": (lambda: nn.Sequential(MixerBlock(), MixerBlock()), tokens, ["0", "1"]),
    "experts": (lambda: nn.Sequential(Experts(), Experts()), tokens, ["0", "1"]),
    "one-off": (OneOff, tokens, ["mix", "conv"]),
    "unet": (UNet, images, ["inc", "down", "up"]),
    "lstm": (Tagger, lambda: torch.ones(3, 2, dtype=torch.long), ["embed", "lstm", "head"]),
    "encoder": (encoder, tokens, ["layers.0", "layers.1"]),
    "plain": (lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU()), tokens, ["0", "1"]),
}


@pytest.mark.parametrize(("build", "inputs", "names"), MODELS.values(), ids=MODELS)
def test_the_blocks_people_mean(build, inputs, names: list[str]) -> None:
    assert list(select(build())) == names


@pytest.mark.parametrize("name", ["mixer", "experts", "encoder", "one-off", "hierarchy"])
def test_skip_and_branch_of_every_addition(name: str) -> None:
    build, inputs, names = MODELS[name]
    model = build()
    with sigprop.attach(model, strict=True) as probe:
        model(inputs()).sum().backward()
    signals = probe.records.signals.query("direction == 'forward'")
    assert set(signals.query("port == 'skip'")["name"].str.replace("#1", "")) == set(names)
    joined = signals.query("port == 'branch'")
    assert joined["skip_branch_correlation"].between(-1, 1).all()


def test_code_that_adds_is_told_from_code_that_does_not() -> None:
    assert adds(MixerBlock())
    assert not adds(Mlp(4))
    assert not adds(DoubleConv(3, 3))
    assert not adds(nn.TransformerEncoderLayer(4, 2))  # PyTorch's own layers are known otherwise
    made = type("Made", (nn.Module,), {"forward": lambda self, x: x + x})
    assert not adds(made())  # no source to be read


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("blocks", ["auto", "leaves"])
@pytest.mark.parametrize("name", MODELS)
def test_bit_identical(name: str, blocks: str, training: bool) -> None:
    build, inputs, _ = MODELS[name]

    def run(probed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = build().train(training)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        probe = sigprop.attach(model, optimizer, blocks=blocks, strict=True) if probed else None
        seen = []
        for _ in range(2):
            optimizer.zero_grad()
            out = model(inputs())
            out.square().mean().backward()
            seen += [
                out.detach().clone(),
                *(p.grad.clone() for p in model.parameters() if p.grad is not None),
            ]
            optimizer.step()
            with torch.no_grad():
                seen.append(model(inputs()))
        seen += [torch.get_rng_state(), *(v.clone() for v in model.state_dict().values())]
        if probe is not None:
            probe.detach()
            kinds = ("_forward_hooks", "_forward_pre_hooks")
            assert not any(getattr(m, kind) for m in model.modules() for kind in kinds)
        return seen

    bare, probed = run(False), run(True)
    assert len(bare) == len(probed)
    assert all(torch.equal(a, b) for a, b in zip(bare, probed, strict=True))


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_recorded_steps() -> None:
    """Rows are drained as a long run would: what remains is the probe itself."""

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + F.relu(self.fc(x))

    model, x = nn.Sequential(Tiny(), nn.Linear(4, 2)), torch.randn(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def steps(count: int) -> tuple[int, int]:
        for _ in range(count):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
        probe.drain()
        gc.collect()
        return len(gc.get_objects()), sys.getallocatedblocks()

    with sigprop.attach(model, optimizer, blocks=["0", "1"], strict=True) as probe:
        steps(50)
        objects, blocks = steps(50)
        later_objects, later_blocks = steps(900)
    assert later_objects - objects < 200
    assert later_blocks - blocks < 2000  # one leaked tensor a step would be thousands
    assert probe.step_index == 1000


def test_an_error_in_functional_capture_is_told_once_with_its_place(monkeypatch) -> None:
    from sigprop.capture.hooks.dataflow import Dataflow

    def explode(*_: object) -> None:
        raise AssertionError("inside")

    model = resnet("operator")
    expected = model.train()(images()).detach()
    model = resnet("operator")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monkeypatch.setattr(Dataflow, "pass_on", explode)
    with warnings.catch_warnings(record=True) as caught, sigprop.attach(model, optimizer):
        warnings.simplefilter("always")
        assert torch.equal(model(images()), expected)
        optimizer.step()
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "AssertionError: inside, in _after, functional.py:" in message
    assert "please report it: https://" in message
    with pytest.raises(AssertionError), sigprop.attach(model, strict=True):
        model(images())
    assert torch._C._len_torch_function_stack() == 0


def test_an_error_in_one_number_switches_only_that_number_off(monkeypatch) -> None:
    from sigprop.signals import QUANTITIES

    def explode(_: object) -> float:
        raise ZeroDivisionError("no")

    monkeypatch.setitem(QUANTITIES._entries, "kurtosis", explode)
    model = nn.Linear(3, 3)
    with warnings.catch_warnings(record=True) as caught, sigprop.attach(model) as probe:
        warnings.simplefilter("always", ProbeWarning)
        for _ in range(2):
            model(torch.randn(4, 3)).sum().backward()
        probe.step()
    assert len(caught) == 1
    assert "the number 'kurtosis' failed and is now off" in str(caught[0].message)
    assert probe.records.signals["kurtosis"].isna().all()
    assert probe.records.signals["second_moment"].notna().all()


def test_a_residual_stream_carries_no_block_that_has_ended() -> None:
    """Else what a probe costs would grow with the square of the depth."""
    from sigprop.capture.hooks.dataflow import WEIGHT, Dataflow

    known, x = Dataflow(), torch.ones(2)
    known.open(0, [[x]])
    for block in range(1, 50):
        known.open(block, [[x]])
        branch, total = torch.ones(2), torch.ones(2)
        known.pass_on((x,), {}, branch, WEIGHT)
        known.pass_on((x, branch), {}, total, 0)
        assert known.distance(total, block) == 0
        known.close(block)
        x = total
    made = torch.ones(2)
    known.open(50, [[x]])
    known.pass_on((x,), {}, made, 0)
    assert known._get(made) == {0: 0, 8 * 50: 0}
