"""Optimizers around a probe: wrappers, closures, subclasses, scalers, and the wrong one."""

from __future__ import annotations

import gc
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import sigprop
from sigprop import BadInput, ProbeWarning
from sigprop.probing.optimizer_hooks import parameters_of


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def batch(n: int = 6) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(n))


def of(frame: pd.DataFrame, row: object, column: str) -> float:
    value: Any = frame.loc[row, column]  # type: ignore[index]
    return float(value)


def norms(model: nn.Module) -> dict[str, float]:
    return {
        name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None
    }


def parameters(probe: sigprop.Probe, step: int = 0) -> Any:
    return probe.records.parameters.query("step == @step").set_index("name")


def hooks(model: nn.Module) -> int:
    kinds = [name for name in vars(nn.Module()) if name.endswith(("hooks", "kwargs", "called"))]
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


# --- wrappers ---------------------------------------------------------------------------------


class LikeAccelerate(Optimizer):
    """Derives from Optimizer, never calls its __init__, and has no hooks: as in Accelerate."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = groups

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


class LikeLightning:
    """Not an Optimizer at all; ``optimizer`` is a property: as in Lightning."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    @property
    def optimizer(self) -> Any:
        return self._optimizer

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        self._optimizer.step(closure or (lambda: None))

    def zero_grad(self) -> None:
        self._optimizer.zero_grad()


def accelerated(optimizer: Optimizer) -> Any:
    if importlib.util.find_spec("accelerate") is None:
        pytest.skip("accelerate is not installed")
    from accelerate import Accelerator  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return Accelerator(cpu=True).prepare_optimizer(optimizer)


