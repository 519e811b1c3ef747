"""Observe, never alter: bit-identical with a probe on; after detach nothing remains."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import sigprop


class InPlaceResidual(nn.Module):
    """The hardest habits at once: in-place rectifiers, in-place addition, dropout, BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.last(self.drop(self.relu(self.bn(self.conv(x)))))
        out += x
        return self.relu(out)


def residual() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 1),
        InPlaceResidual(),
        InPlaceResidual(),
        nn.Flatten(),
        nn.Linear(48, 4),
    )


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.ReLU(inplace=True), nn.Linear(8, 4))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Flatten(2), nn.Linear(16, 4), encoder, nn.Flatten(), nn.Linear(8, 4))


def zoo(name: str, architecture: str) -> Callable[[], nn.Module]:
    return lambda: sigprop.networks.build(
        name, depth=3, width=4, architecture=architecture, inputs=(2, 4, 4), classes=4
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "residual": residual,
    "mlp": mlp,
    "transformer": transformer,
    **{f"{n}-{a}": zoo(n, a) for n in sigprop.networks.names() for a in ("mlp", "resnet")},
}


def trajectory(
    factory: Callable[[], nn.Module], blocks: str | None, training: bool
) -> list[Tensor | bool]:
    """Return everything a probe could disturb, over three optimizer steps."""
    torch.manual_seed(0)
    model = factory().train(training)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.randn(8, 2, 4, 4), torch.randint(0, 4, (8,))
    probe = None
    if blocks is not None:
        probe = sigprop.attach(
            model, optimizer, blocks=blocks, metrics={"l1": lambda t: t.abs().mean()}, strict=True
        )
    seen: list[Tensor | bool] = []
    for _ in range(3):
        optimizer.zero_grad()
        x.requires_grad_(True)
        x.grad = None
        out = model(x)
        nn.functional.cross_entropy(out, y).backward()
        seen.append(out.detach().clone())
        seen += [t.grad.clone() for t in (x, *model.parameters()) if t.grad is not None]
        optimizer.step()
        seen += [torch.get_rng_state()]
        if probe is not None:
            probe.record_spectra()
            assert len(probe.records.signals)
    if probe is not None:
        probe.detach()
    seen += [module.training for module in model.modules()]
    seen += [v.clone() for v in model.state_dict().values() if isinstance(v, Tensor)]
    return seen


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("blocks", ["auto", "leaves"])
@pytest.mark.parametrize("name", MODELS)
def test_bit_identical_with_and_without_a_probe(name: str, blocks: str, training: bool) -> None:
    bare = trajectory(MODELS[name], None, training)
    probed = trajectory(MODELS[name], blocks, training)
    assert len(bare) == len(probed)
    for a, b in zip(bare, probed, strict=True):
        assert type(a) is type(b)
        assert torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b


def test_a_metric_that_writes_would_be_noticed() -> None:
    """The saboteur: a metric that changes its tensor must turn the comparison red."""
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(3, 2, 4, 4)
    clean = model(x)
    with sigprop.attach(model, blocks="leaves", metrics={"bad": lambda t: t.mul_(2).sum()}):
        assert not torch.equal(model(x), clean)


def hooks(model: nn.Module) -> Iterator[int]:
    for module in model.modules():
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            yield len(getattr(module, kind))
    for parameter in model.parameters():
        yield len(parameter._post_accumulate_grad_hooks or {})
        yield len(parameter._backward_hooks or {})


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_detach_leaves_nothing_behind(with_optimizer: bool) -> None:
    model = residual()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    probe = sigprop.attach(model, optimizer if with_optimizer else None)
    x = torch.randn(2, 2, 4, 4, requires_grad=True)
    model(x).sum().backward()
    assert sum(hooks(model)) > 0
    probe.detach()
    assert sum(hooks(model)) == 0
    assert not x._backward_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    rows = len(probe.records.signals)
    model(x)
    probe.detach()
    assert len(probe.records.signals) == rows > 0


def test_an_exception_in_the_block_detaches_and_reaches_the_user() -> None:
    model = residual()
    with contextlib.suppress(ZeroDivisionError), sigprop.attach(model) as probe:
        model(torch.randn(2, 2, 4, 4))
        raise ZeroDivisionError
    assert sum(hooks(model)) == 0
    assert len(probe.records.signals) > 0


def test_an_exception_inside_forward_leaves_a_clean_next_step() -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.fail = nn.Linear(2, 2), True

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x)
            if self.fail:
                raise RuntimeError("boom")
            return x

    fragile = Fragile()
    model = nn.Sequential(nn.Linear(2, 2), fragile)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves") as probe:
        with pytest.raises(RuntimeError, match="boom"):
            model(torch.ones(3, 2))
        optimizer.step()
        fragile.fail = False
        model(torch.ones(3, 2)).sum().backward()
        optimizer.step()
    last = probe.records.signals.query("step == 1 and direction == 'forward' and port == 'out'")
    assert last["call"].tolist() == [0, 0]
    assert last["count"].tolist() == [6, 6]


def test_copies_of_a_probed_model_record_nothing_and_can_be_saved() -> None:
    model = residual()
    with sigprop.attach(model) as probe:
        twin = copy.deepcopy(model)
        twin(torch.randn(2, 2, 4, 4))
        assert len(probe.records.signals) == 0
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=False)
    loaded(torch.randn(2, 2, 4, 4))
    assert len(probe.records.signals) == 0


def test_a_probe_does_not_keep_its_model_alive() -> None:
    model = residual()
    probe = sigprop.attach(model)
    model(torch.randn(2, 2, 4, 4)).sum().backward()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert len(probe.records.signals) > 0


def test_no_activation_outlives_the_forward() -> None:
    model = residual()
    kept: list[weakref.ref[Tensor]] = []
    model[1].register_forward_hook(lambda m, i, o: kept.append(weakref.ref(o)))
    with sigprop.attach(model):
        out = model(torch.randn(2, 2, 4, 4))
        out.sum().backward()
        del out
        gc.collect()
        assert kept[0]() is None


def test_hooks_return_none_so_outputs_are_the_identical_objects() -> None:
    model = mlp()
    outputs: list[Tensor] = []
    with sigprop.attach(model, blocks="leaves"):
        model[-1].register_forward_hook(lambda m, i, o: outputs.append(o))
        assert model(torch.randn(2, 2, 4, 4)) is outputs[0]
