"""Blocks as a forward pass shows them: what is called, in what, and what adds to its stream."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sigprop
from sigprop.capture import choose, select, trace_calls
from sigprop.capture.model.naming import modules
from sigprop.errors import BadInput, UnknownName


class Sublayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x))


class Other(Sublayer):
    pass


class Layer(nn.Module):
    """As in T5: it adds nothing itself, and its sublayers stand in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Sublayer(), Other()])

    def forward(self, x: Tensor) -> Tensor:
        for sublayer in self.layer:
            x = sublayer(x)
        return x


class Stage(nn.Module):
    """As in Swin: a list of layers, and one more addition around them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Sublayer() for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self.blocks:
            y = block(y)
        return x + y


class Step(nn.Module):
    """As in RAFT: one module is called on what it has returned."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.inner(h + x))
        return (1 - gate) * h + gate * torch.tanh(self.outer(h))


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.update, self.head = Stage(2), Step(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x = self.encoder(x)
        for _ in range(3):
            h = self.update(h, x)
        return self.head(h)


class Model(nn.Module):
    """An embedding with most of the weights, a stem, layers, a head that adds, an idle module."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embedding, self.stem = nn.Embedding(5000, 4), nn.Linear(4, 4)
        self.stack = nn.ModuleList(layers)
        self.norm, self.pooler, self.idle = nn.LayerNorm(4), Pooler(), nn.Linear(4, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.stem(self.embedding(ids))
        for layer in self.stack:
            x = layer(x)
        return self.pooler(self.norm(x))


class Pooler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x))


class Shared(nn.Module):
    """The feed-forward of every layer is registered once, beside the layers."""

    class Layer(nn.Module):
        def __init__(self, feed: nn.Module) -> None:
            super().__init__()
            self.norm, self.feed = nn.LayerNorm(4), [feed]  # a list hides it from the modules

        def forward(self, x: Tensor) -> Tensor:
            return x + self.feed[0](self.norm(x))

    def __init__(self) -> None:
        super().__init__()
        self.feed = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.layers = nn.ModuleList(Shared.Layer(self.feed) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


IDS = torch.randint(0, 9, (3, 5), generator=torch.Generator().manual_seed(0))
X = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, list[str]]] = {
    "sublayers are parts of a layer": (
        lambda: Model(Layer(), Layer()), IDS, ["stack.0", "stack.1"],
    ),
    "stages are opened": (
        lambda: Model(Stage(1), Stage(2)),
        IDS,
        ["stack.0.blocks.0", "stack.1.blocks.0", "stack.1.blocks.1"],
    ),
    "a loop is a block": (Loop, X, ["encoder.blocks.0", "encoder.blocks.1", "update"]),
}  # fmt: skip


@pytest.mark.parametrize(("build", "inputs", "names"), MODELS.values(), ids=MODELS)
def test_the_blocks_that_a_forward_pass_shows(build, inputs: Tensor, names: list[str]) -> None:
    seen = sigprop.check(build(), inputs)
    assert seen.table.query("block")["name"].tolist() == names
    assert f"{len(names)} blocks were chosen by a forward pass ({names[0]}" in seen.chosen
    assert "To choose others give blocks='leaves'" in str(seen)
    records = sigprop.measure(build, inputs, spectra=False)
    blocks = records.signals.query("kind == 'block' and port == 'in'")["module"]
    assert set(blocks) == set(names)


def test_a_call_tree_counts_calls_and_additions_and_leaves_no_hook() -> None:
    model = Loop()
    tree = trace_calls(model, lambda: model(X))
    assert tree.modules["update"].loops
    assert tree.modules["update"].calls == 3
    assert tree.modules["update"].additions == 0
    assert tree.modules["encoder"].additions == 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_is_called_in_a_block_is_a_part_of_it_wherever_it_is_registered() -> None:
    model = Shared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tree = trace_calls(model, lambda: model(X))
    choice = choose(dict(modules(model)), tree)
    assert choice.names == ("layers.0", "layers.1")
    assert dict(choice.members)["feed.1"] == "layers.0"
    with sigprop.attach(model, optimizer, blocks=choice, strict=True) as probe:
        model(X).sum().backward()
        optimizer.step()
    rows = probe.records.parameters.set_index("name")
    assert rows.loc["feed.0.weight", "block"] == 0
    rectified = probe.records.signals.query("module == 'feed.1'")
    assert set(rectified["kind"]) == {"rectifier"}
    assert set(rectified["block"]) == {0}


def test_measuring_runs_the_model_once_more_on_a_copy_and_changes_nothing() -> None:
    calls: list[int] = []

    class Counts(Sublayer):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(id(self))
            return super().forward(nn.functional.dropout(x, 0.5))

    model = nn.Sequential(Counts(), Counts())
    before = [p.clone() for p in model.parameters()]
    torch.manual_seed(3)
    first = sigprop.measure(model, X, spectra=False).signals["second_moment"]
    assert len(calls) == 4
    assert id(model[0]) not in calls
    torch.manual_seed(3)
    with sigprop.attach(model, strict=True) as probe:
        out = model(X)
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(0)))
    again = probe.records.signals.query("direction == 'forward'")["second_moment"]
    assert again.tolist() == first[: len(again)].tolist()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# --- globs ----------------------------------------------------------------------------------------


def test_a_star_stays_between_dots_and_two_cross_them() -> None:
    model = Model(Layer(), Layer())
    assert list(select(model, "stack.*")) == ["stack.0", "stack.1"]
    assert "stack.0.layer.1.norm" in select(model, "stack.**")
    assert "stack" not in select(model, "stack.**")
    assert list(select(model, "**.layer.1")) == ["stack.0.layer.1", "stack.1.layer.1"]
    assert list(select(model, "st*")) == ["stem", "stack"]


def test_a_glob_that_would_have_to_cross_a_dot_says_so() -> None:
    with pytest.raises(UnknownName) as error:
        select(Model(Layer()), "stack*norm")
    assert str(error.value) == (
        "no module's name matches 'stack*norm'; '*' stays between dots, write '**' to match "
        "'stack.0.layer.0.norm'"
    )


def test_a_glob_that_matches_only_containers_names_what_is_in_them() -> None:
    with pytest.raises(BadInput) as error:
        sigprop.attach(Model(Layer()), blocks="stack")
    assert str(error.value) == (
        "the blocks chosen are containers, which are never called (stack); choose what is in them: "
        "blocks='stack.*'"
    )
