"""Guards of capture and of the statistics, each with the one case that shows it is there."""

from __future__ import annotations

import gc
import math
import warnings
import weakref
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sigprop
from sigprop.capture import Recorder, Scope
from sigprop.capture.hooks.dataflow import Dataflow
from sigprop.capture.hooks.forwards import ForwardContext
from sigprop.capture.hooks.global_hooks import GlobalHooks
from sigprop.capture.model.blocks import adds
from sigprop.capture.recording.accumulator import Accumulator
from sigprop.capture.recording.reader import ProductReader, TensorReader
from sigprop.capture.recording.tap import Tap
from sigprop.signals import native, ratios
from sigprop.signals.channel_statistics import compute
from sigprop.signals.correlation import (
    Products,
    compute_products,
    compute_products_plain,
    correlations,
    decode_products,
    interpret_products,
)
from sigprop.signals.signal import interpret


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- products of operands -------------------------------------------------------------------------


@pytest.mark.parametrize("way", [compute_products, compute_products_plain])
@pytest.mark.parametrize("at", [0, 37, -1], ids=["in lanes", "in lanes, later", "in the tail"])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_in_one_operand_alone(way, at, which, bad: float) -> None:
    operands = [normal(83), normal(83, seed=1)]
    kept = [x.clone() for x in operands]
    operands[which][at] = bad
    for x in kept:
        x[at] = 0.0
    products = interpret_products(way(*operands).numpy())
    a, b = (x.double() for x in kept)
    truth = Products(float(a @ a), float(b @ b), float(a @ b))
    assert vars(products) == pytest.approx(vars(truth), rel=1e-5)


def test_products_of_more_elements_than_fit_in_pieces() -> None:
    """8.5 million: 256 pieces of the shortest length are fewer."""
    n = 8_500_000
    a = torch.ones(n)
    a[-1] = 3.0
    assert interpret_products(compute_products(a, a).numpy()).ab == n - 1 + 9


def test_products_merge_and_correlate_as_rows_do_one_by_one() -> None:
    pairs = [(normal(9, seed=i), normal(9, seed=i + 50)) for i in range(5)]
    rows = np.stack([compute_products(a, b).numpy() for a, b in pairs])
    alone = [interpret_products(row) for row in rows]
    assert correlations(decode_products(rows)).tolist() == pytest.approx(
        [products.correlation for products in alone]
    )
    whole = interpret_products(compute_products(*map(torch.cat, zip(*pairs, strict=True))).numpy())
    assert decode_products(rows).sum(0).tolist() == pytest.approx(
        [whole.aa, whole.bb, whole.ab], rel=1e-6
    )


# --- norms and statistics -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_norms_of_half_precision_are_not_rounded_to_it(dtype: torch.dtype) -> None:
    x = normal(1000).to(dtype)
    size, scale = ratios.norm(x).double().tolist()
    assert size * scale == pytest.approx(float(x.double().norm()), rel=1e-5)


def test_a_long_channel_is_folded_into_doubles() -> None:
    """Four million values about 1: in single precision alone the variance is off by 6e-5."""
    x = 1 + normal(1, 1, 4_000_000)
    moments = interpret(compute(x, 1).numpy()).moments
    assert moments.m2[0] / 4e6 == pytest.approx(float(x.double().var(correction=0)), rel=2e-6)


@pytest.mark.skipif(native.LIBRARY is None, reason="plain torch takes no samples")
def test_a_center_that_the_samples_get_wrong_is_set_anew() -> None:
    """Every row that is sampled is unlike the rest: sums about their mean would cancel."""
    x = normal(160_000, 20)
    x[::10_000] += 1000.0
    signal = interpret(compute(x, 1).numpy())
    truth = x.double()
    m4 = ((truth - truth.mean(0)) ** 4).sum(0)
    np.testing.assert_allclose(signal.moments.m4, m4.numpy(), rtol=1e-6)
    np.testing.assert_allclose(
        signal.moments.m2, truth.var(0, correction=0).numpy() * len(x), rtol=1e-6
    )


# --- recorded steps -------------------------------------------------------------------------------


def trained(model: nn.Module, x: Tensor, optimizer: Any = None, **options: Any) -> sigprop.Probe:
    with sigprop.attach(model, optimizer, strict=True, **options) as probe:
        model(x).square().mean().backward()
        if optimizer is not None:
            optimizer.step()
    return probe


