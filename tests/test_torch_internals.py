"""One door to private torch: nothing private elsewhere, each entry works here, and each may go."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import sigprop
from sigprop import torch_version
from sigprop.capture import internals, torch_internals
from sigprop.capture.internals import INTERNALS
from sigprop.errors import ProbeWarning

PACKAGE = Path(sigprop.__file__).parent
DOOR = PACKAGE / "capture" / "torch_internals.py"
#: Private by a leading underscore, and everybody's: namedtuples', and ctypes' type of functions.
PUBLIC_IN_FACT = {"_replace", "_fields", "_asdict", "_FuncPointer"}
_BY_NAME = {"getattr", "hasattr", "setattr", "delattr", "import_module", "get", "attrgetter"}
_BY_NAME |= {"_found", "_kinds"}  # the door's own


# --- nothing private elsewhere ------------------------------------------------------------------


def defined(tree: ast.AST) -> set[str]:
    """Return every name that a module defines or assigns: its own private ones are its own."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def touched(source: str, inherited: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield what a module touches that is private and not its own, as it is written there."""
    tree = ast.parse(source)
    own = defined(tree) | inherited | PUBLIC_IN_FACT
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            yield from (
                f"{node.module}.{alias.name}"
                for alias in node.names
                if private(f"{node.module}.{alias.name}")
            )
        elif isinstance(node, ast.Import):
            yield from (
                a.name for a in node.names if a.name.startswith("torch") and private(a.name)
            )
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
            if name in _BY_NAME:
                yield from (
                    argument.value
                    for argument in node.args
                    if isinstance(argument, ast.Constant)
                    and isinstance(argument.value, str)
                    and private(argument.value)
                    and argument.value not in PUBLIC_IN_FACT
                )


#: What our classes and modules define; a subclass in another module may use it.
OWN = frozenset(
    name
    for path in PACKAGE.rglob("*.py")
    if path != DOOR
    for name in defined(ast.parse(path.read_text()))
)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if path != DOOR],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_nothing_private_is_touched_elsewhere(path: Path) -> None:
    assert list(touched(path.read_text(), OWN)) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("import torch\nx = torch._C._len_torch_function_stack()", "torch._C"),
        ("import torch\ntorch._foreach_norm([])", "torch._foreach_norm"),
        ("def f(model):\n    return model._orig_mod", "model._orig_mod"),
        ("from torch._dynamo import config", "torch._dynamo.config"),
        ("from torch.utils._pytree import tree_map", "torch.utils._pytree.tree_map"),
        ("import torch._dynamo.config", "torch._dynamo.config"),
        ("def f(m):\n    return getattr(m, '_compiled_call_impl', None)", "_compiled_call_impl"),
        ("import sys\nsys.modules.get('torch._dynamo')", "torch._dynamo"),
        ("def f(x):\n    x._version_of_mine = 1\n    return x._version", "x._version"),
    ],
)
def test_a_planted_use_is_found(planted: str, found: str) -> None:
    assert found in list(touched(planted))


def test_the_door_lists_what_it_touches() -> None:
    listed = {name for entry in INTERNALS.values() for name in entry.names}
    last = {name.rpartition(".")[2] for name in listed}
    used = {name.rpartition(".")[2] for name in touched(DOOR.read_text())}
    parents = {part for name in listed for part in name.split(".")}
    assert used - parents == set()
    assert {name for name in last if private(name)} - used == set()


def test_every_entry_says_why_and_what_is_lost() -> None:
    for entry, internal in INTERNALS.items():
        first, last = internal.versions
        assert torch_version.OLDEST <= first <= last, entry
        assert internal.names
        assert internal.reason
        assert internal.without


# --- each entry works on this torch ---------------------------------------------------------------


def in_checkpoint(door: ModuleType) -> list[bool]:
    seen = []

    def run(x: Tensor) -> Tensor:
        seen.append(door.recomputing())
        return x.exp().sin()

    x = torch.ones(2, requires_grad=True)
    checkpoint(run, x, use_reentrant=False).sum().backward()
    return seen


def under_transforms(door: ModuleType) -> list[str | None]:
    seen = [door.transforming()]

    def look(x: Tensor) -> Tensor:
        seen.append(door.transforming())
        return x.sum()

    torch.func.vmap(look)(torch.ones(2, 3))
    with FakeTensorMode():
        look(torch.ones(2))
    return seen


