"""One place decides where numbers are computed, moves them there and draws the random ones."""

from __future__ import annotations

import ast
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import sigprop
from sigprop import BadInput
from sigprop.experiments.training import Plan, Training
from sigprop.inputs import devices
from sigprop.inputs.calling import backward, call
from sigprop.inputs.devices import (
    available,
    derived_seed,
    device_of,
    moved,
    normal,
    permutation,
    placed,
    random_state,
    resolve_device,
    seeded,
    set_random_state,
)
from sigprop.inputs.factories import copied, initialize

META = torch.device("meta")
CPU = torch.device("cpu")


def weight_of(model: nn.Module) -> Any:
    """The first parameter; its gradient is there once it was computed."""
    return next(model.parameters())


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two CUDA devices, as far as names go."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def mps(monkeypatch: pytest.MonkeyPatch, no_gpu: None) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    assert available() == ["cpu"]
    assert resolve_device() == resolve_device("auto") == resolve_device("cpu:0") == CPU


@pytest.mark.usefixtures("two_gpus")
def test_auto_takes_cuda_first_and_names_have_an_index() -> None:
    assert available() == ["cuda:0", "cuda:1", "cpu"]
    assert str(resolve_device("auto")) == "cuda:0"
    assert str(resolve_device("cuda")) == "cuda:1"  # torch's own current one
    assert str(resolve_device(torch.device("cuda", 0))) == "cuda:0"
    assert str(resolve_device("cpu")) == "cpu"


@pytest.mark.usefixtures("mps")
def test_auto_takes_mps_but_not_for_float64_which_it_has_not() -> None:
    assert str(resolve_device("auto")) == "mps"
    assert str(resolve_device("mps")) == "mps"
    assert str(resolve_device("auto", nn.Linear(2, 2))) == "mps"
    assert str(resolve_device("auto", nn.Linear(2, 2).double())) == "cpu"


@pytest.mark.usefixtures("no_gpu")
def test_a_model_that_is_elsewhere_stays_there() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    assert resolve_device("auto", model) == META
    assert resolve_device("cpu", model) == CPU
    assert device_of(model) == META
    assert device_of(nn.ReLU()) is None
    assert resolve_device("auto", nn.ReLU()) == CPU


WRONG = {
    "cuda": "device 'cuda' is not there; this machine has 'cpu'",
    "cuda:3": "device 'cuda:3' is not there; this machine has 'cpu'",
    "mps": "device 'mps' is not there; this machine has 'cpu'",
    "meta": "device 'meta' is not there; this machine has 'cpu'",
    "cude": "no device is called 'cude'; did you mean 'cuda'?",
    "gpu": "no device is called 'gpu'; did you mean 'cpu'?",
    "autom": "no device is called 'autom'; did you mean 'auto'?",
    "": "no device is called ''; known: auto, cpu, cuda, mps",
}


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("name", "message"), WRONG.items())
def test_a_device_that_is_not_there_is_one_sentence(name: str, message: str) -> None:
    with pytest.raises(BadInput) as error:
        resolve_device(name)
    assert str(error.value) == message


@pytest.mark.usefixtures("two_gpus")
def test_the_devices_that_are_there_are_listed() -> None:
    with pytest.raises(BadInput) as error:
        resolve_device("cuda:2")
    assert str(error.value) == (
        "device 'cuda:2' is not there; this machine has 'cuda:0', 'cuda:1', 'cpu'"
    )


# --- what is moved -------------------------------------------------------------------------------


@dataclass
class Pair:
    x: Tensor
    label: str


Named = namedtuple("Named", "x y")


def test_every_nest_is_moved_and_keeps_its_form() -> None:
    x = torch.ones(2)
    nest = {"a": [x, (x, "text")], "b": Named(x, 3), "c": Pair(x, "t"), "d": pack_sequence([x])}
    there = moved(nest, META)
    assert there["a"][0].device == there["a"][1][0].device == META
    assert there["a"][1][1] == "text"
    assert type(there["b"]) is Named
    assert there["b"].x.device == META
    assert there["b"].y == 3
    assert (there["c"].x.device, there["c"].label) == (META, "t")
    assert there["d"].data.device == META


