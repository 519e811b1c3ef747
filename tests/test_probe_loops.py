"""Training loops as people write them: where a forward begins, where a step ends, what is filed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sigprop
from sigprop import ProbeWarning


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.fc(x))


class Lit(nn.Module):
    """Its own forward is never called: a method calls the network inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("never called")

    def training_step(self, x: Tensor) -> Tensor:
        return self.net(x).square().mean()


class Autoencoder(nn.Module):
    """Two modules are called by a method, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = (
            nn.Sequential(Block(), Block()),
            nn.Sequential(Block(), Block()),
        )

    def loss(self, x: Tensor) -> Tensor:
        return (self.decoder(self.encoder(x)) - x).square().mean()


def batch(n: int = 5) -> Tensor:
    return torch.randn(n, 4)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.01)


def ports(probe: sigprop.Probe) -> set[tuple[str, str, str]]:
    rows = probe.records.signals.query("direction == 'forward'")
    return set(zip(rows["name"], rows["port"], rows["mode"], strict=True))


#: What one block gives, forward: its ports and its functional rectifier.
def of_block(name: str, mode: str = "train") -> set[tuple[str, str, str]]:
    return {(name, port, mode) for port in ("in", "skip", "branch", "out")} | {
        (f"{name}:relu", "out", mode)
    }


# --- the model's own forward is never called --------------------------------------------------


def test_a_training_step_that_calls_a_part_has_every_port() -> None:
    model = Lit()
    optimizer = sgd(model)
    with sigprop.attach(model, optimizer, strict=True) as probe:
        for _ in range(3):
            model.training_step(batch()).backward()
            optimizer.step()
    assert ports(probe) == of_block("net.0") | of_block("net.1")
    assert probe.records.signals["step"].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_without_an_optimizer_steps_end_where_the_part_is_called_again(every: int) -> None:
    model = Lit()
    with sigprop.attach(model, every=every, strict=True) as probe:
        for _ in range(7):
            model.training_step(batch()).backward()
        assert probe.step_index == 6
        rows = probe.records.signals
    assert rows["step"].unique().tolist() == list(range(0, 7, every))
    assert ports(probe) == of_block("net.0") | of_block("net.1")
    outputs = rows.query("name == 'net.1' and port == 'out'")
    assert outputs["count"].tolist() == [20] * len(outputs)
    assert len(outputs) == 2 * len(range(0, 7, every))


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_two_parts_called_one_after_the_other_are_one_forward(with_optimizer: bool) -> None:
    model = Autoencoder()
    optimizer = sgd(model)
    with sigprop.attach(model, optimizer if with_optimizer else None, strict=True) as probe:
        for _ in range(4):
            model.loss(batch()).backward()
            optimizer.step()
        steps = probe.records.signals["step"].unique().tolist()
    assert steps == [0, 1, 2, 3]
    names = [f"{part}.{i}" for part in ("encoder", "decoder") for i in (0, 1)]
    assert ports(probe) == set().union(*map(of_block, names))


def test_a_part_called_twice_before_a_backward_is_two_calls_of_one_forward() -> None:
    model = Lit()
    with sigprop.attach(model, blocks="net", strict=True) as probe:
        for _ in range(2):
            (model.net(batch()) - model.net(batch())).square().sum().backward()
    outputs = probe.records.signals.query(
        "port == 'out' and direction == 'backward' and kind == 'block'"
    )
    assert sorted(zip(outputs["step"], outputs["name"], strict=True)) == [
        (0, "net"),
        (0, "net#1"),
        (1, "net"),
        (1, "net#1"),
    ]


def test_micro_batches_through_a_part_are_merged() -> None:
    model = Lit()
    optimizer = sgd(model)
    with sigprop.attach(model, optimizer, blocks="net", strict=True) as probe:
        for _ in range(3):
            model.training_step(batch()).backward()
        optimizer.step()
    outputs = probe.records.signals.query(
        "port == 'out' and direction == 'forward' and kind == 'block'"
    )
    assert outputs[["name", "count"]].values.tolist() == [["net", 60]]


def test_validation_through_a_part_is_labeled_eval_and_merged() -> None:
    model = Lit()
    optimizer = sgd(model)
    with sigprop.attach(model, optimizer, blocks="net", strict=True) as probe:
        model.training_step(batch()).backward()
        model.eval()
        with torch.no_grad():
            for _ in range(3):
                model.training_step(batch(2))
        model.train()
        optimizer.step()
        model.training_step(batch()).backward()
        optimizer.step()
    outputs = probe.records.signals.query(
        "port == 'out' and direction == 'forward' and kind == 'block'"
    )
    assert outputs[["step", "mode", "name", "count"]].values.tolist() == [
        [0, "train", "net", 20],
        [0, "eval", "net", 24],
        [1, "train", "net", 20],
    ]


def test_a_frozen_part_that_comes_first_begins_each_forward() -> None:
    class Tuned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(Block()), nn.Sequential(Block())
            self.body.requires_grad_(False)

    model = Tuned()
    with sigprop.attach(model, blocks=["body", "head"], strict=True) as probe:
        for _ in range(3):
            model.head(model.body(batch())).sum().backward()
    outputs = probe.records.signals.query(
        "port == 'out' and direction == 'forward' and kind == 'block'"
    )
    assert list(zip(outputs["step"], outputs["name"], strict=True)) == [
        (step, name) for step in range(3) for name in ("body", "head")
    ]


def test_an_extra_call_of_a_part_after_the_model_ends_no_step() -> None:
    model = nn.ModuleDict({"body": nn.Sequential(Block()), "head": nn.Sequential(Block())})
    whole = nn.Sequential(model["body"], model["head"])
    with sigprop.attach(whole, blocks=["0", "1"], strict=True) as probe:
        for _ in range(3):
            features = whole(batch())
            model["head"](features).sum().backward()
    outputs = probe.records.signals.query(
        "port == 'out' and direction == 'forward' and kind == 'block'"
    )
    assert list(zip(outputs["step"], outputs["name"], strict=True)) == [
        (step, name) for step in range(3) for name in ("0", "1", "1#1")
    ]


def test_a_part_that_is_called_is_unchanged_and_nothing_remains() -> None:
    def run(probed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Autoencoder()
        optimizer = sgd(model)
        probe = sigprop.attach(model, every=2, strict=True) if probed else None
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = model.loss(batch())
            loss.backward()
            optimizer.step()
            losses += [loss.detach(), *(p.detach().clone() for p in model.parameters())]
        if probe is not None:
            probe.detach()
            assert hooks(model) == 0
        return losses

    assert all(torch.equal(a, b) for a, b in zip(run(False), run(True), strict=True))


def hooks(model: nn.Module) -> int:
    kinds = [name for name in vars(nn.Module()) if name.endswith(("hooks", "kwargs", "called"))]
    assert len(kinds) > 6
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


# --- interrupted ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("whole", [True, False], ids=["model", "part"])
def test_functions_after_an_interrupted_forward_are_not_the_models(kind, whole: bool) -> None:
    class Fragile(nn.Module):
        fail = True

        def forward(self, x: Tensor) -> Tensor:
            if self.fail:
                raise kind
            return x

    fragile = Fragile()
    part = nn.Sequential(Block(), fragile)
    model = nn.Sequential(part, nn.Identity())
    call = model if whole else part
    with sigprop.attach(model, sgd(model), blocks="0", strict=True) as probe:
        with pytest.raises(kind):
            call(batch())
        before = ports(probe)
        # Taken off by now; on again, to see what the rest of an interrupted forward would record.
        with pytest.raises(kind):
            call(batch())
        other = Block()  # a model of its own, called outside of the probed one
        other(torch.relu(batch()) + batch())
        assert ports(probe) == before
        assert torch._C._len_torch_function_stack() == 0
        fragile.fail = False
        call(batch())
    assert ("0", "out", "train") in ports(probe) - before


# --- modes and gradients ----------------------------------------------------------------------


def test_a_forward_without_gradients_in_training_mode_is_kept_apart() -> None:
    model = nn.Sequential(Block())
    optimizer = sgd(model)
    with sigprop.attach(model, optimizer, blocks="0", strict=True) as probe:
        with torch.no_grad():
            model(batch(2))
        model(batch()).sum().backward()
        optimizer.step()
    outputs = probe.records.signals.query("port == 'out' and kind == 'block'")
    assert outputs[["mode", "direction", "count"]].values.tolist() == [
        ["eval", "forward", 8],
        ["train", "forward", 20],
        ["train", "backward", 20],
    ]


def test_without_an_optimizer_a_forward_without_gradients_ends_no_step() -> None:
    model = nn.Sequential(Block())
    with sigprop.attach(model, blocks="0", strict=True) as probe:
        for _ in range(3):
            loss = model(batch()).sum()
            with torch.no_grad():
                model(batch())
            loss.backward()
    rows = probe.records.signals.query("port == 'out' and kind == 'block'")
    assert rows.groupby("step").size().to_dict() == {0: 3, 1: 3, 2: 3}


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_model_is_one_of_training(reentrant: bool) -> None:
    model = nn.Sequential(Block())
    optimizer = sgd(model)
    with sigprop.attach(model, optimizer, blocks="0", strict=True) as probe:
        x = batch().requires_grad_()
        checkpoint(model, x, use_reentrant=reentrant).sum().backward()
        optimizer.step()
    assert set(probe.records.signals["mode"]) == {"train"}


def test_a_gradient_that_is_none_is_passed_over() -> None:
    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
            return x + y

        @staticmethod
        def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
            return grad, None

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return Half.apply(self.a(x), self.b(x))

    model = Net()
    with sigprop.attach(model, sgd(model), blocks="leaves", strict=True) as probe:
        model(batch()).sum().backward()
    backward = probe.records.signals.query("direction == 'backward' and port == 'out'")
    assert backward["name"].tolist() == ["a"]


# --- what is filed under which step -----------------------------------------------------------


def test_numbers_logged_before_or_after_the_step_belong_to_it() -> None:
    model = nn.Sequential(Block())
    optimizer = sgd(model)
    with sigprop.attach(model, optimizer, strict=True) as probe:
        probe.log(loss=-1.0)
        for step in range(3):
            model(batch()).sum().backward()
            probe.log(loss=step + 0.25)
            optimizer.step()
            probe.log(loss=step + 0.5)
        probe.log(loss=9.0, mode="eval")
        probe.log(loss=8.0, step=17)
    rows = probe.records.training
    assert rows[["step", "mode", "loss"]].values.tolist() == [
        [0, "train", -1.0],
        [0, "train", 0.25],
        [0, "train", 0.5],
        [1, "train", 1.25],
        [1, "train", 1.5],
        [2, "train", 2.25],
        [2, "train", 2.5],
        [3, "eval", 9.0],
        [17, "train", 8.0],
    ]


def test_numbers_logged_after_an_explicit_step_belong_to_it() -> None:
    model = nn.Sequential(Block())
    with sigprop.attach(model, step=5, every=2, strict=True) as probe:
        for _ in range(3):
            model(batch()).sum().backward()
            probe.step()
            probe.log(loss=0.0)
    assert probe.records.training["step"].tolist() == [5, 6, 7]


def test_a_report_of_what_a_probe_saw(tmp_path) -> None:
    model = nn.Sequential(*(Block() for _ in range(3)))
    optimizer = sgd(model)
    with sigprop.attach(model, optimizer, network="mine") as probe:
        for _ in range(3):
            loss = model(batch()).square().mean()
            loss.backward()
            optimizer.step()
            probe.log(loss=loss.item())
    sigprop.report(probe.records, tmp_path / "report")
    assert "mine" in (tmp_path / "report" / "report.html").read_text("utf-8")


# --- copies -----------------------------------------------------------------------------------


def test_nothing_of_the_probe_is_in_a_saved_model() -> None:
    import pickle
    import pickletools

    model = Lit()
    with sigprop.attach(model, strict=True) as probe:
        model.training_step(batch()).backward()  # so that a part has hooks that stay
        saved = pickle.dumps(nn.Sequential(nn.Linear(4, 4)))
        plain = nn.Sequential(nn.Linear(4, 4))
        with sigprop.attach(plain, blocks="leaves", strict=True):
            probed = pickle.dumps(plain)
        everything = pickle.dumps(model)
        assert len(probe.records.signals)
    named = {argument for _, argument, _ in pickletools.genops(probed) if isinstance(argument, str)}
    more = named - {a for _, a, _ in pickletools.genops(saved) if isinstance(a, str)}
    assert more == {"builtins", "getattr", "contextlib", "nullcontext", "enter_result", "__exit__"}
    assert b"sigprop" not in everything
    twin = pickle.loads(everything)
    twin.training_step(batch()).backward()
    assert all(hook(twin, (), None) is None for hook in twin.net._forward_hooks.values())


def test_the_probe_warns_of_nothing_in_these_loops(recwarn: pytest.WarningsRecorder) -> None:
    model = Lit()
    optimizer = sgd(model)
    with sigprop.attach(model, optimizer):
        model.training_step(batch()).backward()
        optimizer.step()
    assert not [w for w in recwarn if issubclass(w.category, ProbeWarning)]