WRAPPERS: dict[str, Callable[[Optimizer], Any]] = {
    "like Accelerate's": LikeAccelerate,
    "like Lightning's": LikeLightning,
    "of a wrapper": lambda optimizer: LikeLightning(LikeAccelerate(optimizer)),
    "Accelerate's": accelerated,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_optimizer_is_probed(wrap: Callable[[Optimizer], Any]) -> None:
    model = mlp()
    inner = SGD(model.parameters(), lr=0.1)
    optimizer = wrap(inner)
    with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
        assert sigprop.attach(model, optimizer, blocks="leaves", strict=True) is probe
        for _ in range(3):
            optimizer.zero_grad()
            model(batch()).square().sum().backward()
            expected = norms(model)
            optimizer.step()
    assert probe.records.parameters["step"].unique().tolist() == [0, 1, 2]
    assert parameters(probe, 2)["grad_norm"].to_dict() == pytest.approx(expected, rel=1e-5)
    assert not inner._optimizer_step_pre_hooks


@pytest.mark.parametrize(
    "thing",
    ["sgd", LikeLightning(LikeLightning(None))],
    ids=["a name", "a wrapper of nothing"],
)
def test_what_wraps_no_optimizer_is_refused(thing: Any) -> None:
    model = mlp()
    for _ in range(2):
        with pytest.raises(BadInput) as error:
            sigprop.attach(model, thing)
    assert str(error.value) == (
        "optimizer is a torch.optim.Optimizer, or wraps one in its attribute `optimizer`, not "
        f"{type(thing).__name__}"
    )
    assert hooks(model) == 0


def test_a_wrapper_that_wraps_itself_is_refused() -> None:
    class Loop:
        @property
        def optimizer(self) -> Loop:
            return self

    with pytest.raises(BadInput, match="not Loop"):
        sigprop.attach(mlp(), Loop())  # type: ignore[arg-type]


# --- what fails leaves nothing ----------------------------------------------------------------


def test_an_attach_that_fails_late_leaves_no_hook_and_no_flag() -> None:
    config = torch._dynamo.config
    before = config.skip_nnmodule_hook_guards
    model = mlp()

    class Refuses(SGD):
        hooks = 0

        def register_step_pre_hook(self, hook: Any) -> Any:
            self.hooks += 1
            if self.hooks > 1:  # the first is put on to see whether it takes any
                raise MemoryError("no more hooks")
            return super().register_step_pre_hook(hook)

    from torch.optim.optimizer import _global_optimizer_post_hooks

    count = len(_global_optimizer_post_hooks)
    for _ in range(2):
        with pytest.raises(MemoryError, match="no more hooks"):
            sigprop.attach(model, Refuses(model.parameters(), lr=0.1))
        assert hooks(model) == 0
        assert all(not p._post_accumulate_grad_hooks for p in model.parameters())
        assert config.skip_nnmodule_hook_guards == before
        assert len(_global_optimizer_post_hooks) == count
    with sigprop.attach(model, SGD(model.parameters(), lr=0.1)):
        assert hooks(model) > 0
    assert len(_global_optimizer_post_hooks) == count
    assert config.skip_nnmodule_hook_guards == before


# --- one step per step ------------------------------------------------------------------------


class Scheduled(SGD):
    """Its step calls that of its base, which runs hooks too, and decays the weights afterwards."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for p in parameters_of(self):
                p.mul_(0.5)
        return loss


def test_a_subclass_that_calls_its_base_steps_once() -> None:
    SGD([nn.Parameter(torch.ones(1))])  # from now on SGD.step runs hooks by itself
    model = mlp()
    optimizer = Scheduled(model.parameters(), lr=0.1)
    weight, moved = next(model.parameters()), []
    with sigprop.attach(model, optimizer, strict=True) as probe:
        for _ in range(3):
            before = weight.detach().clone()
            model(batch()).sum().backward()
            optimizer.step()
            moved.append(((weight.detach() - before).norm() / before.norm()).item())
        assert probe.step_index == 3
    rows = probe.records.parameters.query("name == '0.weight'")
    assert rows["update_to_weight"].tolist() == pytest.approx(moved, rel=1e-4)


def test_after_a_step_that_raised_the_next_one_counts() -> None:
    class Fails(Scheduled):
        fail = True

        def step(self, closure: Any = None) -> Any:
            if self.fail:
                raise ArithmeticError
            return super().step(closure)

    model = mlp()
    optimizer = Fails(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, strict=True) as probe:
        model(batch()).sum().backward()
        with pytest.raises(ArithmeticError):
            optimizer.step()
        assert probe.step_index == 0
        optimizer.fail = False
        for _ in range(2):
            optimizer.step()
        assert probe.step_index == 2


def test_the_steps_of_other_optimizers_end_none() -> None:
    model = mlp()
    first, last = SGD(model[0].parameters(), lr=0.1), SGD(model[2].parameters(), lr=0.1)
    elsewhere = SGD(mlp().parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sigprop.attach(model, first, strict=True) as probe:
            for _ in range(3):
                model(batch()).sum().backward()
                elsewhere.step()
                last.step()
                first.step()
            assert probe.step_index == 3


def test_parameters_of_another_optimizer_have_no_update() -> None:
    """They moved, by what this one did not do: 0 would be a lie."""
    model = mlp()
    first, last = SGD(model[0].parameters(), lr=0.1), SGD(model[2].parameters(), lr=0.1)
    with sigprop.attach(model, first, strict=True) as probe:
        model(batch()).square().sum().backward()
        last.step()
        first.step()
    rows = parameters(probe)
    inside = rows.index.str.startswith("0.")
    assert (rows.loc[inside, ["update_to_weight", "angular_update"]] > 0).all(axis=None)
    assert (
        rows.loc[~inside, ["update_to_weight", "angular_update", "effective_lr"]]
        .isna()
        .all(axis=None)
    )
    assert rows["grad_norm"].notna().all()


def test_groups_with_learning_rates_of_their_own() -> None:
    model = mlp()
    groups: list[dict[str, Any]] = [
        {"params": model[0].parameters(), "lr": 0.5},
        {"params": model[2].parameters()},
    ]
    optimizer = SGD(groups, lr=0.125)
    with sigprop.attach(model, optimizer, strict=True) as probe:
        model(batch()).sum().backward()
        optimizer.step()
    rows = parameters(probe)
    rate = rows["effective_lr"] * rows["weight_norm"] ** 2
    assert rate.to_dict() == pytest.approx(
        {"0.weight": 0.5, "0.bias": 0.5, "2.weight": 0.125, "2.bias": 0.125}
    )


def test_an_optimizer_without_a_learning_rate() -> None:
    class Halves(Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            with torch.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.mul_(0.5)

    model = mlp()
    optimizer = Halves(model.parameters())
    with sigprop.attach(model, optimizer, strict=True) as probe:
        model(batch()).sum().backward()
        optimizer.step()
    rows = parameters(probe)
    assert rows["update_to_weight"].tolist() == pytest.approx([0.5] * 4)
    assert rows["effective_lr"].isna().all()


def test_a_probe_that_is_gone_disturbs_no_step_of_another_optimizer() -> None:
    """PyTorch goes through its hooks, the gone probe's first, while an optimizer steps."""
    from torch.optim.optimizer import _global_optimizer_post_hooks

    count = len(_global_optimizer_post_hooks)
    gone = mlp()
    optimizer = SGD(gone.parameters(), lr=0.1)
    sigprop.attach(gone, optimizer)
    model = mlp()
    trains = SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, trains, strict=True) as probe:
        del gone, optimizer
        gc.collect()
        for _ in range(2):
            model(batch()).sum().backward()
            trains.step()
        assert probe.step_index == 2
    with sigprop.attach(mlp(), SGD(model.parameters(), lr=0.1)):
        pass
    assert len(_global_optimizer_post_hooks) == count


