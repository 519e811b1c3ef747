"""What can carry a probe, which options fit, and what is left after `detach`."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sigprop
from sigprop import BadInput
from sigprop.probing.options import ProbeOptions


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def everything_on(model: nn.Module) -> list[dict[str, object]]:
    """Return every list of hooks and flag of hooks of every module and parameter."""
    kinds = [name for name in vars(nn.Module()) if name.endswith(("hooks", "kwargs", "called"))]
    assert len(kinds) > 6
    found: list[dict[str, object]] = [
        {kind: dict(getattr(module, kind)) for kind in kinds} for module in model.modules()
    ]
    for parameter in model.parameters():
        on: Any = parameter
        found.append(
            {"arrival": on._post_accumulate_grad_hooks or None, "backward": on._backward_hooks}
        )
    return found


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_the_users_own_hooks_are_as_they_were(with_optimizer: bool) -> None:
    model = mlp()
    seen: list[str] = []
    model.register_forward_hook(lambda *_: seen.append("whole"), always_call=True)
    model[0].register_forward_pre_hook(lambda *_: seen.append("before"), with_kwargs=True)
    model[0].register_forward_hook(lambda *_: seen.append("after"), with_kwargs=True)
    before = everything_on(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if with_optimizer else None
    with sigprop.attach(model, optimizer, blocks="leaves", every=2):
        for _ in range(3):
            model(torch.randn(5, 3)).sum().backward()
            if optimizer is not None:
                optimizer.step()
        assert everything_on(model) != before
    assert everything_on(model) == before
    assert seen == ["before", "after", "whole"] * 3


def test_what_a_hook_of_the_user_returned_is_what_is_recorded() -> None:
    model = mlp()
    model[0].register_forward_hook(lambda module, args, output: output * 0 + 3.0)
    with sigprop.attach(model, blocks="leaves", every=2, strict=True) as probe:
        for _ in range(3):
            model(torch.randn(5, 3)).sum().backward()
    rows = probe.records.signals.query("direction == 'forward'")
    for name, port in (("0", "out"), ("1", "in")):
        table = rows[(rows["name"] == name) & (rows["port"] == port)]
        assert table["second_moment"].tolist() == [9.0, 9.0]


def test_options_are_frozen_and_say_what_is_wrong_with_them() -> None:
    options = ProbeOptions(every=3)
    with pytest.raises(AttributeError):
        options.every = 4  # type: ignore[misc]
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "every": ({"every": 0}, "every is a whole number of steps from 1, or a callable, not 0"),
        "step": ({"step": -1}, "step is the number of the first step, from 0, not -1"),
        "window": (
            {"window": 0},
            "window is a whole number of recorded steps from 1, or None, not 0",
        ),
        "scaler": ({"scaler": 1024.0}, "scaler is a torch.amp.GradScaler, not float"),
        "share": (
            {"overhead": float("inf")},
            "overhead is a share of the step time such as 0.03, not inf",
        ),
        "both": (
            {"overhead": 0.03, "every": 10},
            "overhead chooses the cadence by itself; leave every=10 out",
        ),
    }
    for given, message in wrong.values():
        with pytest.raises(BadInput) as error:
            ProbeOptions(**given)
        assert str(error.value) == message


def test_every_option_of_a_second_attach_must_be_the_same() -> None:
    model = mlp()
    with sigprop.attach(model, blocks="leaves", window=3) as probe:
        assert sigprop.attach(model, blocks="leaves", window=3) is probe
        with pytest.raises(BadInput) as error:
            sigprop.attach(model, blocks="leaves")
    assert str(error.value) == (
        "this model carries a probe with window=3, not None; detach it first"
    )


def test_a_wrapper_of_a_probed_model_is_refused() -> None:
    model = mlp()
    wrapper = nn.DataParallel(model)
    with sigprop.attach(model):
        with pytest.raises(BadInput) as error:
            sigprop.attach(wrapper)
        assert str(error.value) == "the model inside this wrapper carries a probe; detach it first"
    with sigprop.attach(wrapper):
        pass


@pytest.mark.parametrize("kind", ["lazy", "plain"])
def test_a_detached_probe_keeps_no_parameter_alive(kind: str) -> None:
    model = nn.Sequential(nn.LazyLinear(4) if kind == "lazy" else nn.Linear(3, 4))
    probe = sigprop.attach(model, blocks="leaves")
    model(torch.randn(5, 3)).sum().backward()
    parameter = weakref.ref(next(model.parameters()))
    probe.detach()
    del model
    gc.collect()
    assert parameter() is None
    assert len(probe.records.signals) > 0


def test_a_probe_detached_inside_a_compiled_backward_ends_no_step() -> None:
    model = mlp()
    probe = sigprop.attach(model, blocks="leaves")
    compiled = torch.compile(model, backend="eager")
    compiled(torch.randn(5, 3)).sum().backward()
    assert probe.step_index == 1
    # The last gradient of a backward pass is that of the first layer.
    last: Any = next(model.parameters())
    last.register_post_accumulate_grad_hook(lambda _: probe.detach())
    compiled(torch.randn(5, 3)).sum().backward()
    assert probe.step_index == 1
    assert not model._forward_pre_hooks


# --- models whose weights are no parameters ---------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_activations_of_a_quantized_model_are_read() -> None:
    torch.manual_seed(0)
    plain = mlp()
    model = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=torch.qint8)
    assert not list(model.parameters())
    x = torch.randn(64, 3)
    expected = model(x)
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        assert torch.equal(model(x), expected)
    rows = probe.records.signals.query("port == 'out'").set_index("name")
    assert list(rows.index) == ["0", "1", "2"]
    assert rows.loc["2", "second_moment"] == pytest.approx(expected.square().mean().item())
    assert len(probe.records.parameters) == 0


def test_a_model_of_modules_without_parameters_is_read() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Tanh())
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        model(torch.randn(5, 3))
    assert probe.records.signals.query("port == 'out'")["name"].tolist() == ["0", "1"]


class Narrow(nn.Module):
    """Returns what eight bits hold."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.fc, self.dtype = nn.Linear(3, 4), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).to(self.dtype)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_an_output_of_eight_bits_is_read(dtype: torch.dtype) -> None:
    model = Narrow(dtype)
    with sigprop.attach(model, blocks="(model)", strict=True) as probe, torch.no_grad():
        y = model(torch.randn(64, 3))
    row = probe.records.signals.query("port == 'out'").iloc[0]
    assert row["second_moment"] == pytest.approx(y.double().square().mean().item(), rel=1e-6)
    assert row["max_abs"] == y.double().abs().max().item()


