"""Every recorded number, through a real model, against a float64 oracle unaware of the probe."""

from __future__ import annotations

import math
from typing import Any

import oracles
import pandas as pd
import pytest
import torch
from cases import ResNet
from torch import Tensor, nn

import sigprop


def expected(
    net: ResNet, x: Tensor, targets: Tensor
) -> dict[tuple[str, str], tuple[Tensor, Tensor | None]]:
    """Return (activation, gradient) by (name, port): the same net written out, out of place."""
    seen: dict[tuple[str, str], Tensor] = {}

    def keep(name: str, port: str, tensor: Tensor) -> Tensor:
        tensor.retain_grad()
        seen[name, port] = tensor
        return tensor

    h = net.stem(x)
    blocks: Any = net.blocks
    for index, block in enumerate(blocks):
        name = f"blocks.{index}"
        h = keep(name, "in", h)
        seen[name, "skip"] = h
        branch = keep(name, "branch", block.bn(block.conv(h)))
        h = keep(name, "out", torch.relu(h + branch))
    loss = nn.functional.cross_entropy(net.head(h.mean((2, 3))), targets)
    loss.backward()
    return {key: (tensor.detach(), tensor.grad) for key, tensor in seen.items()}


@pytest.fixture(scope="module")
def measured() -> tuple[pd.DataFrame, dict[tuple[str, str], tuple[Tensor, Tensor | None]]]:
    torch.manual_seed(0)
    net, x = ResNet(), torch.randn(6, 2, 5, 5)
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    records = sigprop.measure(net, x, targets)
    return records.signals, expected(net, x, targets)


KEYS = [(f"blocks.{b}", port) for b in (0, 1) for port in ("in", "skip", "branch", "out")]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("key", KEYS, ids=[f"{name}-{port}" for name, port in KEYS])
def test_every_tap_equals_the_oracle(measured, key, direction) -> None:
    signals, truth = measured
    rows = signals.query("name == @key[0] and port == @key[1] and direction == @direction")
    assert len(rows) == 1
    row = rows.iloc[0]
    x = truth[key][direction == "backward"]
    assert row["channel_dim"] == 1
    assert row["channels"] == 4
    assert row["count"] == x.numel()
    assert row["second_moment"] == pytest.approx(oracles.second_moment(x), rel=1e-5)
    assert row["channel_variance"] == pytest.approx(oracles.channel_variance(x, 1), rel=1e-5)
    assert row["mean_shift"] == pytest.approx(oracles.mean_shift(x, 1), rel=1e-4, abs=1e-12)
    assert row["kurtosis"] == pytest.approx(oracles.kurtosis(x), rel=1e-4)
    assert row["mean"] == pytest.approx(float(x.double().mean()), rel=1e-4, abs=1e-8)
    assert row["max_abs"] == pytest.approx(float(x.abs().max()), rel=1e-6)
    assert row["zero_fraction"] == oracles.zero_fraction(x)
    assert row["nonfinite"] == 0


def test_the_identity_holds_at_every_tap(measured) -> None:
    signals, _ = measured
    total = signals["channel_variance"] + signals["mean_shift"]
    assert ((total - signals["second_moment"]).abs() <= 1e-6 * signals["second_moment"]).all()


def test_dead_units_are_told_at_rectified_taps_only(measured) -> None:
    signals, truth = measured
    counted = signals[signals["dead_fraction"].notna()]
    forward_out = signals.query("port == 'out' and direction == 'forward'")
    # The second block's input is the first block's rectified output, but as an input it is not
    # a tap of its own rectifier.
    assert set(counted["port"]) == {"out"}
    for name in ("blocks.0", "blocks.1"):
        row = forward_out[forward_out["name"] == name].iloc[0]
        assert row["dead_fraction"] == oracles.dead_fraction([truth[name, "out"][0]], 1)


def test_skip_and_branch_correlation_equals_the_oracle(measured) -> None:
    signals, truth = measured
    rows = signals[signals["skip_branch_correlation"].notna()]
    assert set(zip(rows["port"], rows["direction"], strict=True)) == {("branch", "forward")}
    for _, row in rows.iterrows():
        skip, branch = (truth[row["name"], port][0] for port in ("skip", "branch"))
        assert row["skip_branch_correlation"] == pytest.approx(
            oracles.correlation(skip, branch), rel=1e-4, abs=1e-6
        )