def test_groups_of_parameters_have_their_own_rates() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    groups: list[dict[str, Any]] = [
        {"params": model[0].parameters(), "lr": 0.5},
        {"params": [model[1].weight]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.25)
    norms = {name: float(p.detach().double().norm()) for name, p in model.named_parameters()}
    rows = trained(model, normal(4, 3), optimizer).records.parameters.set_index("name")
    rates = {"0.weight": 0.5, "0.bias": 0.5, "1.weight": 0.25, "1.bias": math.nan}
    expected = {name: rate / norms[name] ** 2 for name, rate in rates.items()}
    assert rows["effective_lr"].to_dict() == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_rates_are_those_of_the_step_and_groups_may_be_added() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.0)
    with sigprop.attach(model, optimizer, strict=True) as probe:
        for rate in (0.0, 0.5, 0.25):
            if rate == 0.25:
                optimizer.add_param_group({"params": [model[1].weight]})
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            model(normal(4, 3)).square().mean().backward()
            optimizer.step()
    rows = probe.records.parameters
    rates = (rows["effective_lr"] * rows["weight_norm"] ** 2).round(6)
    by_name = {name: rates[rows["name"] == name].tolist() for name in ("0.weight", "1.weight")}
    assert by_name["0.weight"] == [0.0, 0.5, 0.25]
    assert by_name["1.weight"] == pytest.approx([math.nan, math.nan, 0.25], nan_ok=True)


def test_weights_that_moved_to_other_memory_are_read_there() -> None:
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, strict=True) as probe:
        for step in range(3):
            if step == 1:
                model.weight.data = model.weight.data.clone() * 10
            optimizer.zero_grad()
            model(normal(4, 3)).square().mean().backward()
            before = model.weight.detach().double().clone()
            assert model.weight.grad is not None
            grad = oracles.norm(model.weight.grad)
            optimizer.step()
            row = probe.records.parameters.query("name == 'weight'").iloc[-1]
            assert row["weight_norm"] == pytest.approx(float(before.norm()), rel=1e-6)
            assert row["grad_norm"] == pytest.approx(grad, rel=1e-6)
            moved = float((model.weight.detach().double() - before).norm())
            assert row["update_to_weight"] == pytest.approx(moved / float(before.norm()), rel=1e-5)


def test_a_scaled_loss_leaves_activations_alone() -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), normal(4, 3)
    bare = trained(model, x, blocks="leaves").records.signals
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with sigprop.attach(model, blocks="leaves", strict=True, scaler=scaler) as probe:
        scaler.scale(model(x).square().mean()).backward()
    scaled = probe.records.signals
    for direction in ("forward", "backward"):
        a, b = (frame.query(f"direction == '{direction}'") for frame in (bare, scaled))
        assert len(a)
        assert b["second_moment"].tolist() == pytest.approx(a["second_moment"].tolist(), rel=1e-6)