# --- closures ---------------------------------------------------------------------------------


def closure_of(model: nn.Module, optimizer: Optimizer, seen: list[dict[str, float]]) -> Any:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(batch(len(seen) + 3)).square().mean()
        loss.backward()
        seen.append(norms(model))
        return loss

    return closure


@pytest.mark.parametrize("keyword", [True, False])
@pytest.mark.parametrize("kind", [Adam, SGD, Scheduled])
def test_a_closures_gradient_is_that_of_its_step(kind: Any, keyword: bool) -> None:
    model = mlp()
    optimizer = kind(model.parameters(), lr=0.01)
    seen: list[dict[str, float]] = []
    with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
        weight = next(model.parameters())
        before = weight.detach().clone()
        for _ in range(3):
            closure = closure_of(model, optimizer, seen)
            loss = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
            assert isinstance(loss, Tensor)
            if len(seen) == 1:
                moved = (weight.detach() - before).norm() / before.norm()
    for step, expected in enumerate(seen):
        assert parameters(probe, step)["grad_norm"].to_dict() == pytest.approx(expected, rel=1e-5)
    first = parameters(probe).loc["0.weight"]
    assert first["update_to_weight"] == pytest.approx(moved.item(), rel=1e-4)
    assert first["weight_norm"] == pytest.approx(before.norm().item(), rel=1e-6)


def test_lbfgs_reads_the_gradient_that_its_direction_is_from() -> None:
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    seen: list[dict[str, float]] = []
    starts = []
    with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
        for _ in range(2):
            starts.append(len(seen))
            optimizer.step(closure_of(model, optimizer, seen))
        assert probe.step_index == 2
    assert len(seen) > 4
    for step, start in enumerate(starts):
        rows = parameters(probe, step)
        assert rows["grad_norm"].to_dict() == pytest.approx(seen[start], rel=1e-5)
        assert (rows["update_to_weight"] > 0).all()


def test_a_perturbation_before_the_closure_is_no_part_of_the_update() -> None:
    """As sharpness-aware steps do: the weights move away and back around a second gradient."""

    class Perturbs(SGD):
        def step(self, closure: Any = None) -> Any:
            away = [torch.ones_like(p) for group in self.param_groups for p in group["params"]]
            with torch.no_grad():
                for p, e in zip(self.param_groups[0]["params"], away, strict=True):
                    p.add_(e)
                with torch.enable_grad():
                    closure()
                for p, e in zip(self.param_groups[0]["params"], away, strict=True):
                    p.sub_(e)
                for p in self.param_groups[0]["params"]:
                    p.sub_(0.25 * p)

    model = mlp()
    optimizer = Perturbs(model.parameters(), lr=0.1)
    before = {name: p.norm().item() for name, p in model.named_parameters()}
    with sigprop.attach(model, optimizer, strict=True) as probe:
        optimizer.step(lambda: model(batch()).sum().backward())
    rows = parameters(probe)
    moved = rows["update_to_weight"] * rows["weight_norm"]
    # Up to the rounding of +1 and -1 in float32.
    assert moved.to_dict() == pytest.approx(
        {name: 0.25 * norm for name, norm in before.items()}, rel=1e-5
    )
    assert rows["weight_norm"].to_dict() == pytest.approx(before, rel=1e-5)


