"""The 38 ways in which probing a model goes wrong, one test each, by their numbers."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import subprocess
import sys
import threading
import warnings
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import any_model_ranks
import oracles
import pandas as pd
import pytest
import torch
import torch.distributed.fsdp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import sigprop
from sigprop import BadInput, ProbeWarning
from sigprop.signals import measure_signal
from sigprop.torch_version import VERSION


def mlp(width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))


def data(n: int = 6) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(1))


def rows(probe: sigprop.Probe, direction: str = "forward", port: str = "out") -> pd.DataFrame:
    return probe.records.signals.query("direction == @direction and port == @port").set_index(
        "name"
    )


# --- 1-3: in-place operations, stored references, return values ------------------------------


@pytest.mark.parametrize("kind", ["relu", "residual", "identity"])
def test_01_an_in_place_operation_after_a_gradient_hook(kind: str) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            y += x
            return y

    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2)

    last = {"relu": nn.ReLU(inplace=True), "residual": Residual(), "identity": Doubled()}[kind]
    model = nn.Sequential(nn.Linear(8, 8), nn.Identity(), last)
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        model(data()).sum().backward()
    if kind == "relu":  # the gradient of the value before the rectifier is the mask
        mask = (model[0](data()) > 0).double()
        assert rows(probe, "backward").loc["0", "second_moment"] == pytest.approx(
            float(mask.mean()), rel=1e-6
        )
    assert {"0", "1"} <= set(rows(probe, "backward").index)


def test_02_what_was_read_is_not_what_it_became() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True))
    before = model[0](data()).detach()
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        model(data())
    assert rows(probe).loc["0", "zero_fraction"] == 0
    assert rows(probe).loc["0", "mean"] == pytest.approx(float(before.mean()), rel=1e-4)
    assert rows(probe, port="in")["mean"]["1"] == rows(probe)["mean"]["0"]


def test_03_hooks_return_none() -> None:
    model, outputs = mlp(), []
    with sigprop.attach(model, blocks="leaves", metrics={"m": lambda t: t.mean()}, strict=True):
        for module in model:
            module.register_forward_hook(lambda m, i, o: outputs.append(o))
        assert model(data()) is outputs[-1]


# --- 4-7: torch.compile, names ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["wrapper", "in place"])
def test_04_a_model_compiled_and_run_before_it_is_probed_is_recorded(form: str) -> None:
    model = mlp()
    compiled: Any = model
    if form == "wrapper":
        compiled = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
    expected = compiled(data())
    probe = sigprop.attach(compiled, blocks="leaves", strict=True)
    assert torch.equal(compiled(data()), expected)
    compiled(data()).sum().backward()
    assert set(rows(probe).index) == {"0", "1", "2"}
    probe.detach()


@pytest.mark.skipif(VERSION < (2, 6), reason="torch.compiler.set_stance is new in torch 2.6")
def test_04_what_a_compiler_skipped_is_never_silent() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves") as probe:
        probe._recorder.graph.traceable = False  # as by a torch that cannot trace our hooks
        compiled = torch.compile(model, backend="eager")
        compiled(data()).sum().backward()
        with pytest.warns(ProbeWarning, match="no forward of the probed model was seen"):
            optimizer.step()
        compiled(data()).sum().backward()
        optimizer.step()  # warned once
        with torch.compiler.set_stance("force_eager"):  # the advice that was given works
            compiled(data()).sum().backward()
        assert set(rows(probe).index) == {"0", "1", "2"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_05_compiled_graphs_stay_whole(backend: str, when: str) -> None:
    model = mlp()
    torch._dynamo.reset()
    if when == "before":
        probe = sigprop.attach(model, blocks="leaves")
    compiled: Any = torch.compile(model, backend=backend, fullgraph=True)
    if when == "after":
        compiled(data())
        probe = sigprop.attach(compiled, blocks="leaves")
    compiled(data()).sum().backward()
    assert set(rows(probe).index) == {"0", "1", "2"}
    assert torch.equal(compiled(data()), model(data()))
    probe.detach()


@pytest.mark.parametrize("form", ["wrapper", "in place"])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_05_a_compiled_part_of_an_eager_model(form: str) -> None:
    """The part's whole graph stays one; what lies outside of it is recorded as ever."""
    torch._dynamo.reset()
    inner = Odd(torch.relu)
    part: Any = (
        torch.compile(inner, backend="eager", fullgraph=True) if form == "wrapper" else inner
    )
    if form == "in place":
        part.compile(backend="eager", fullgraph=True)
    model = nn.Sequential(nn.Linear(8, 8), part, nn.ReLU())
    expected = model(data())
    probe = sigprop.attach(model, blocks=["0", "2"], strict=True)
    out = model(data())
    out.sum().backward()
    probe.detach()
    assert torch.equal(out, expected)
    assert {"0", "2"} == set(rows(probe).index)
    assert set(rows(probe, "backward").index) == {"0", "2"}