class Repeated(nn.Module):
    """A module that is called three times, each time under reentrant checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = checkpoint(self.layer, torch.tanh(x) * 5, use_reentrant=True)
        return x


def test_gradients_of_checkpointed_calls_go_to_their_own_call() -> None:
    model, x = Repeated(), normal(4, 3).requires_grad_()
    rows = trained(model, x, blocks=["layer"]).records.signals
    found = rows.query("direction == 'backward' and port == 'out'").set_index("name")
    calls = [x]
    for _ in range(3):
        calls.append(model.layer(torch.tanh(calls[-1]) * 5))
    gradients = torch.autograd.grad(calls[-1].square().mean(), calls[1:])
    for name, grad in zip(("layer", "layer#1", "layer#2"), gradients, strict=True):
        truth = oracles.second_moment(grad)
        assert found.loc[name, "second_moment"] == pytest.approx(truth, rel=1e-5), name


def test_many_forwards_of_one_step_are_fetched_early_and_lose_nothing(monkeypatch) -> None:
    from sigprop.capture.recording import accumulator

    model, batches = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Identity()), normal(6, 5, 3)
    flushed = []
    flush = accumulator.Accumulator.flush

    def noted(self: Any) -> None:
        flushed.append(len(self.waiting))
        flush(self)

    monkeypatch.setattr(accumulator.Accumulator, "flush", noted)

    def recorded() -> Any:
        with sigprop.attach(model, blocks="leaves", strict=True) as probe:
            model.eval()
            with torch.no_grad():
                for x in batches:
                    model(x)
        return probe.records.signals.set_index("name")

    whole = recorded()
    assert flushed == []
    monkeypatch.setattr(accumulator, "MOST_WAITING", 6)
    piecemeal = recorded()
    assert len(flushed) > 2
    assert max(flushed) <= 6
    for column in ("count", "second_moment", "kurtosis", "max_abs"):
        assert piecemeal[column].tolist() == pytest.approx(whole[column].tolist(), rel=1e-9)


def forms() -> list[Tensor]:
    """Return tensors of which each differs from the one before in one respect."""
    x = normal(6, 4, 5, 5)
    imaginary = torch.complex(x, x + 1).conj().imag
    assert imaginary.is_neg()
    return [
        x,
        x.to(memory_format=torch.channels_last),
        x,
        x[:3],
        x[::2],
        x[:3].double(),
        x[:3].to(torch.bfloat16),
        x,
        torch._neg_view(x),  # as `imaginary`, but without gaps
        imaginary,
        nn.Parameter(x),
        x.transpose(2, 3),
    ]


def test_one_reader_reads_tensors_of_any_form() -> None:
    reader = TensorReader(Accumulator(), 1)
    for x in forms():
        statistics = reader.read(x)
        assert statistics is not None
        truth = interpret(compute(x.detach().clone().resolve_neg().contiguous(), 1).numpy())
        found = interpret(np.asarray(statistics.sums))
        np.testing.assert_allclose(found.table, truth.table, rtol=1e-6, atol=1e-6)


def test_one_reader_of_products_reads_operands_of_any_form() -> None:
    accumulator = Accumulator()
    reader, tap = ProductReader(accumulator), Tap("", 0, "block", "", "", "", 0, "", "", 1, 4)
    for x in forms():
        other = normal(*x.shape, seed=9).to(x.dtype)
        for a, b in ((x.detach(), x.detach()), (x.detach(), other), (other, x.detach())):
            reader.read(a, b, tap)
            statistics, _ = accumulator.statistics()
            found = statistics.products[tap].tolist()
            a, b = a.double(), b.double()
            truth = [float((a * a).sum()), float((b * b).sum()), float((a * b).sum())]
            assert found == pytest.approx(truth, rel=1e-5, abs=1e-4)
            accumulator.clear()


def test_a_tensor_that_was_written_to_is_read_again() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    x = normal(8, 3)
    rows = trained(model, x, blocks="leaves").records.signals
    out = rows.query("port == 'out' and direction == 'forward'").set_index("name")
    before = model[0](x).detach()
    assert out.loc["0", "mean"] == pytest.approx(float(before.mean()), rel=1e-5)
    assert out.loc["1", "mean"] == pytest.approx(float(before.relu().mean()), rel=1e-5)


# --- what is held weakly, and what has the address of another -------------------------------------


def test_a_new_tensor_at_the_address_of_another_is_not_taken_for_it() -> None:
    dataflow = Dataflow()
    dataflow.open(0, [[torch.ones(1)]])  # dead at once
    new = [torch.ones(1) for _ in range(50)]
    assert [dataflow.distance(x, 0) for x in new] == [None] * 50


def test_a_class_is_not_kept_alive_by_the_choice_of_blocks() -> None:
    def chosen() -> weakref.ref[type]:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(2, 2)

            def forward(self, x: Tensor) -> Tensor:
                return x + self.layer(x)

        assert adds(Block())
        return weakref.ref(Block)

    known = chosen()
    gc.collect()
    assert known() is None


class Above(torch.overrides.TorchFunctionMode):
    """A mode of the user's, opened inside the forward."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class OpensTwo(nn.Module):
    """Enters two modes in its forward and leaves them to the caller."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.modes = nn.Linear(2, 2), [Above(), Above()]

    def forward(self, x: Tensor) -> Tensor:
        for mode in self.modes:
            mode.__enter__()
        return self.layer(x)


@pytest.fixture
def stack() -> Iterator[list[object]]:
    """The modes that are active after a test, from below; empty before the next."""
    seen: list[object] = []
    yield seen
    while torch._C._len_torch_function_stack():
        torch._C._pop_torch_function_stack()


def test_modes_above_ours_stay_in_their_order(stack: list[object]) -> None:
    model = OpensTwo()
    with sigprop.attach(model, strict=True):
        model(normal(3, 2))
        depth = torch._C._len_torch_function_stack()
        stack += [torch._C._get_function_stack_at(i) for i in range(depth)]
    assert stack == model.modes


def test_a_rectifier_that_only_autograd_shows_has_dead_units() -> None:
    """A function behind TorchScript is seen by no mode; the gradient's node says what it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        rectify = torch.jit.script(rectified)

    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return rectify(self.layer(x))

    rows = trained(nn.Sequential(Scripted(), nn.Linear(4, 2)), normal(5, 3), blocks=["0"])
    out = rows.records.signals.query("port == 'out' and direction == 'forward'")
    assert out["dead_fraction"].notna().all()


def rectified(x: Tensor) -> Tensor:
    return torch.relu(x)


def test_a_module_at_the_address_of_a_dead_one_is_not_taken_for_it() -> None:
    """Ids are given again: what was watched under one must still be that module."""
    seen: list[str] = []
    watched, other = nn.Linear(2, 2), nn.Linear(2, 2)
    hooks = GlobalHooks()
    before = cast(Any, lambda *_: seen.append("before"))
    after = cast(Any, lambda *_: seen.append("after"))
    hooks.add(watched, before, after)
    hooks.attach()
    try:
        watched(torch.ones(1, 2))
        assert seen == ["before", "after"]
        hooks._watched[id(other)] = hooks._watched.pop(id(watched))
        other(torch.ones(1, 2))
    finally:
        hooks.remove()
    assert seen == ["before", "after"]


def test_a_forward_that_starts_after_its_recorder_is_gone_starts_nothing() -> None:
    recorder = Recorder()
    context = ForwardContext(recorder, Scope(), frozenset(), GlobalHooks())
    del recorder
    gc.collect()
    before = torch._C._len_torch_function_stack()
    context.start()
    assert torch._C._len_torch_function_stack() == before