def test_a_closure_is_left_alone_on_steps_that_are_not_recorded() -> None:
    model = mlp()
    given: list[object] = []

    class Notes(SGD):
        def step(self, closure: Any = None) -> Any:
            given.append(closure)
            closure()

    optimizer = Notes(model.parameters(), lr=0.1)
    closure = closure_of(model, optimizer, [])
    with sigprop.attach(model, optimizer, every=2, strict=True):
        for _ in range(3):
            optimizer.step(closure)
    assert [it is closure for it in given] == [False, True, False]


def test_a_closure_that_raises_reaches_the_user() -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)

    def closure() -> float:
        raise ArithmeticError("mine")

    with sigprop.attach(model, optimizer, strict=True) as probe:
        with pytest.raises(ArithmeticError, match="mine"):
            optimizer.step(closure)
        assert probe.step_index == 0


# --- the wrong optimizer ----------------------------------------------------------------------


def test_an_optimizer_of_another_model_is_noticed_at_its_first_step() -> None:
    model, other = mlp(), mlp()
    optimizer = Adam(other.parameters())
    with sigprop.attach(model, optimizer, every=lambda step: step > 0, strict=True):
        model(batch()).sum().backward()
        with pytest.warns(ProbeWarning) as caught:
            optimizer.step()
        for _ in range(2):
            model(batch()).sum().backward()
            optimizer.step()
    assert [str(w.message) for w in caught] == [
        "the Adam given to attach holds no parameter of the probed model, so no update is "
        "recorded; give attach the optimizer that trains the model"
    ]


