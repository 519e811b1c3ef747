"""Parts of capture alone: nests, names, the stack of modules, recomputation, memory, layouts."""

from __future__ import annotations

import itertools
from collections import OrderedDict, namedtuple
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from cases import gaussian
from torch import Tensor, nn

from sigprop.capture.hooks.dataflow import WEIGHT, Dataflow, Operands, is_skip
from sigprop.capture.model.naming import aliases, bare, clean, modules, parameters
from sigprop.capture.model.nested import first_readable, tensors
from sigprop.capture.parameters.statistics import NamedRows
from sigprop.capture.recording.arena import Arena
from sigprop.capture.recording.forward_state import ForwardState, key_of
from sigprop.capture.recording.recomputation import Position, Recomputation
from sigprop.capture.recording.tap import Tap
from sigprop.signals import native
from sigprop.signals.channel_statistics import compute_plain, dense_layout
from sigprop.signals.columns import COLUMNS

# --- nests ------------------------------------------------------------------------------------


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    note: str = "not a tensor"


Pair = namedtuple("Pair", ["first", "second"])
A, B, C = (gaussian(seed, 2, 3) for seed in range(3))
NESTS: dict[str, tuple[object, list[tuple[str, Tensor]]]] = {
    "bare": (A, [("", A)]),
    "tuple": ((A, None, [B, C]), [("[0]", A), ("[2][0]", B), ("[2][1]", C)]),
    "named tuple": (Pair(A, B), [("[0]", A), ("[1]", B)]),
    "dict": (OrderedDict(b=A, a={"x": B}), [("[b]", A), ("[a][x]", B)]),
    "dataclass": (Output(A, (B, C)), [("[logits]", A), ("[hidden][0]", B), ("[hidden][1]", C)]),
    "a dataclass's type": (Output, []),
    "numbers and words": ([1, "two", 3.0, {"four": None}], []),
}


@pytest.mark.parametrize(("value", "expected"), NESTS.values(), ids=NESTS)
def test_every_tensor_of_a_nest_has_its_path(
    value: object, expected: list[tuple[str, Tensor]]
) -> None:
    found = list(tensors(value))
    assert [path for path, _ in found] == [path for path, _ in expected]
    assert all(x is y for (_, x), (_, y) in zip(found, expected, strict=True))


def test_paths_go_on_from_where_the_nest_lies() -> None:
    assert [path for path, _ in tensors([A, {"h": B}], "[out]")] == ["[out][0]", "[out][1][h]"]


def test_an_iterator_is_left_alone() -> None:
    parts = iter([A, B])
    assert list(tensors(parts)) == []
    assert next(parts) is A


def test_packed_sequences_and_nested_tensors_give_their_values() -> None:
    packed = nn.utils.rnn.pack_padded_sequence(gaussian(0, 2, 4, 3), [4, 2], batch_first=True)
    ((path, values),) = tensors(packed)
    assert (path, values.shape) == ("", (6, 3))
    parts = [gaussian(1, 2, 3), gaussian(2, 4, 3)]
    nested = torch.nested.as_nested_tensor(parts, layout=torch.jagged)
    ((path, values),) = tensors(nested)
    assert path == ""
    assert torch.equal(values, torch.cat(parts))


TOKENS = torch.arange(4)


@pytest.mark.parametrize(
    ("args", "kwargs", "position"),
    [
        ((A, B), {}, 0),
        ((TOKENS, B), {}, 1),  # whole numbers are no activation
        ((None, "x", (TOKENS, A)), {}, 2),
        ((TOKENS,), {"mask": None, "x": A}, 3),
        ((torch.empty(0, 3), A), {}, 1),
    ],
)
def test_the_input_of_a_block_is_its_first_readable_argument(
    args: tuple[object, ...], kwargs: dict[str, object], position: int
) -> None:
    everything = [*args, *kwargs.values()]
    expected = {3: A}.get(position, everything[min(position, len(everything) - 1)])
    assert first_readable(args, kwargs) is expected


def test_without_a_readable_argument_there_is_no_input() -> None:
    assert first_readable((TOKENS, None), {"x": 3}) is None


# --- names ------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 3)
        self.body = nn.ModuleDict({"first": nn.ReLU(), "again": self.embed})