class Wrapper(Tensor):
    """A tensor class with a dispatch of its own."""

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))

    def __tensor_flatten__(self) -> Any:
        return [], None

    @staticmethod
    def __tensor_unflatten__(*_: Any) -> Any:
        raise NotImplementedError


def wrappers(door: ModuleType) -> list[bool]:
    with FakeTensorMode():
        fake = torch.ones(2)
    wrapped = torch.ones(2).as_subclass(Wrapper)
    return [door.ordinary(x) for x in (torch.ones(2), nn.Parameter(torch.ones(2)), fake, wrapped)]


def structures(door: ModuleType) -> list[bool]:
    """Return whether a model is the same: untouched, and after each of four changes."""

    def changed(change: Callable[[nn.Sequential], object]) -> bool:
        model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
        structure = door.Structure(model)
        change(model)
        return structure.same()

    return [
        changed(lambda model: None),
        changed(lambda model: setattr(model[1], "0", nn.Linear(2, 2))),
        changed(lambda model: setattr(model[0], "weight", nn.Parameter(torch.ones(2, 2)))),
        changed(lambda model: model.append(nn.ReLU())),
        changed(lambda model: setattr(model[1], "scale", nn.Parameter(torch.ones(2)))),
    ]


class Seen(TorchFunctionMode):
    """Counts the functions that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def own_arithmetic(door: ModuleType) -> list[str]:
    with Seen() as mode:
        torch.ones(2).sin()
        with door.OwnArithmetic():
            torch.ones(2).cos()
    return [name for name in mode.names if name in ("sin", "cos")]


def modes(door: ModuleType) -> list[object]:
    mode, above = Seen(), Seen()
    door.push_mode(mode)
    torch.ones(2).sin()
    if mode.names:
        torch._C._push_on_torch_function_stack(above)
    door.remove_mode(mode)
    torch.ones(2).cos()
    left = torch._C._len_torch_function_stack()
    if mode.names:
        torch._C._pop_torch_function_stack()
    return ["sin" in mode.names, "cos" in mode.names, "cos" in above.names, left]


def layers(door: ModuleType) -> list[bool]:
    kinds = door.CONVOLUTIONS, door.TRANSPOSED_CONVOLUTIONS, door.BATCH_NORMALIZATIONS
    made = nn.ConvTranspose2d(1, 1, 1), nn.InstanceNorm1d(1), nn.LazyConv1d(1, 1)
    return [isinstance(module, kind) for kind in kinds for module in made]


def versions(door: ModuleType) -> list[bool]:
    x = torch.ones(2)
    before, again = door.version_of(x), door.version_of(x)
    x.add_(1)
    return [before == again, before == door.version_of(x)]


def zeroed(door: ModuleType) -> list[float]:
    tensors = [torch.ones(2), torch.ones(3)]
    door.zero(tensors)
    return [float(x.sum()) for x in tensors]


def replicas(door: ModuleType) -> list[bool]:
    module = nn.Linear(2, 2)
    copies = nn.Module._replicate_for_data_parallel(module)
    return [door.is_replica(module), door.is_replica(copies)]


def backward_ends(door: ModuleType) -> list[str]:
    order: list[str] = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2

    def ends(_: Tensor) -> None:
        door.after_backward(lambda: order.append("end"))

    y.register_hook(ends)
    x.register_hook(lambda _: order.append("leaf"))
    y.sum().backward()
    return order


def calls(door: ModuleType) -> list[bool]:
    model, other = nn.Sequential(nn.Identity()), nn.Identity()
    seen: list[bool] = []

    def look(*_: object) -> None:
        seen.extend(door.calling(frozenset({id(module)})) for module in (model, other))

    model[0].register_forward_hook(look)
    model(torch.ones(2))
    return [*seen, door.calling(frozenset({id(model)}))]


def scales(door: ModuleType) -> list[object]:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = door.scale_of(scaler)
    scaler.scale(torch.ones(1))
    after = door.scale_of(scaler)
    return [before, None if after is None else float(after)]


def compiled(door: ModuleType) -> list[bool]:
    module = nn.Linear(2, 2)
    wrapper, in_place = torch.compile(module, backend="eager"), nn.Linear(2, 2)
    in_place.compile(backend="eager")
    return [
        door.compiled(module),
        door.compiled(wrapper),
        door.compiled(in_place),
        door.wrapped_by_compiler(wrapper) is module,
    ]


def guards(door: ModuleType) -> object:
    skipped = door.hook_guards_skipped()
    door.skip_hook_guards(skipped)
    return skipped


def graphs(door: ModuleType) -> list[int]:
    torch._dynamo.reset()

    def double(x: Tensor) -> Tensor:
        return x * 2

    torch.compile(double, backend="eager")(torch.ones(2))
    found = door.compiled_graphs()
    door.discard(found)
    return [len(found), len(door.compiled_graphs())]


def groups(door: ModuleType) -> object:
    """Return a sum over the ranks of a group of one, beside a default group that stays alone."""
    known = torch.distributed.distributed_c10d._world.group_count
    store = torch.distributed.TCPStore("localhost", 0, 1, True)  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        counted = torch.distributed.distributed_c10d._world.group_count
        group = door.gloo_group(door.rendezvous("here"), 0, 1, timedelta(seconds=10))
        x = torch.ones(2)
        group.allreduce([x], torch.distributed.AllreduceOptions()).wait()
        same = counted == torch.distributed.distributed_c10d._world.group_count
        return [x.tolist(), same, known < counted]
    finally:
        torch.distributed.destroy_process_group()


#: entry -> what to call, and the result.
USES: dict[str, tuple[Callable[[ModuleType], object], object]] = {
    "recomputation": (in_checkpoint, [False, True]),
    "transforms": (
        under_transforms,
        [None, "under a torch.func transform", "with fake tensors, while being traced"],
    ),
    "wrappers": (wrappers, [True, True, False, False]),
    "own arithmetic": (own_arithmetic, ["sin"]),
    "function modes": (modes, [True, False, True, 1]),
    "layers": (layers, [True, False, True, True, False, False, False, True, False]),
    "versions": (versions, [True, False]),
    "structure": (structures, [True, False, False, False, False]),
    "foreach": (zeroed, [0.0, 0.0]),
    "replicas": (replicas, [False, True]),
    "end of backward": (backward_ends, ["leaf", "end"]),
    "ranks": (groups, [[1.0, 1.0], True, True]),
    "calls": (calls, [True, False, False]),
    "loss scale": (scales, [None, 4.0]),
    "compiled modules": (compiled, [False, True, True, True]),
    "hook guards": (guards, True),
    "forgetting graphs": (graphs, [1, 0]),
}
#: Entries whose loss cannot be noticed: the attribute is there on some objects only.
SILENT = {"replicas", "loss scale", "structure"}


def test_every_entry_is_tried() -> None:
    assert set(USES) | {"tracing"} == set(INTERNALS)


@pytest.mark.parametrize("entry", USES)
def test_the_entry_works_on_this_torch(entry: str) -> None:
    use, expected = USES[entry]
    assert use(torch_internals) == expected
    assert not internals.switched_off(entry)


# --- each entry may be gone -----------------------------------------------------------------------


@pytest.fixture
def fresh_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals._State, "off", {})
    monkeypatch.setattr(internals._State, "warned", set())


def another_door() -> ModuleType:
    """Return the door as it would be imported now."""
    spec = importlib.util.spec_from_file_location("another_door", DOOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["another_door"] = module
    spec.loader.exec_module(module)
    return module


WRAPPED = torch.ones(2).as_subclass(Wrapper)
MODE = Seen()
#: entry -> what is taken away, from what; what to call then, and the result.
GONE: dict[str, tuple[object, str, Callable[[ModuleType], object], object]] = {
    "recomputation": (torch._C, "_current_graph_task_id", lambda d: d.recomputing(), False),
    "transforms": (torch._C, "_TorchDispatchModeKey", lambda d: d.transforming(), None),
    "wrappers": (
        torch.utils._python_dispatch,
        "is_traceable_wrapper_subclass",
        lambda d: [d.ordinary(nn.Parameter(torch.ones(2))), d.ordinary(WRAPPED)],
        [True, False],
    ),
    "own arithmetic": (torch._C, "DisableTorchFunction", own_arithmetic, ["sin", "cos"]),
    "function modes": (
        torch._C,
        "_pop_torch_function_stack",
        lambda d: [d.push_mode(MODE), torch._C._len_torch_function_stack()],
        [None, 0],
    ),
    "layers": (nn.modules.conv, "_ConvTransposeNd", layers, USES["layers"][1]),
    "versions": (
        Tensor,
        "_version",
        lambda d: d.version_of(WRAPPED) == d.version_of(WRAPPED),
        False,
    ),
    "foreach": (torch, "_foreach_zero_", zeroed, [0.0, 0.0]),
    "end of backward": (
        torch.autograd.Variable,
        "_execution_engine",
        lambda d: d.after_backward(lambda: None),
        False,
    ),
    "ranks": (
        torch.distributed.distributed_c10d,
        "_get_default_store",
        lambda d: d.rendezvous("here"),
        None,
    ),
    "calls": (nn.Module, "_call_impl", lambda d: d.calling(frozenset()), True),
    "compiled modules": (
        torch._dynamo,
        "OptimizedModule",
        lambda d: [d.wrapped_by_compiler(nn.Linear(2, 2)), d.compiled(nn.Linear(2, 2))],
        [None, False],
    ),
    "hook guards": (torch._dynamo, "config", lambda d: d.hook_guards_skipped(), None),
    "forgetting graphs": (
        torch._dynamo.convert_frame,
        "input_codes",
        lambda d: d.compiled_graphs(),
        [],
    ),
}


def test_the_loss_of_every_entry_is_tried() -> None:
    assert set(GONE) | SILENT | {"tracing"} == set(INTERNALS)


@pytest.mark.usefixtures("fresh_state")
@pytest.mark.parametrize("entry", GONE)
def test_where_an_entry_is_gone_one_warning_says_what_is_lost(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, use, fallback = GONE[entry]
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if entry == "versions":  # of a class in C, which loses nothing
            patch.setattr(owner, name, None, raising=False)
        else:
            patch.delattr(owner, name)
        door = another_door()
        internals.warn_of_missing()
        results = [use(door), use(door)]
    assert results == [fallback, fallback]
    said = [str(w.message) for w in caught if issubclass(w.category, ProbeWarning)]
    assert len(said) == 1
    assert said[0].startswith(
        f"torch {torch.__version__} is not as sigprop expects it: {INTERNALS[entry].without}. "
        f"({' or '.join(INTERNALS[entry].names)}: "
    )
    assert internals.switched_off(entry)


@pytest.mark.usefixtures("fresh_state")
@pytest.mark.parametrize(
    "name",
    [
        "_current_graph_task_id",
        "_get_dispatch_mode",
        "_push_on_torch_function_stack",
        "_len_torch_function_stack",
    ],
)
def test_what_fails_in_a_hook_never_reaches_the_training(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    expected = model(torch.ones(3, 2))
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.delattr(torch._C, name)
        with sigprop.attach(model, blocks="leaves") as probe:
            out = model(torch.ones(3, 2))
            out.sum().backward()
    assert torch.equal(out, expected)
    assert set(probe.records.signals["name"]) == {"0", "1", "2"}
    said = [str(w.message) for w in caught if issubclass(w.category, ProbeWarning)]
    assert len(said) == 1
    assert "is not as sigprop expects it" in said[0]
    assert torch._C._len_torch_function_stack() == 0


# --- a torch that is too old --------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.4.1", "1.13.1+cu117", "2.4.0a0+git1234"])
def test_an_old_torch_is_refused_in_one_sentence(version: str) -> None:
    with pytest.raises(ImportError) as caught:
        torch_version.require(version)
    assert str(caught.value) == (
        f"sigprop needs torch 2.5 or newer and found torch {version}; "
        "upgrade it with `pip install --upgrade torch`"
    )


@pytest.mark.parametrize("version", ["2.5.0", "2.5.1+cu124", "2.13.0", "3.0.0", torch.__version__])
def test_a_newer_torch_is_not(version: str) -> None:
    assert torch_version.require(version) >= (2, 5)


def test_the_refusal_comes_before_anything_else() -> None:
    code = "import torch; torch.__version__ = '2.4.1'; import sigprop"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: sigprop needs torch 2.5 or newer and found torch 2.4.1" in done.stderr
    assert "networks" not in done.stderr