def test_an_optimizer_that_was_replaced_is_noticed_and_followed() -> None:
    model = mlp()
    optimizer: Optimizer = Adam(model.parameters())

    def train(optimizer: Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(batch()).sum().backward()
            optimizer.step()

    with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
        train(optimizer, 2)
        optimizer = SGD(model.parameters(), lr=0.125)
        with pytest.warns(ProbeWarning) as caught:
            train(optimizer, 1)
        train(optimizer, 2)
        assert probe.step_index == 5
    assert [str(w.message) for w in caught] == [
        "the Adam given to attach did not step, and another optimizer (SGD) updated the "
        "parameters instead: steps end at its steps from now on. Attach again with the optimizer "
        "that trains the model"
    ]
    assert not optimizer._optimizer_step_post_hooks
    assert probe.records.signals["step"].unique().tolist() == [0, 1, 2, 3, 4]
    # The step in which it was noticed has no parameters: its gradients were not read in time.
    assert probe.records.parameters["step"].unique().tolist() == [0, 1, 3, 4]


def test_an_optimizer_around_the_probed_one_replaces_nothing() -> None:
    class Lookahead(Optimizer):
        def __init__(self, inner: Optimizer) -> None:
            super().__init__(inner.param_groups, {})
            self.inner = inner

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.inner.step()

    model = mlp()
    inner = SGD(model.parameters(), lr=0.1)
    outer = Lookahead(inner)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sigprop.attach(model, inner, strict=True) as probe:
            for _ in range(3):
                model(batch()).sum().backward()
                outer.step()
            assert probe.step_index == 3


# --- scaled losses ----------------------------------------------------------------------------


class Overflows(nn.Module):
    """Returns a loss whose gradient is infinite in the steps asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor, overflow: bool) -> Tensor:
        y: Tensor = self.fc(x).square().sum()
        return y * float("inf") if overflow else y


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_is_marked_and_not_merged(fused: bool) -> None:
    model = Overflows()
    optimizer = SGD(model.parameters(), lr=1e-4, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    exact = []
    with sigprop.attach(model, optimizer, blocks="fc", scaler=scaler, strict=True) as probe:
        for step in range(5):
            optimizer.zero_grad()
            twin = Overflows()
            twin.load_state_dict(model.state_dict())
            twin(batch(), False).backward()
            exact.append(norms(twin)["fc.weight"])
            scaler.scale(model(batch(), overflow=step in (1, 2))).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 256.0
        assert probe.step_index == 5
    table = probe.records.parameters.query("name == 'fc.weight'").set_index("step")
    assert table["skipped"].to_dict() == {0: False, 1: True, 2: True, 3: False, 4: False}
    of_update = ["grad_norm", "grad_to_weight", "update_to_weight", "unit_grad_to_weight_max"]
    assert table.loc[[1, 2], of_update].isna().all(axis=None)
    assert table["weight_norm"].notna().all()
    for step in (0, 3, 4):
        assert table.loc[step, "grad_norm"] == pytest.approx(exact[step], rel=1e-4)
    signals = probe.records.signals.query("port == 'out'")
    forward = signals.query("direction == 'forward'").set_index("step")
    backward = signals.query("direction == 'backward'").set_index("step")
    assert forward["count"].to_dict() == dict.fromkeys(range(5), 12)
    # dL/dy = 2y, whatever the scale was; nothing is finite in the steps that were skipped.
    assert backward.loc[[1, 2], "nonfinite"].tolist() == [12, 12]
    for step in (0, 3, 4):
        assert of(backward, step, "second_moment") == pytest.approx(
            4 * of(forward, step, "second_moment"), rel=1e-5
        )


def test_a_skipped_last_step_keeps_its_scale() -> None:
    """The scale that the loss had, not the one that the scaler lowered it to afterwards."""
    model = Overflows()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with sigprop.attach(model, blocks="fc", scaler=scaler, strict=True) as probe:
        scaler.scale(model(batch(), False)).backward()
        scaler.update(16.0)
    rows = probe.records.signals.query("port == 'out'").set_index("direction")["second_moment"]
    assert rows["backward"] == pytest.approx(4 * rows["forward"], rel=1e-5)


def test_micro_batches_of_a_scaled_loss_are_one_step() -> None:
    model = Overflows()
    optimizer = SGD(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with sigprop.attach(model, optimizer, blocks="fc", scaler=scaler, strict=True) as probe:
        for _ in range(2):
            for _ in range(3):
                scaler.scale(model(batch(), False)).backward()
            scaler.step(optimizer)
            scaler.update()
    counts = probe.records.signals.query("port == 'out'").groupby("step")["count"].agg(list)
    assert counts.to_dict() == {0: [36, 36], 1: [36, 36]}


def test_a_scale_divides_gradients_and_nothing_else() -> None:
    def record(scale: float) -> Any:
        model = mlp()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with sigprop.attach(model, blocks="leaves", scaler=scaler, strict=True) as probe:
            scaler.scale(model(batch()).square().sum()).backward()
        return probe.records.signals.set_index(["name", "port", "direction"])

    plain, scaled = record(1.0), record(1024.0)
    forward = plain.index.get_level_values("direction") == "forward"
    numbers = plain.select_dtypes("number").columns
    # A power of two changes no digit, and an activation not at all.
    assert scaled.loc[forward, numbers].equals(plain.loc[forward, numbers])
    assert scaled.loc[~forward, "second_moment"].tolist() == pytest.approx(
        plain.loc[~forward, "second_moment"].tolist(), rel=1e-12
    )


def test_what_a_fused_optimizer_unscales_inside_its_step_is_unscaled() -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    with sigprop.attach(model, optimizer, scaler=scaler, strict=True) as probe:
        scaler.scale(model(batch()).square().sum()).backward()
        scaled = norms(model)
        scaler.step(optimizer)
    expected = {name: norm / 512 for name, norm in scaled.items()}
    assert parameters(probe)["grad_norm"].to_dict() == pytest.approx(expected, rel=1e-5)
