"""When a step ends, what is recorded in it, and under which name."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from cases import WIDTH, Shared
from torch import Tensor, nn

import sigprop
from sigprop import BadInput, ProbeWarning, UnknownName


def mlp(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step()


def test_a_step_ends_at_the_optimizers_step() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves") as probe:
        train(model, optimizer, 3)
        assert probe.step_index == 3
    assert probe.records.signals["step"].unique().tolist() == [0, 1, 2]
    assert probe.records.parameters["step"].unique().tolist() == [0, 1, 2]


def test_without_an_optimizer_a_step_ends_at_the_next_training_forward() -> None:
    model = mlp()
    with sigprop.attach(model, blocks="leaves") as probe:
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(5, 3)).sum().backward()
    records = probe.records
    assert records.signals["step"].unique().tolist() == [0, 1, 2]
    assert records.parameters.groupby("step")["grad_norm"].count().tolist() == [4, 4, 4]
    assert records.parameters["update_to_weight"].isna().all()


def test_explicit_steps() -> None:
    model = mlp()
    with sigprop.attach(model, blocks="leaves") as probe:
        model(torch.randn(5, 3))
        probe.step()
        model(torch.randn(5, 3))
        probe.step()
    assert probe.records.signals["step"].unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("every", "steps"),
    [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (lambda step: step in (1, 4), [1, 4])],
)
def test_schedule(every: int | Callable[[int], bool], steps: list[int]) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves", every=every) as probe:
        train(model, optimizer, 5)
    assert probe.records.signals["step"].unique().tolist() == steps
    assert probe.records.parameters["step"].unique().tolist() == steps


def test_evaluation_is_kept_apart_from_training() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves") as probe:
        model(torch.randn(5, 3)).sum().backward()
        model.eval()
        with torch.no_grad():
            model(torch.randn(7, 3))
            model(torch.randn(7, 3))
        model.train()
        optimizer.step()
    out = probe.records.signals.query("name == '2' and port == 'out' and direction == 'forward'")
    assert dict(zip(out["mode"], out["count"], strict=True)) == {"train": 10, "eval": 28}


def test_evaluation_first_in_inference_mode_then_training() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
        with torch.inference_mode():
            model.eval()(torch.randn(5, 3))
        model.train()
        train(model, optimizer, 2)
    assert set(probe.records.signals["mode"]) == {"eval", "train"}


def test_reading_records_midway_loses_and_doubles_nothing() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves") as probe:
        model(torch.randn(5, 3)).sum().backward()
        midway = probe.records.signals
        again = probe.records.signals
        optimizer.step()
    assert len(midway) == len(again) == len(probe.records.signals) > 0


def test_drain_hands_rows_over_once() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves") as probe:
        train(model, optimizer, 2)
        assert probe.drain().signals["step"].unique().tolist() == [0, 1]
        train(model, optimizer, 1)
        assert probe.drain().signals["step"].unique().tolist() == [2]
        assert len(probe.drain().signals) == 0


def test_attaching_twice_gives_the_same_probe_and_no_double_rows() -> None:
    model = mlp()
    first = sigprop.attach(model, blocks="leaves")
    assert sigprop.attach(model, blocks="leaves") is first
    model(torch.randn(5, 3))
    rows = first.records.signals.query("port == 'out' and direction == 'forward'")
    assert rows["name"].tolist() == ["0", "1", "2"]
    with pytest.raises(BadInput, match="carries a probe with blocks='leaves', not 'auto'"):
        sigprop.attach(model)
    first.detach()
    second = sigprop.attach(model)
    assert second is not first
    second.detach()


def test_a_module_called_twice_is_numbered() -> None:
    model = Shared()
    with sigprop.attach(model, blocks="leaves") as probe:
        model(torch.randn(4, WIDTH)).sum().backward()
    out = probe.records.signals.query("port == 'out'")
    for direction in ("forward", "backward"):
        rows = out[out["direction"] == direction]
        assert set(zip(rows["name"], rows["call"], strict=True)) == {
            ("fc", 0),
            ("act", 0),
            ("fc#1", 1),
            ("act#1", 1),
        }


@dataclass
class Answer:
    logits: Tensor
    extra: None = None


class Nested(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.fc, self.form = nn.Linear(3, 3), form

    def forward(self, x: Tensor) -> object:
        y = self.fc(x)
        forms = {
            "tuple": (y, (y * 2, None)),
            "dict": {"logits": y},
            "dataclass": Answer(y),
            "list": [y],
        }
        return forms[self.form]


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("tuple", ["(model)[0]", "(model)[1][0]"]),
        ("dict", ["(model)[logits]"]),
        ("dataclass", ["(model)[logits]"]),
        ("list", ["(model)[0]"]),
    ],
)
def test_nested_outputs_are_walked(form: str, names: list[str]) -> None:
    model = Nested(form)
    with sigprop.attach(model, blocks="(model)") as probe:
        model(torch.randn(4, 3))
    rows = probe.records.signals.query("port == 'out'")
    assert rows["name"].tolist() == names


def test_recurrent_and_packed_outputs_have_gradients() -> None:
    model = nn.LSTM(3, 5, batch_first=True)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(2, 4, 3), [4, 2], batch_first=True)
    with sigprop.attach(model, blocks="leaves") as probe:
        out, (h, _) = model(packed)
        (out.data.sum() + h.sum()).backward()
    rows = probe.records.signals.query("port == 'out'")
    assert rows.query("direction == 'forward'")["name"].tolist() == [
        "(model)[0]",
        "(model)[1][0]",
        "(model)[1][1]",
    ]
    assert set(rows.query("direction == 'backward'")["name"]) == {"(model)[0]", "(model)[1][0]"}


def test_keyword_only_calls_have_an_input() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, *, x: Tensor) -> Tensor:
            return self.fc(x)

    model = nn.ModuleDict({"k": Keyword()})
    with sigprop.attach(model, blocks="k") as probe:
        model["k"](x=torch.randn(4, 3))
    assert probe.records.signals["port"].tolist() == ["in", "out"]


CHANNELS = {
    "linear on tokens": (nn.Linear(3, 5), torch.randn(2, 4, 3), 2, 5),
    "conv": (nn.Conv2d(2, 5, 1), torch.randn(3, 2, 4, 4), 1, 5),
    "conv in one dimension": (nn.Conv1d(2, 5, 1), torch.randn(3, 2, 4), 1, 5),
    "layer norm": (nn.LayerNorm(3), torch.randn(2, 4, 3), 2, 3),
    "group norm": (nn.GroupNorm(2, 4), torch.randn(2, 4, 3), 1, 4),
    "conv then relu": (nn.Sequential(nn.Conv2d(2, 5, 1), nn.ReLU()), torch.randn(3, 2, 4, 4), 1, 5),
    "linear then relu": (nn.Sequential(nn.Linear(3, 5), nn.ReLU()), torch.randn(2, 4, 3), 2, 5),
}


@pytest.mark.parametrize(("module", "x", "axis", "channels"), CHANNELS.values(), ids=CHANNELS)
def test_the_channel_axis_is_inferred(
    module: nn.Module, x: Tensor, axis: int, channels: int
) -> None:
    with sigprop.attach(module, blocks="leaves") as probe:
        module(x)
    last = probe.records.signals.query("port == 'out'").iloc[-1]
    assert last["channel_dim"] % x.ndim == axis
    assert last["channels"] == channels


def test_the_channel_axis_can_be_said() -> None:
    model = mlp()
    with sigprop.attach(model, blocks="leaves", channel_dim={"2": 0}) as probe:
        model(torch.randn(5, 3))
    rows = probe.records.signals.query("port == 'out'").set_index("name")
    assert rows.loc["2", "channels"] == 5
    assert rows.loc["0", "channels"] == 4


def test_coverage_speaks_of_every_module() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.used = nn.Linear(3, 3), nn.Linear(3, 3)
            self.forgotten = nn.Linear(3, 3)
            self.bag = nn.ModuleList([nn.Linear(3, 3)])
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.bag[0](self.used(self.frozen(x)))

    model = Partly()
    with sigprop.attach(model, blocks="leaves") as probe:
        model(torch.randn(4, 3)).sum().backward()
    table = probe.records.coverage.set_index("name")
    assert list(table.index) == ["(model)", "frozen", "used", "forgotten", "bag", "bag.0"]
    assert table["recorded"].to_dict() == {
        "(model)": False,
        "frozen": True,
        "used": True,
        "forgotten": False,
        "bag": False,
        "bag.0": True,
    }
    assert table.loc["frozen", "gradient"] == (
        "none: all before it is frozen, or cut off by detach or no_grad"
    )
    assert table.loc["used", "gradient"] == "recorded"
    reason = table["reason"]
    assert "never called" in reason["forgotten"]
    assert "container" in reason["bag"]
    assert "not selected" in reason["(model)"]


def test_names_match_the_bare_model_under_parametrization_and_checkpoint_wrappers() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.nn.utils.parametrizations import weight_norm

    model = mlp()
    weight_norm(model[0])
    model[2] = checkpoint_wrapper(model[2])
    with sigprop.attach(model, blocks="leaves") as probe:
        model(torch.randn(5, 3))
    assert probe.records.signals.query("port == 'out'")["name"].tolist() == ["0", "1", "2"]
    assert set(probe.records.coverage["name"]) == {"(model)", "0", "1", "2"}


def test_globs_callables_and_leaves() -> None:
    model = sigprop.networks.build("plain", depth=3, width=4, inputs=3)

    def out_names(blocks: Any) -> list[str]:
        with sigprop.attach(model, blocks=blocks) as probe:
            model(torch.randn(5, 3))
        rows = probe.records.signals.query("port == 'out'")
        return [n for n in rows["name"] if "act" not in n]

    assert out_names("auto") == ["blocks.0", "blocks.1", "blocks.2"]
    assert out_names("blocks.[02]") == ["blocks.0", "blocks.2"]
    assert out_names(["blocks.1", "head*"])[0] == "blocks.1"
    assert out_names(lambda name, module: name == "blocks.2") == ["blocks.2"]


def test_blocks_are_numbered_in_execution_order() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(self.b(x))

    model = Backwards()
    with sigprop.attach(model, blocks="leaves") as probe:
        model(torch.randn(2, 3))
    rows = probe.records.signals.query("port == 'out'")
    assert dict(zip(rows["name"], rows["block"], strict=True)) == {"b": 0, "a": 1}


def bad_inputs() -> dict[str, tuple[dict[str, object], type[Exception], str]]:
    return {
        "glob": ({"blocks": "layr*"}, UnknownName, "no module's name matches 'layr*'"),
        "callable": ({"blocks": lambda n, m: False}, BadInput, "chose none of 4 modules"),
        "blocks": ({"blocks": []}, BadInput, "blocks is 'auto', 'leaves', a glob"),
        "every": ({"every": 0}, BadInput, "every is a whole number of steps from 1"),
        "window": ({"window": 0}, BadInput, "window is a whole number"),
        "optimizer": ({"optimizer": "sgd"}, BadInput, "optimizer is a torch.optim.Optimizer"),
        "metric": (
            {"metrics": ["second_momnt"]},
            UnknownName,
            "no metric is called 'second_momnt'; did you mean 'second_moment'?",
        ),
        "taken": ({"metrics": {"mean": torch.mean}}, BadInput, "'mean' is a column already"),
    }


@pytest.mark.parametrize(("options", "kind", "message"), bad_inputs().values(), ids=bad_inputs())
def test_bad_options_get_one_clear_sentence(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    model = mlp()
    with pytest.raises(kind) as error:
        sigprop.attach(model, **options)
    assert message in str(error.value)
    assert not model[0]._forward_hooks


def test_the_nearest_module_name_is_offered() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2)})
    with pytest.raises(UnknownName, match="did you mean 'encoder'"):
        sigprop.attach(model, blocks="encodr")


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(BadInput, match=r"attached to an nn\.Module, not to int"):
        sigprop.attach(cast(nn.Module, 3))
    with pytest.raises(BadInput, match="ReLU has no parameters"):
        sigprop.attach(nn.ReLU())


def test_a_failing_metric_is_switched_off_with_one_warning() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.warns(ProbeWarning, match=r"the metric 'bad' failed .* and is now off") as caught,
        sigprop.attach(model, optimizer, metrics={"bad": lambda t: cast(Any, t).nope()}) as probe,
    ):
        train(model, optimizer, 2)
    assert len(caught) == 1
    assert probe.records.signals["bad"].isna().all()
    assert probe.records.signals["second_moment"].notna().all()


def test_an_internal_error_switches_the_probe_off_and_training_goes_on(monkeypatch) -> None:
    from sigprop.capture.recording.reader import TensorReader

    def explode(*_: object) -> None:
        raise AssertionError("inside")

    monkeypatch.setattr(TensorReader, "read", explode)
    model = mlp()
    with (
        pytest.warns(ProbeWarning, match="the probe failed and is now off"),
        sigprop.attach(model) as probe,
    ):
        model(torch.randn(5, 3)).sum().backward()
    assert "the probe failed" in " ".join(probe.records.coverage["reason"])
    with pytest.raises(AssertionError, match="inside"), sigprop.attach(model, strict=True):
        model(torch.randn(5, 3))


def test_empty_batches_leave_counts_unchanged() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
            model(torch.randn(5, 3)).sum().backward()
            model(torch.randn(0, 3)).sum().backward()
            optimizer.step()
    rows = probe.records.signals.query("port == 'out' and direction == 'forward'")
    assert rows["count"].tolist() == [20, 20, 10]


def hooks_on(model: nn.Module) -> int:
    inner = [module for module in model.modules() if module is not model]
    return sum(
        len(hooks)
        for thing in (*inner, *model.parameters())
        for hooks in (
            getattr(thing, "_forward_hooks", None),
            getattr(thing, "_forward_pre_hooks", None),
            getattr(thing, "_post_accumulate_grad_hooks", None),
        )
        if hooks
    )


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_a_step_that_is_not_recorded_has_no_hooks_inside_the_model(with_optimizer) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with sigprop.attach(
        model, optimizer if with_optimizer else None, blocks=["(model)", "**"], every=3
    ) as probe:
        for _ in range(7):
            optimizer.zero_grad()
            model(torch.randn(5, 3)).sum().backward()
            seen.append(hooks_on(model) > 0)
            optimizer.step()
        signals, parameters = probe.records.signals, probe.records.parameters
    assert seen == [True, False, False, True, False, False, True]
    assert hooks_on(model) == 0
    by_step = signals.groupby("step")[["name", "port", "direction"]].agg(list)
    assert by_step.index.tolist() == parameters["step"].unique().tolist() == [0, 3, 6]
    first, second, third = by_step.to_numpy().tolist()
    assert "(model)" in first[0]
    assert first == second == third


def test_an_update_that_raised_leaves_nothing_to_compare() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fail() -> float:
        raise KeyboardInterrupt

    with sigprop.attach(model, optimizer, blocks="leaves") as probe:
        model(torch.randn(5, 3)).sum().backward()
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(fail)
        weight = model.get_parameter("0.weight")
        weight.grad = None
        with torch.no_grad():
            weight.add_(1)
        optimizer.step()
    moved = probe.records.parameters.set_index("name")["update_to_weight"]
    assert moved.isna().to_dict() == {name: name == "0.weight" for name in moved.index}


def python_calls(act) -> int:
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_a_step_that_is_not_recorded_costs_the_same_for_any_number_of_modules(
    with_optimizer,
) -> None:
    def added(depth: int) -> int:
        model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def calls() -> int:
            train(model, optimizer, 2)  # the first steps may set things up
            return python_calls(lambda: train(model, optimizer, 1))

        bare = calls()
        known = optimizer if with_optimizer else None
        with sigprop.attach(model, known, blocks="leaves", every=lambda step: step == 0):
            return calls() - bare

    assert 0 < added(2) == added(60) < 100