def test_a_module_registered_twice_has_one_name_and_an_alias() -> None:
    model = Tied()
    assert [name for name, _ in modules(model)] == ["(model)", "embed", "body", "body.first"]
    assert [(alias, name) for alias, name, _ in aliases(model)] == [("body.again", "embed")]
    assert [name for name, _ in parameters(model)] == ["embed.weight", "embed.bias"]


def test_parametrizations_are_no_modules_of_the_model() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.ReLU())
    assert [name for name, _ in modules(model)] == ["(model)", "0", "1"]
    assert list(aliases(model)) == []


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("", "(model)"),
        ("_orig_mod", "(model)"),
        ("_fsdp_wrapped_module.layer1.0", "layer1.0"),
        ("a._checkpoint_wrapped_module._orig_mod.b", "a.b"),
        ("my_orig_mod.b", "my_orig_mod.b"),  # a name of the user's that ends alike
    ],
)
def test_segments_of_wrappers_are_no_part_of_a_name(raw: str, name: str) -> None:
    assert clean(raw) == name


def test_the_bare_model_is_inside_every_wrapper() -> None:
    model = nn.Linear(2, 2)
    assert bare(nn.DataParallel(nn.DataParallel(model))) is model
    assert bare(model) is model


# --- the stack of modules ---------------------------------------------------------------------