def test_what_is_there_already_is_the_same_object() -> None:
    x = torch.ones(2)
    for value in (x, {"a": x}, [x], (x, None), Named(x, 1), None, "text"):
        assert moved(value, CPU) is value


def test_a_model_is_moved_unless_it_is_there_or_spread_out() -> None:
    model = nn.Linear(2, 2)
    weight = model.weight
    assert placed(model, CPU) is model
    assert model.weight is weight
    assert device_of(placed(nn.Linear(2, 2), META)) == META


def test_a_model_that_cannot_be_moved_is_one_sentence() -> None:
    class Fixed(nn.Linear):
        def to(self, *_: Any, **__: Any) -> Any:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype\nmore")

    with pytest.raises(BadInput) as error:
        placed(Fixed(2, 2), META)
    assert str(error.value) == (
        "this model cannot be moved to meta: Cannot convert a MPS Tensor to float64 dtype"
    )


def test_inputs_targets_losses_and_random_gradients_follow_the_model() -> None:
    """On meta, mixing with the CPU raises in torch itself: what passes here mixes nothing."""
    model = placed(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), META)
    x, y = moved((torch.ones(5, 3), torch.zeros(5, dtype=torch.long)), META)
    for targets, loss in ((None, None), (y, None), (y, nn.CrossEntropyLoss()), (y[:, None], None)):
        wanted = (
            targets.float().expand(5, 2) if targets is not None and targets.ndim == 2 else targets
        )
        model.zero_grad()
        assert backward(call(model, x), wanted, loss, seed=0)
        assert weight_of(model).grad.device == META
    with pytest.raises(BadInput, match="does not take inputs of"):
        call(model, torch.ones(5, 3))


def test_a_training_puts_model_and_batches_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "resolve_device", lambda *_: META)
    monkeypatch.setattr("sigprop.experiments.training.resolve_device", lambda *_: META)
    training = Training(nn.Linear(3, 2), (torch.ones(8, 3), torch.arange(8) % 2), Plan(steps=1))
    assert device_of(training.model) == META
    seen = []
    training.model.register_forward_pre_hook(lambda _, args: seen.append(args[0].device))
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        next(training.run())  # the loss of a meta tensor has no number: everything else ran there
    assert seen == [META]
    assert weight_of(training.model).grad.device == META


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    "ask",
    [
        lambda d: sigprop.measure("plain", torch.ones(2, 64), device=d),
        lambda d: sigprop.verify("plain", torch.ones(2, 64), device=d),
        lambda d: sigprop.assert_preserved("plain", torch.ones(2, 64), device=d),
        lambda d: sigprop.compare(["plain"], steps=1, device=d),
        lambda d: sigprop.check(nn.Linear(2, 2), torch.ones(2, 2), device=d),
        lambda d: Training(nn.Linear(2, 2), "digits", Plan(steps=1), device=d),
    ],
    ids=["measure", "verify", "assert_preserved", "compare", "check", "Training"],
)
def test_everything_that_computes_takes_a_device(ask) -> None:
    with pytest.raises(BadInput) as error:
        ask("cuda")
    assert str(error.value) == WRONG["cuda"]


def test_records_say_where_they_were_computed() -> None:
    records = sigprop.measure(nn.Linear(2, 2), torch.ones(3, 2), device="cpu")
    assert records.manifest["device"] == "cpu"


# --- what is drawn -------------------------------------------------------------------------------


def test_draws_are_on_the_cpu_whatever_the_default_device_is() -> None:
    expected = normal((4,), 3), permutation(5, 3)
    with torch.device("meta"):
        assert torch.equal(normal((4,), 3), expected[0])
        assert torch.equal(permutation(5, 3), expected[1])
    assert normal((2,), 0, torch.float64).dtype == torch.float64