def test_parameters_equal_the_oracle() -> None:
    torch.manual_seed(1)
    net, x = ResNet(), torch.randn(6, 2, 5, 5)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with sigprop.attach(net, optimizer) as probe:
        net(x).square().sum().backward()
        optimizer.step()
    after = {name: p.detach() for name, p in net.named_parameters()}
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    rows = probe.records.parameters.set_index("name")
    assert list(rows.index) == list(before)
    for name, weight in before.items():
        grad = grads[name]
        row: Any = rows.loc[name]
        w, g, moved = (oracles.norm(t) for t in (weight, grad, after[name] - weight))
        assert row["count"] == weight.numel()
        assert row["weight_norm"] == pytest.approx(w, rel=1e-6)
        assert row["grad_norm"] == pytest.approx(g, rel=1e-6)
        if w == 0:  # BatchNorm's bias: nothing to divide by
            assert all(math.isnan(row[c]) for c in ("grad_to_weight", "update_to_weight"))
            continue
        assert row["grad_to_weight"] == pytest.approx(g / w, rel=1e-5)
        assert row["update_to_weight"] == pytest.approx(moved / w, rel=1e-4)
        assert row["effective_lr"] == pytest.approx(0.01 / w**2, rel=1e-5)
        cosine = float((weight.double() * after[name].double()).sum()) / (
            w * oracles.norm(after[name])
        )
        # arccos of a float64 cosine is good to 1e-8 absolute.
        assert row["angular_update"] == pytest.approx(math.acos(min(1.0, cosine)), abs=1e-6)
    assert rows.loc["blocks.1.conv.weight", "block"] == 1
    assert rows.loc["head.weight", "block"] == -1


def test_spectra_equal_numpy() -> None:
    import numpy as np

    torch.manual_seed(2)
    net = ResNet()
    spectra = sigprop.measure(net, torch.randn(2, 2, 4, 4)).spectra
    weight = net.get_parameter("blocks.0.conv.weight").detach().double().reshape(4, -1).numpy()
    values = spectra.query("name == 'blocks.0.conv.weight'")["singular_value"].to_numpy()
    np.testing.assert_allclose(values, np.linalg.svd(weight, compute_uv=False), rtol=1e-12)
    assert set(spectra["name"]) == {n for n, p in net.named_parameters() if p.ndim > 1}
    np.testing.assert_allclose(np.exp(spectra["log_singular_value"]), spectra["singular_value"])


def test_micro_batches_of_one_step_merge_to_the_whole_batch() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    x = torch.randn(30, 5)

    def rows(parts: list[Tensor]) -> pd.DataFrame:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        with sigprop.attach(net, optimizer, blocks="leaves") as probe:
            for part in parts:
                (net(part).sum() / len(x)).backward()
            optimizer.step()
            optimizer.zero_grad()
        return probe.records.signals

    whole, split = rows([x]), rows(list(x.split([4, 11, 15])))
    numbers = ["second_moment", "channel_variance", "mean_shift", "kurtosis", "dead_fraction"]
    pd.testing.assert_frame_equal(
        whole[["name", "port", "count", *numbers]],
        split[["name", "port", "count", *numbers]],
        rtol=1e-5,
        atol=1e-9,
    )


def test_dead_units_over_a_window_of_batches() -> None:
    linear = nn.Linear(2, 2, bias=False)
    nn.init.eye_(linear.weight)
    net = nn.Sequential(linear, nn.ReLU())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    batches = [torch.tensor([pair]) for pair in ([1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0])]

    def dead(window: int | None) -> list[float]:
        with sigprop.attach(net, optimizer, blocks="leaves", window=window) as probe:
            for batch in batches:
                net(batch).sum().backward()
                optimizer.step()
        rows = probe.records.signals.query(
            "name == '1' and port == 'out' and direction == 'forward'"
        )
        return rows["dead_fraction"].tolist()

    assert dead(None) == [0.5, 0.5, 0.0]
    assert dead(1) == [0.5, 1.0, 0.5]
    assert oracles.dead_fraction([b.relu() for b in batches], 1) == 0.0


def test_own_metrics_become_columns_and_merge_by_count() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    x = torch.randn(12, 3)
    with sigprop.attach(
        net, optimizer, blocks="leaves", metrics={"l1": lambda t: t.abs().mean()}
    ) as probe:
        for part in x.split([2, 10]):
            net(part).sum().backward()
        optimizer.step()
    row = probe.records.signals.query("name == '1' and port == 'out' and direction == 'forward'")
    assert row["l1"].item() == pytest.approx(float(net(x).detach().abs().mean()), rel=1e-6)


def test_an_in_place_rectifier_under_inference_mode_is_read_anew() -> None:
    """Inference tensors have no version counter: statistics made before a write is stale."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)).eval()
    x = torch.randn(32, 4)
    with sigprop.attach(net, blocks="leaves", strict=True) as probe, torch.inference_mode():
        net(x)
    rows = probe.records.signals.query("port == 'out'").set_index("name")
    before = net[0](x).detach()
    assert rows.loc["0", "second_moment"] == pytest.approx(oracles.second_moment(before), rel=1e-5)
    after = before.relu()
    assert rows.loc["1", "second_moment"] == pytest.approx(oracles.second_moment(after), rel=1e-5)
    assert rows.loc["1", "dead_fraction"] == oracles.dead_fraction([after], 1)


def test_an_early_fetch_loses_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from sigprop.capture.recording import accumulator

    torch.manual_seed(0)
    net, x = ResNet(), torch.randn(6, 2, 5, 5)
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    whole = sigprop.measure(net, x, targets).signals
    monkeypatch.setattr(accumulator, "MOST_WAITING", 0)  # fetch after every tensor
    piecemeal = sigprop.measure(net, x, targets).signals
    keys = ["name", "port", "direction"]
    pd.testing.assert_frame_equal(
        whole.sort_values(keys, ignore_index=True), piecemeal.sort_values(keys, ignore_index=True)
    )