class Frame:
    """A module on the stack."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.target: str | None = None
        self.records_own_output = False

    def addition(self, recorder: Any, skip: Tensor, branch: Tensor, found: Operands) -> None: ...

    def ends(self, now: ForwardState, frame: int, output: object) -> None: ...

    def function(self, recorder: Any, kind: str, output: Tensor) -> None: ...


def names(state: ForwardState) -> list[str]:
    return [module.name for module, _ in state.stack]


def test_leaving_a_module_leaves_those_that_never_returned() -> None:
    """An exception that was caught above them: their hooks were not called."""
    state = ForwardState()
    for name in ("a", "a.b", "a.b.c"):
        state.enter(Frame(name), None)
    state.leave("a.b", None)
    assert names(state) == ["a"]
    state.leave("unknown", None)
    assert names(state) == ["a"]


def test_a_recursive_call_leaves_its_own_entry() -> None:
    state = ForwardState()
    for name in ("a", "b", "a"):
        state.enter(Frame(name), None)
    state.leave("a", None)
    assert names(state) == ["a", "b"]


def test_a_new_forward_pass_begins_from_nothing() -> None:
    state = ForwardState()
    state.enter(Frame("a"), None)
    state.calls["a"] += 2
    state.maker = (1, 4)
    state.begin()
    assert names(state) == []
    assert not state.calls
    maker: object = state.maker
    assert maker is None


def test_keys_differ_by_tensor_and_axis() -> None:
    keys = [key_of(x, axis) for x in (A, B) for axis in (-2, -1, 0, 1)]
    assert len(set(keys)) == len(keys)
    assert key_of(A, -1) == key_of(A, -1)


# --- skip or branch ---------------------------------------------------------------------------


def test_distances_are_the_shortest_way_from_the_inputs() -> None:
    flow = Dataflow()
    flow.open(1, [[A]])
    near, far = A + 1, A + 2
    flow.pass_on([A], {}, near, 0)
    flow.pass_on([near], {}, far, 3)
    assert [flow.distance(x, 1) for x in (A, near, far, B)] == [0, 0, 3, None]
    joined = near + far
    flow.pass_on([far, near], {}, joined, 1)
    assert flow.distance(joined, 1) == 1
    assert flow.distance(joined, 2) is None


def test_a_frame_that_ended_is_not_carried_on() -> None:
    flow = Dataflow()
    flow.open(1, [[A]])
    flow.close(1)
    later = A + 1
    flow.open(2, [[A]])
    flow.pass_on([A], {}, later, 2)
    assert (flow.distance(later, 1), flow.distance(later, 2)) == (None, 2)


def test_the_skip_is_nearer_and_passes_one_weight_at_most() -> None:
    assert is_skip(0, WEIGHT)
    assert is_skip(WEIGHT, 2 * WEIGHT + 1)  # a projection, beside something that is not linear
    assert not is_skip(WEIGHT, 2 * WEIGHT)  # a low-rank term
    assert not is_skip(WEIGHT, WEIGHT)  # two weights side by side
    assert not is_skip(2 * WEIGHT, 3 * WEIGHT)


# --- recomputation ----------------------------------------------------------------------------


def tap(name: str, call: int = 0) -> Tap:
    return Tap("train", 0, "block", name, name, name, call, "out", "forward", -1, 3)


def test_calls_outside_known_checkpoints_come_back_in_reverse() -> None:
    """Checkpoints of other libraries are one: what ran last is recomputed first."""
    made = Recomputation()
    assert not made.awaited
    for call in range(3):
        made.wait(Position("a", "out", call, ""), tap("a", call))
    assert [made.call("a", "out") for _ in range(3)] == [2, 1, 0]
    assert made.call("a", "out") == 2  # a second backward pass through the same graph


def test_what_was_awaited_and_never_met_is_named() -> None:
    made = Recomputation()
    for name in ("a", "b"):
        made.wait(Position(name, "out", 0, ""), tap(name))
    assert made.tap(Position("a", "out", 0, ""), gradient=True) == tap("a")
    assert made.tap(Position("c", "out", 0, ""), gradient=True) is None
    made.clear()
    assert not made.awaited
    assert made.tap(Position("a", "out", 0, ""), gradient=True) is None


# --- memory -----------------------------------------------------------------------------------


def test_tables_of_an_arena_do_not_overlap_and_come_back_in_order() -> None:
    arena, sizes = Arena(), [3, 4000, 200, 5000, 1]
    made = [arena.new(size) for size in sizes]
    for number, statistics in enumerate(made):
        np.asarray(statistics.sums)[:] = number
    for number, (size, statistics) in enumerate(zip(sizes, made, strict=True)):
        table = np.asarray(statistics.sums)
        assert table.shape == (size, len(COLUMNS))
        assert (table == number).all()
    more = [arena.new(3), arena.new(3)]
    arena.give_back([made[0], *more])
    unused = arena.unused(3)
    assert [unused.pop() for _ in range(3)] == [made[0], *more]


def test_rows_by_name_keep_the_newest_and_wait_for_the_device() -> None:
    rows = NamedRows(2, lambda sums: sums[:, :2] * 10)
    rows.put(["a", "b"], np.array([[1.0, 2.0], [3.0, 4.0]]))
    rows.put(["a"], np.array([[5.0, 6.0]]))
    rows.wait("c", torch.tensor([7.0, 8.0, 9.0]))
    (waiting,) = rows.waiting()
    assert ("a" in rows, "c" in rows) == (True, False)
    rows.receive([waiting.numpy()])
    assert rows.waiting() == []
    assert "c" in rows


# --- layouts in memory ------------------------------------------------------------------------


def layouts() -> Iterable[tuple[str, Tensor]]:
    yield "scalar", torch.tensor(2.0)
    yield "vector", gaussian(0, 7)
    yield "gaps", gaussian(0, 6, 8)[:, ::2]
    yield "expanded", gaussian(0, 3, 1).expand(3, 4)
    for order in itertools.permutations(range(4)):
        yield f"axes {order}", gaussian(1, 2, 3, 4, 5).permute(order)
    images = gaussian(2, 2, 3, 4, 4)
    yield "channels last", images.contiguous(memory_format=torch.channels_last)
    yield "one pixel", gaussian(3, 2, 3, 1, 1)


LAYOUTS = dict(layouts())


@pytest.mark.parametrize(("name", "x"), LAYOUTS.items(), ids=LAYOUTS)
def test_a_dense_layout_addresses_every_channel(name: str, x: Tensor) -> None:
    """As the library walks: element (o, c, i) of channel c lies at (o·C + c)·I + i."""
    dense = name not in ("gaps", "expanded")
    for axis in range(max(x.ndim, 1)):
        sizes = dense_layout(x, axis)
        assert (sizes is not None) == dense
        if sizes is None:
            continue
        kind, outer, channels, inner = sizes
        assert kind == native.TYPES[x.dtype]
        assert outer * channels * inner == x.numel()
        memory = x.as_strided((x.numel(),), (1,), x.storage_offset())
        walked = memory.reshape(outer, channels, inner).transpose(0, 1).reshape(channels, -1)
        by_channel = x.movedim(axis, 0).reshape(channels, -1) if x.ndim else x.reshape(1, 1)
        assert torch.equal(walked.sort(dim=1).values, by_channel.sort(dim=1).values)
        mean = compute_plain(x, axis)[:, COLUMNS.index("center")] if x.ndim > 1 else None
        if mean is not None:
            assert torch.allclose(walked.mean(1), mean, atol=1e-6)