# --- copies -----------------------------------------------------------------------------------

LOAD = """
import sys

class NotHere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sigprop":
            raise ImportError("sigprop is not here")

sys.meta_path.insert(0, NotHere())
import torch

model = torch.load(sys.argv[1], weights_only=False)
x = torch.ones(2, 3)
model(x).sum().backward()
assert all(p.grad is not None for p in model.parameters())
print(model(x).sum().item())
"""


def test_a_model_saved_with_a_probe_on_it_loads_without_sigprop(tmp_path: Path) -> None:
    model = mlp()
    with sigprop.attach(model, blocks="leaves", strict=True):
        torch.save(model, tmp_path / "model.pt")
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "model.pt")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    assert float(ran.stdout) == pytest.approx(model(torch.ones(2, 3)).sum().item())


@pytest.mark.parametrize("backend", ["eager"])
def test_a_copy_of_a_probed_model_compiles_whole(backend: str) -> None:
    import copy

    model = mlp()
    with sigprop.attach(model, blocks="leaves", strict=True):
        twin = copy.deepcopy(model)
    assert "sigprop" not in repr([vars(module) for module in twin.modules()])
    x = torch.ones(2, 3)
    call: Callable[[Tensor], Tensor] = torch.compile(twin, backend=backend, fullgraph=True)
    assert torch.equal(call(x), model(x))