def test_06_a_cadence_causes_no_recompilation() -> None:
    model, graphs = mlp(), []
    torch._dynamo.reset()

    def counting(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with sigprop.attach(model, optimizer, every=2):
        compiled = torch.compile(model, backend=counting)
        for _ in range(12):
            compiled(data()).sum().backward()
            optimizer.step()
    assert len(graphs) <= 2


def test_07_names_are_those_of_the_bare_model() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    def names(model: nn.Module) -> set[str]:
        with sigprop.attach(model, blocks="leaves", strict=True) as probe:
            model(data()).sum().backward()
        return {*probe.records.coverage["name"], *probe.records.parameters["name"]}

    wrapped = mlp()
    wrapped[2] = checkpoint_wrapper(wrapped[2])
    assert names(wrapped) == names(mlp())
    assert names(nn.DataParallel(mlp())) == names(mlp())


# --- 8: activation checkpointing ----------------------------------------------------------------


class Checkpointed(nn.Module):
    """Three residual blocks: run plainly, checkpointed, or checkpointed within a checkpoint."""

    def __init__(self, reentrant: bool | None, nested: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(3)
        )
        self.reentrant, self.nested = reentrant, nested

    def run(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.reentrant is None:
            return function(x)
        return checkpoint(function, x, use_reentrant=self.reentrant)

    def several(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.run(block, x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.run(self.several, x) if self.nested else self.several(x)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of nested ones
def test_08_checkpointed_forwards_count_once_and_gradients_too(
    reentrant: bool, nested: bool
) -> None:
    def record(model: nn.Module) -> pd.DataFrame:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
            for _ in range(2):
                optimizer.zero_grad()
                model(data()).square().sum().backward()
                optimizer.step()
        return probe.records.signals

    key = [
        "step",
        "name",
        "port",
        "direction",
        "call",
        "count",
        "second_moment",
        "channel_variance",
    ]
    plain = record(Checkpointed(None))[key].sort_values(key[:5]).reset_index(drop=True)
    again = record(Checkpointed(reentrant, nested))[key].sort_values(key[:5])
    pd.testing.assert_frame_equal(plain, again.reset_index(drop=True), check_exact=True)
    assert torch._C._len_torch_function_stack() == 0


def test_08_a_checkpointed_root_is_one_forward() -> None:
    model = mlp()
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        checkpoint(model, data().requires_grad_(), use_reentrant=False).sum().backward()
        assert probe.step_index == 0
    assert rows(probe)["count"].tolist() == [48, 48, 24]


# --- 9-11: several processes --------------------------------------------------------------------


def run_ranks(kind: str, folder: Path) -> list[dict[str, object]]:
    script = Path(any_model_ranks.__file__)
    jobs = [
        subprocess.Popen(
            [sys.executable, str(script), kind, str(index), str(folder / "meet")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    done = [job.communicate(timeout=120) for job in jobs]
    for job, (_, errors) in zip(jobs, done, strict=True):
        assert job.returncode == 0, errors[-2000:]
    return [json.loads(out.strip().splitlines()[-1]) for out, _ in done]


@pytest.fixture(scope="module")
def truth() -> dict[str, object]:
    return any_model_ranks.whole()


def same_as_whole(found: dict[str, object], truth: dict[str, object]) -> None:
    for key in ("names", "passes", "modules"):
        assert found[key] == truth[key]
    for column in ("grad_norm", "weight_norm", "update_to_weight"):
        assert found[column] == pytest.approx(truth[column], rel=1e-5)


def test_09_ddp_gradients_are_those_after_the_all_reduce(tmp_path: Path, truth) -> None:
    for found in run_ranks("ddp", tmp_path):
        same_as_whole(found, truth)
        assert found["late"] == pytest.approx(truth["grad_norm"], rel=1e-5)


def test_10_variance_merges_with_count_mean_and_deviations() -> None:
    x = torch.cat([torch.randn(5, 3), 10 + torch.randn(50, 3)]).double()
    parts = [measure_signal(part) for part in x.split([5, 20, 30])]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.number("channel_variance") == pytest.approx(oracles.channel_variance(x, 1))


@pytest.mark.skipif(
    not hasattr(torch.distributed.fsdp, "fully_shard"), reason="torch 2.5 shards on CUDA only"
)
def test_11_fsdp2_norms_are_those_of_the_unsharded_model(tmp_path: Path, truth) -> None:
    first, other = run_ranks("fsdp", tmp_path)
    same_as_whole(first, truth)
    assert other["names"] == []


# --- 12-15: attention, nests, keywords ----------------------------------------------------------


def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2).eval()


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_12_fused_attention_stays_fused_and_bit_equal(gradients: bool, padded: bool) -> None:
    """Module hooks would switch the fast path off, and crash on its nested tensors."""
    model, x = encoder(), torch.randn(3, 5, 8)
    mask = torch.arange(5) >= torch.tensor([[4], [5], [3]]) if padded else None
    with torch.set_grad_enabled(gradients):
        expected = model(x, src_key_padding_mask=mask)
        with sigprop.attach(model, strict=True) as probe:
            assert torch.equal(model(x, src_key_padding_mask=mask), expected)
    assert {"layers.0", "layers.1"} <= set(rows(probe).index)
    assert rows(probe).loc["layers.1", "channels"] == 8
    coverage = probe.records.coverage.set_index("name")
    assert "not callable" in coverage["reason"]["layers.0.self_attn.out_proj"]
    inside = coverage["reason"]["layers.0.linear1"]
    assert ("one fused function" in inside) != gradients
    assert not torch.nn.modules.module._global_forward_hooks


def test_12_attention_alone_stays_fused() -> None:
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(2, 5, 8)
    with torch.no_grad():
        expected = attention(x, x, x)[0]
        with sigprop.attach(attention, blocks="(model)", strict=True) as probe:
            assert torch.equal(attention(x, x, x)[0], expected)
    assert "(model)[0]" in rows(probe).index


class Answers(nn.Module):
    def __init__(self, form: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.fc, self.form = nn.Linear(8, 8), form

    def forward(self, x: Tensor) -> object:
        return self.form(self.fc(x))


@dataclass
class Plain:
    logits: Tensor
    none: None = None


FORMS = {
    "tuple": (lambda y: (y, None), ["(model)[0]"]),
    "nested": (
        lambda y: (y * 2, (y, [y + 1])),
        ["(model)[0]", "(model)[1][0]", "(model)[1][1][0]"],
    ),
    "dict": (lambda y: {"logits": y}, ["(model)[logits]"]),
    "UserDict": (lambda y: UserDict(logits=y), ["(model)[logits]"]),
    "dataclass": (Plain, ["(model)[logits]"]),
    "list": (lambda y: [y], ["(model)[0]"]),
    "none": (lambda y: None, []),
}


@pytest.mark.parametrize(("form", "names"), FORMS.values(), ids=FORMS)
def test_13_and_14_nests_of_every_kind(form: Callable[[Tensor], object], names: list[str]) -> None:
    model = Answers(form)
    with sigprop.attach(model, blocks=["(model)", "fc"], strict=True) as probe:
        model(data())
        model.zero_grad()
    assert sorted(n for n in rows(probe).index if n != "fc") == names
    reason = probe.records.coverage.set_index("name")["reason"]["(model)"]
    assert reason == ("" if names else reason)


def test_13_packed_sequences() -> None:
    lstm = nn.LSTM(3, 5, batch_first=True)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(2, 4, 3), [4, 2], batch_first=True)
    with sigprop.attach(lstm, strict=True) as probe:
        out, (_, cell) = lstm(packed)
        (out.data.sum() + cell.sum()).backward()
    assert set(rows(probe, "backward").index) == {"(model)[0]", "(model)[1][1]"}
    assert rows(probe).loc["(model)[0]", "count"] == 6 * 5


def test_14_generators_are_not_consumed() -> None:
    model = Answers(lambda y: (part for part in y.split(2)))
    with sigprop.attach(model, blocks=["(model)", "fc"], strict=True) as probe:
        assert len(list(model(data()))) == 3
    coverage = probe.records.coverage.set_index("name")
    assert (
        "no non-empty real floating-point tensor" in coverage["reason"]["(model)"]
        or (
            coverage.loc["(model)", "recorded"]  # its input was
        )
    )


def test_15_keyword_only_calls() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, *, flag: bool, x: Tensor) -> Tensor:
            return x + self.fc(x) if flag else x

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Keyword()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(flag=True, x=x)

    model = Root()
    with sigprop.attach(model, blocks="inner", strict=True) as probe:
        model(data()).sum().backward()
    assert set(probe.records.signals["port"]) == {"in", "skip", "branch", "out"}


# --- 16-21: gradients that never come, and numbers that are hard to read ------------------------


def test_16_a_frozen_prefix_has_no_gradient_by_design() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        model(data()).sum().backward()
        with torch.no_grad():
            model(data())
    coverage = probe.records.coverage.set_index("name")["gradient"]
    assert coverage["0"] == "none: all before it is frozen, or cut off by detach or no_grad"
    assert coverage["2"] == "recorded"


def test_17_inference_mode_first_then_training() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
        with torch.inference_mode():
            model.eval()(data())
        model.train()
        model(data()).sum().backward()
        optimizer.step()
    assert len(rows(probe, "backward")) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_18_half_precision_statistics_are_computed_wide(dtype: torch.dtype) -> None:
    x = (torch.randn(64, 32) * 300 + 1000).to(dtype)
    assert measure_signal(x).number("channel_variance") == pytest.approx(
        oracles.channel_variance(x, 1), rel=1e-5
    )
    tiny = (torch.randn(64, 32) * 1e-5).to(dtype)
    assert measure_signal(tiny).number("second_moment") == pytest.approx(
        oracles.second_moment(tiny), rel=1e-5
    )


def test_18_autocast_does_not_reach_the_statistics() -> None:
    model = mlp()
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(data())
        with sigprop.attach(model, blocks="leaves", strict=True) as probe:
            out = model(data())
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected)
    assert rows(probe).loc["2", "second_moment"] == pytest.approx(
        oracles.second_moment(out.detach()), rel=1e-6
    )


def test_19_non_finite_values_are_counted_and_are_not_dead() -> None:
    linear, x = nn.Linear(8, 4), data()
    model = nn.Sequential(linear, nn.ReLU())
    with torch.no_grad():
        linear.weight[0] = math.nan
        linear.bias[1:] = -1e4
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        probe.record_spectra()
        model(x).sum().backward()
    row = rows(probe).loc["1"]
    assert row["nonfinite"] == 6
    assert row["dead_fraction"] == 0.75
    assert probe.records.spectra["singular_value"].isna().all()


def test_20_empty_and_single_samples() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
        model(data(0)).sum().backward()
        model(data(1)).sum().backward()
        optimizer.step()
    assert rows(probe)["count"].tolist() == [8, 8, 4]
    assert rows(probe)["channel_variance"].tolist() == [0, 0, 0]


class Odd(nn.Module):
    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.make = nn.Linear(8, 8), make

    def forward(self, x: Tensor) -> Tensor:
        return self.make(self.fc(x))


def quantized(y: Tensor) -> Tensor:
    return torch.quantize_per_tensor(y.detach(), 0.1, 0, torch.qint8)


ODD = {
    "complex": (lambda y: torch.complex(y, y), False),
    "quantized": (quantized, False),
    "sparse": (lambda y: y.detach().relu().to_sparse(), False),
    "meta": (lambda y: y.detach().to("meta"), False),
    "integer": (lambda y: y.long(), False),
    "nested": (lambda y: torch.nested.as_nested_tensor([y[:2], y[2:]], layout=torch.jagged), True),
    "strided nested": (lambda y: torch.nested.as_nested_tensor([y[:2], y[2:]]), True),
    "float64": (lambda y: y.double(), True),
    "a scalar": (lambda y: y.sum(), True),
}


@pytest.mark.parametrize(("make", "read"), ODD.values(), ids=ODD)
@pytest.mark.filterwarnings("ignore")  # prototype notices of torch's own exotic tensors
def test_21_tensors_of_other_kinds_are_read_or_named(
    make: Callable[[Tensor], Tensor], read: bool
) -> None:
    model = Odd(make)
    with sigprop.attach(model, blocks=["(model)", "fc"], strict=True) as probe:
        model(data())
    assert ("(model)" in rows(probe).index) == read
    assert "fc" in rows(probe).index


def test_21_sparse_gradients_have_their_true_norm() -> None:
    embedding = nn.Embedding(10, 4, sparse=True)
    model = nn.Sequential(embedding, nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = torch.tensor([[1, 1, 2]])
    with sigprop.attach(model, optimizer, strict=True) as probe:
        model(tokens).square().sum().backward()
        optimizer.step()
    assert embedding.weight.grad is not None
    grad = embedding.weight.grad.to_dense()
    row = probe.records.parameters.set_index("name").loc["0.weight"]
    assert row["grad_norm"] == pytest.approx(oracles.norm(grad), rel=1e-5)


# --- 22-25: sharing, parametrizations, lazy modules, copies -------------------------------------


def test_22_shared_modules_and_tied_weights() -> None:
    act = nn.ReLU()
    model = nn.Sequential(
        nn.Embedding(5, 5), act, nn.Linear(5, 5), act, nn.Linear(5, 5, bias=False)
    )
    model[4].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
        model(torch.tensor([[1, 2]])).square().sum().backward()
        optimizer.step()
    assert {"1", "1#1"} <= set(rows(probe).index)
    assert probe.records.parameters["name"].tolist() == ["0.weight", "2.weight", "2.bias"]
    assert probe.records.coverage.set_index("name").loc["3", "reason"] == (
        "another name of '1', recorded there"
    )


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_23_parametrizations_are_left_alone(kind: str) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(getattr(parametrizations, kind)(nn.Linear(8, 8)), nn.ReLU())

    def train(probed: bool) -> dict[str, Tensor]:
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        probe = sigprop.attach(model, optimizer, blocks="leaves", strict=True) if probed else None
        for _ in range(3):
            if probe is not None:
                probe.record_spectra()
            model(data()).sum().backward()
            optimizer.step()
        if probe is not None:
            assert set(rows(probe).index) == {"0", "1"}
            probe.detach()
        return model.state_dict()

    bare, probed = train(False), train(True)
    assert bare.keys() == probed.keys()
    assert all(torch.equal(bare[key], probed[key]) for key in bare)


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_24_lazy_modules(with_optimizer: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if with_optimizer else None
    with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
        probe.record_spectra()
        model(data()).sum().backward()
        if optimizer is not None:
            optimizer.step()
    assert probe.records.coverage.set_index("name").loc["0", "type"] == "Linear"
    assert rows(probe).loc["0", "channels"] == 4
    assert probe.records.parameters["grad_norm"].notna().all()
    assert len(probe.records.parameters) == 4


def test_25_copies_pickles_and_averages_of_a_probed_model_are_inert() -> None:
    model = mlp()
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        average = torch.optim.swa_utils.AveragedModel(model)
        twin = pickle.loads(pickle.dumps(model))
        buffer = io.BytesIO()
        torch.save(copy.deepcopy(model), buffer)
        for other in (average, twin):
            other(data()).sum().backward()
        average.update_parameters(model)
        assert len(probe.records.signals) == 0
        with sigprop.attach(twin, blocks="leaves", strict=True) as second:
            twin(data())
        assert len(second.records.signals) > 0


# --- 26-31: transforms, several backwards, scalers, exceptions, scripts -------------------------


def test_26_torch_func_passes_by() -> None:
    model = mlp()
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, p, (x[None],)).sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))
    expected = per_sample(params, data())
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        found = per_sample(params, data())
    assert all(torch.equal(found[name], expected[name]) for name in params)
    assert len(probe.records.signals) == 0
    assert "torch.func" in probe.records.coverage.set_index("name")["reason"]["0"]


def test_27_double_backward_retained_graphs_and_autograd_grad() -> None:
    def smooth() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    model, x = smooth(), data().requires_grad_()
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        (g,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        once = rows(probe, "backward")
        assert once["count"].to_dict() == rows(probe)["count"].to_dict()
        assert len(probe.records.parameters) == 0  # nothing reached a .grad
        g.square().sum().backward()
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        out = model(x).sum()
        out.backward(retain_graph=True)
        first = rows(probe, "backward")["second_moment"]
        out.backward()
    both = rows(probe, "backward")
    assert both["count"].to_dict() == (2 * rows(probe)["count"]).to_dict()
    pd.testing.assert_series_equal(both["second_moment"], first, rtol=1e-6)


def test_27_no_graph_is_kept_alive() -> None:
    model, x = mlp(), data().requires_grad_()
    freed = []
    with sigprop.attach(model, blocks="leaves", metrics={"m": lambda t: t.mean()}, strict=True):
        out = model(x).square().sum()
        torch.autograd.grad(out, x, create_graph=True)[0].sum().backward()
        node = out.grad_fn
        node.metadata["alive"] = type("Canary", (), {"__del__": lambda self: freed.append(1)})()
        del out, node
        assert freed == [1]


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_28_a_scaled_loss(with_optimizer: bool) -> None:
    def record(scale: float | None) -> tuple[pd.DataFrame, pd.DataFrame]:
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        given = optimizer if with_optimizer else None
        with sigprop.attach(model, given, blocks="leaves", strict=True, scaler=scaler) as probe:
            scaler.scale(model(data()).square().sum()).backward()
            if with_optimizer:
                scaler.step(optimizer)
                scaler.update()
        backward = rows(probe, "backward")[["second_moment", "mean_shift", "max_abs", "kurtosis"]]
        return backward, probe.records.parameters.set_index("name")[
            ["grad_norm", "grad_to_weight", "unit_grad_to_weight_max"]
        ]

    for plain, scaled in zip(record(None), record(1024.0), strict=True):
        pd.testing.assert_frame_equal(plain, scaled, rtol=1e-5)


def test_29_an_exception_mid_forward() -> None:
    class Fragile(nn.Module):
        fail = True

        def forward(self, x: Tensor) -> Tensor:
            if self.fail:
                raise RuntimeError("boom")
            return x

    fragile = Fragile()
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8), fragile), nn.ReLU())
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        with pytest.raises(RuntimeError, match="boom"):
            model(data())
        fragile.fail = False
        model(data()).sum().backward()
        assert torch._C._len_torch_function_stack() == 0
    last = probe.records.signals.query("step == 1 and port == 'out' and direction == 'forward'")
    assert last["name"].tolist() == ["0.0", "0.1", "1"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_30_script_modules() -> None:
    scripted = torch.jit.script(mlp())
    with pytest.raises(BadInput, match="a ScriptModule cannot be hooked; probe the Python model"):
        sigprop.attach(scripted)
    model = nn.Sequential(nn.Linear(8, 8), scripted, nn.Linear(4, 2))
    with pytest.warns(ProbeWarning, match="modules of this model cannot be read, '1' first"):
        probe = sigprop.attach(model, blocks="leaves", strict=True)
    with probe:
        model(data()).sum().backward()
    assert set(rows(probe).index) == {"0", "2"}
    assert "ScriptModule" in probe.records.coverage.set_index("name")["reason"]["1"]


@pytest.mark.skipif(VERSION < (2, 7), reason="older ones export no model that has any hook itself")
def test_30_export_and_trace_of_a_probed_model() -> None:
    model = mlp()
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        exported = torch.export.export(model, (data(),)).module()
        rows_then = len(probe.records.signals)
        torch.testing.assert_close(exported(data()), model(data()))
    assert rows_then == 0


def test_31_forward_called_directly() -> None:
    class Bypass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.bypassed = nn.Linear(8, 8), nn.Linear(8, 8)
            self.bag = nn.ModuleList([nn.Linear(8, 8)])

        def forward(self, x: Tensor) -> Tensor:
            return self.bag[0](self.bypassed.forward(self.seen(x)))

    model = Bypass()
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        model(data()).sum().backward()
    coverage = probe.records.coverage.set_index("name")
    reasons, statuses = coverage["reason"], coverage["status"]
    assert "its forward is bypassed" in reasons["bypassed"]
    assert statuses["bypassed"] == "called_directly"
    assert "container" in reasons["bag"]
    assert statuses["bag"] == "not_chosen"
    assert reasons["bag.0"] == ""


# --- 32-38: replicas, randomness, flags, definitions --------------------------------------------


@pytest.mark.parametrize("threads", [False, True])
def test_32_data_parallel_replicas(threads: bool) -> None:
    """There is no second device here: the replicas are made as DataParallel makes them."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
        replicas = [replica(model) for _ in range(2)]
        outs: dict[int, Tensor] = {}

        def run(index: int) -> None:
            outs[index] = replicas[index](data(4))

        jobs = [threading.Thread(target=run, args=(index,)) for index in range(2)]
        for index, job in enumerate(jobs):
            job.start() if threads else run(index)
        for job in jobs if threads else ():
            job.join()
        (outs[0].sum() + outs[1].sum()).backward()
        assert probe.step_index == 0
        optimizer.step()
    assert list(rows(probe).index) == ["0", "1", "2"]
    assert rows(probe)["count"].tolist() == [64, 64, 32]
    assert rows(probe, "backward")["count"].to_dict() == {"0": 64, "1": 64, "2": 32}


def replica(module: nn.Module) -> nn.Module:
    """Return a replica, wired as torch.nn.parallel.replicate does."""
    twin = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        assert child is not None
        twin._modules[name] = replica(child)
    for name, parameter in module._parameters.items():
        assert parameter is not None
        copied = parameter.clone()
        setattr(twin, name, copied)
    return twin


def test_33_randomness_is_not_touched() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    states = []
    for probed in (False, True):
        torch.manual_seed(0)
        if probed:
            with sigprop.attach(model, strict=True) as probe:
                model(data()).sum().backward()
                assert len(probe.records.signals)
        else:
            model(data()).sum().backward()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_34_mode_flags_are_restored_per_module() -> None:
    norm = nn.BatchNorm1d(8).eval()
    model = nn.Sequential(nn.Linear(8, 8), norm, nn.Dropout())
    flags = [m.training for m in model.modules()]
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    sigprop.measure(model, data())
    with sigprop.attach(model, strict=True):
        model(data())
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(norm.running_mean, before)


def test_35_what_was_not_run_is_absent_and_not_zero() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.on = nn.Linear(8, 8), nn.Linear(8, 8), True

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) if self.on else self.a(x)

    model = Sometimes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sigprop.attach(model, optimizer, blocks="leaves", strict=True) as probe:
        for model.on in (True, False):
            optimizer.zero_grad()
            model(data()).sum().backward()
            optimizer.step()
    second = probe.records.signals.query("step == 1")
    assert set(second["name"]) == {"a"}
    numbers = probe.records.parameters.query("step == 1").set_index("name")
    assert math.isnan(numbers["grad_norm"]["b.weight"])


def test_36_backward_may_run_in_another_thread() -> None:
    """As on CUDA, where the autograd engine has a thread of its own per device."""
    model = mlp()
    with sigprop.attach(model, blocks="leaves", strict=True) as probe:
        out = model(data()).sum()
        thread = threading.Thread(target=out.backward)
        thread.start()
        thread.join()
    assert len(rows(probe, "backward")) == 3


def test_37_every_variance_says_which_it_is() -> None:
    x = torch.randn(8, 3, 5, 5) * torch.tensor([0.5, 1, 2])[:, None, None] + torch.tensor(
        [1.0, -2, 0]
    ).reshape(3, 1, 1)
    model = nn.Conv2d(3, 3, 1)
    with sigprop.attach(model, strict=True) as probe:
        out = model(x).detach()
    row = rows(probe).loc["(model)"]
    assert row["channel_dim"] == 1
    assert row["second_moment"] == pytest.approx(oracles.second_moment(out), rel=1e-5)
    assert row["channel_variance"] == pytest.approx(oracles.channel_variance(out, 1), rel=1e-5)
    assert row["mean_shift"] == pytest.approx(oracles.mean_shift(out, 1), rel=1e-5)
    distinct = {round(row[c], 6) for c in ("second_moment", "channel_variance", "mean_shift")}
    assert len(distinct) == 3


def test_38_functionals_are_seen_without_altering_them() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.eye(8))

        def forward(self, x: Tensor) -> Tensor:
            y = F.linear(x, self.w).relu_()
            y = torch.clamp(F.linear(y, self.w) - 0.1, min=0)
            y += x
            return y

    model = Functional()
    expected = model(data())
    with sigprop.attach(model, strict=True) as probe:
        assert torch.equal(model(data()), expected)
    assert set(probe.records.signals["name"]) == {"(model)", "(model):relu", "(model):clamp"}
    assert {"skip", "branch"} <= set(probe.records.signals["port"])