def test_an_initialization_is_the_one_torch_draws_and_leaves_the_generator() -> None:
    torch.rand(3)  # another test may have left the state that a seed would leave
    before = torch.get_rng_state()
    model = initialize(lambda: nn.Linear(3, 2), seed=7)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(7)
    assert torch.equal(weight_of(model), nn.Linear(3, 2).weight)
    assert device_of(initialize(lambda: nn.Linear(3, 2), 7, META)) == META


def test_seeding_ends_with_the_state_it_began_with_after_an_error_too() -> None:
    torch.rand(5)
    before = random_state()
    drawn = []

    def fail() -> None:
        with seeded(1):
            drawn.append(torch.rand(1))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(before["cpu"], torch.get_rng_state())
    with seeded(1):
        assert torch.equal(torch.rand(1), drawn[0])
    set_random_state(random_state())


class _Generator:
    """Stands for an accelerator's generator: its state is a number."""

    def __init__(self) -> None:
        self.state, self.current = 5, -1

    def manual_seed(self, seed: int) -> None:
        self.state = seed

    def get_rng_state(self) -> Tensor:
        return torch.tensor([self.state])

    def set_rng_state(self, state: Tensor) -> None:
        self.state = int(state)

    def device(self, device: torch.device):
        outer = self

        class Current:
            def __enter__(self) -> None:
                outer.current = device.index

            def __exit__(self, *_: object) -> None:
                outer.current = -1

        return Current()


def test_an_accelerators_generator_is_seeded_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _Generator()
    monkeypatch.setattr(devices, "_module", lambda _: fake)
    gpu = torch.device("cuda", 1)
    with seeded(11, gpu):
        assert fake.state == 11
        assert set(random_state(gpu)) == {"cpu", "cuda"}
    assert fake.state == 5
    with seeded(11, CPU):
        assert fake.state == 5
    set_random_state({"cpu": torch.get_rng_state()}, gpu)  # of a run on another machine
    assert fake.state == 5


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_copy_of_a_model_with_a_scripted_part_has_leaves_that_require_gradients() -> None:
    model = nn.Sequential(nn.Linear(2, 2), torch.jit.script(nn.Linear(2, 2)))
    model[0].bias.requires_grad_(False)
    twin = copied(model)
    assert all(p.is_leaf for p in twin.parameters())
    flags = [p.requires_grad for p in twin.parameters()]
    assert flags == [True, False, True, True]
    assert weight_of(twin).data_ptr() != weight_of(model).data_ptr()


def test_derived_seeds_differ_and_fit() -> None:
    seeds = {derived_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)


# --- nothing else does ---------------------------------------------------------------------------

#: What only `sigprop/inputs/devices.py` may write, in the folders that run a user's model.
ELSEWHERE = ("to", "cuda", "cpu", "manual_seed", "fork_rng", "Generator", "get_rng_state")
FOLDERS = ("inputs", "experiments", "verification", "cli")


def offences(source: str) -> list[str]:
    """Return calls by which a module would choose a device or a generator by itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            beside_a_tensor = name == "to" and ast.unparse(node.args[0]) == "out"
            if name in ELSEWHERE and not beside_a_tensor:
                found.append(f"line {node.lineno}: .{name}()")
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_other_module_chooses_a_device_or_a_generator(folder: str) -> None:
    root = Path(sigprop.__file__).parent / folder
    paths = [*root.glob("*.py"), Path(sigprop.__file__).parent / "probing" / "check.py"]
    offending = {p.name: offences(p.read_text()) for p in paths if p.name != "devices.py"}
    kept = {name: found for name, found in offending.items() if found}
    kept.pop("datasets.py", None)  # reads files: its tensors are on the CPU until a batch is taken
    assert kept == {}


@pytest.mark.parametrize(
    "planted", ["x.to('cuda')", "x.cuda()", "torch.manual_seed(0)", "torch.random.fork_rng()"]
)
def test_a_planted_choice_is_found(planted: str) -> None:
    assert offences(planted)
