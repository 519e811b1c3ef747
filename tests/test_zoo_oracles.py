"""The zoo's larger parts against twins that others wrote, or that are written out by hand."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from zoo import gaussian, made

from sigprop.networks import Standardized, build, centered_gain
from sigprop.networks.lstm import LSTMLayer
from sigprop.networks.transformer import Attention

EXAMPLE = Path(__file__).parents[1] / "examples" / "05_ablate_rescalenet.py"


# --- torch's own -------------------------------------------------------------------------------


def test_an_lstm_layer_is_torchs():
    torch.manual_seed(0)
    ours = LSTMLayer(5, 7).double()
    theirs: Any = nn.LSTM(5, 7, batch_first=True).double()

    def in_torchs_order(x):  # theirs: input, forget, cell, output; ours has the cell last
        i, f, o, g = x.chunk(4)
        return torch.cat([i, f, g, o])

    with torch.no_grad():
        theirs.weight_ih_l0.copy_(in_torchs_order(ours.from_input.weight))
        theirs.weight_hh_l0.copy_(in_torchs_order(ours.from_state.weight))
        theirs.bias_ih_l0.copy_(in_torchs_order(ours.from_input.bias))
        theirs.bias_hh_l0.zero_()
    x = gaussian(0, 3, 11, 5)
    assert torch.allclose(ours(x), theirs(x)[0], rtol=1e-12, atol=1e-12)


def test_the_forget_gate_starts_open_and_gates_are_orthogonal():
    layer = LSTMLayer(5, 7, forget_bias=1.5)
    bias = layer.from_input.bias
    assert bias[7:14].tolist() == [1.5] * 7
    assert not bias[:7].any()
    assert not bias[14:].any()
    for gate in layer.from_state.weight.chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(7), atol=1e-5)


def test_a_normalized_lstm_has_normalized_products():
    layer = LSTMLayer(5, 7, norm=True)
    assert isinstance(layer.norm_cell, nn.LayerNorm)
    assert torch.isfinite(layer(torch.randn(2, 30, 5) * 1e3)).all()


def copied(net):
    """Return torch's encoder layer with the weights of blocks 0 and 1."""
    attention, feed_forward = net.blocks[0].branch, net.blocks[1].branch
    post = isinstance(net.blocks[0].after, nn.LayerNorm)
    layer = nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0.0, batch_first=True, norm_first=not post
    ).double()
    parts = attention.attention
    with torch.no_grad():
        for name in ("weight", "bias"):
            stacked = [getattr(p, name) for p in (parts.query, parts.key, parts.value)]
            getattr(layer.self_attn, f"in_proj_{name}").copy_(torch.cat(stacked))
            getattr(layer.self_attn.out_proj, name).copy_(getattr(attention.weight2, name))
            getattr(layer.linear1, name).copy_(getattr(feed_forward.weight1, name))
            getattr(layer.linear2, name).copy_(getattr(feed_forward.weight2, name))
    return layer


@pytest.mark.parametrize("post", [False, True])
def test_two_blocks_are_torchs_encoder_layer(post):
    net = made("transformer", depth=1, width=8, inputs=(6, 5), post=post)
    with torch.no_grad():
        for module in net.blocks.modules():  # zero biases would hide a mistake
            if isinstance(module, nn.Linear):
                module.bias.normal_()
    x = gaussian(0, 3, 6, 8)
    assert torch.allclose(net.blocks(x), copied(net)(x), rtol=1e-10, atol=1e-10)


def test_attention_at_exponent_one_divides_by_the_heads_width():
    torch.manual_seed(0)
    query_map, key_map, value_map = (nn.Linear(8, 8).double() for _ in range(3))
    x = gaussian(0, 2, 5, 8)
    query, key, value = query_map(x), key_map(x), value_map(x)
    expected = []
    for head in range(2):  # heads are consecutive channels
        channels = slice(4 * head, 4 * head + 4)
        logits = query[..., channels] @ key[..., channels].mT / 4
        expected.append(torch.softmax(logits, dim=-1) @ value[..., channels])
    out = Attention(query_map, key_map, value_map, heads=2, scale_exponent=1.0)(x)
    assert torch.allclose(out, torch.cat(expected, dim=-1), rtol=1e-10)


def test_scaled_weight_standardization_is_what_batch_norm_of_the_weights_gives():
    weight = gaussian(0, 6, 4, 3, 3)
    rows = weight.flatten(1)
    normalized = functional.batch_norm(rows.T, None, None, training=True, eps=1e-12).T
    expected = (normalized / 36**0.5).view_as(weight)
    assert torch.allclose(Standardized(6, 4).double()(weight), expected, rtol=1e-9)


# --- written out -------------------------------------------------------------------------------


def test_a_fixup_block_written_out():
    net = made("fixup", depth=2, width=6, inputs=6)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.blocks[0].parameters():
            if parameter.numel() == 1 or not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    b = net.blocks[0].branch
    x = gaussian(0, 4, 6)
    h = torch.relu(x + b.shift1.bias) + b.bias1.bias
    h = h @ b.weight1.weight.T
    h = torch.relu(h + b.shift2.bias) + b.bias2.bias
    h = h @ b.weight2.weight.T
    scale, shift = b.multiplier
    assert torch.allclose(net.blocks[0](x), x + scale.m * h + shift.bias)


@pytest.mark.parametrize("act_first", [False, True])
def test_an_nf_block_written_out(act_first):
    options = {"depth": 3, "width": 6, "inputs": 6, "activation": "silu", "alpha": 0.5}
    net = made("nf-resnet", act_first=act_first, skip_gain=0.7, **options)
    gamma = centered_gain("silu")
    x = gaussian(0, 4, 6)

    def standardized(layer):
        w = layer.parametrizations.weight.original
        w = w - w.mean(1, keepdim=True)
        return gamma * w / (w.square().mean(1, keepdim=True) * 6).sqrt()

    for k, std in enumerate((1.0, 1.25**0.5, 1.5**0.5)):
        branch = net.blocks[k].branch
        first = functional.silu(x) / std if act_first else functional.silu(x / std)
        h = first @ standardized(branch.weight1).T
        h = functional.silu(h) @ standardized(branch.weight2).T
        # a transition: the skip is a weight on the same activation
        skip = first @ standardized(net.blocks[0].skip.weight).T if k == 0 else x
        expected = skip + 0.5 * 0.7 * h
        assert torch.allclose(net.blocks[k](x), expected, rtol=1e-6, atol=1e-9)
        x = expected


def test_an_nfnet_branch_has_the_layers_of_the_paper():
    net: Any = build("nfnet", variant="F0", inputs=(3, 64, 64), classes=7)
    stages = [block.branch.weight4.out_channels for block in net.blocks]
    assert stages == [256, *[512] * 2, *[1536] * 6, *[1536] * 3]
    branch = net.blocks[3].branch
    kernels = [getattr(branch, f"weight{i}") for i in range(1, 5)]
    assert [k.kernel_size[0] for k in kernels] == [1, 3, 3, 1]
    assert [k.stride[0] for k in kernels] == [1, 2, 1, 1]
    assert [k.groups for k in kernels] == [1, 6, 6, 1]  # 768 channels, 128 a group
    assert branch.excite.squeeze.out_features == 768
    names = [name for name, _ in branch.named_children()]
    assert names[-4:] == ["excite", "drop", "multiplier", "scale"]
    assert [m.stride[0] for m in net.stem if isinstance(m, nn.Conv2d)] == [2, 1, 1, 2]


def test_a_scalar_gain_of_zero_in_every_block_is_the_papers_start():
    net: Any = build("nfnet", depth=2, width=8)
    assert [block.branch.multiplier.m.item() for block in net.blocks] == [0.0, 0.0]


def test_a_rescaled_transformer_attends_to_centered_tokens():
    net = made("rescale", architecture="transformer", depth=1, width=8, inputs=(6, 5))
    seen = []
    net.blocks[0].branch.attention.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    net(gaussian(0, 16, 6, 5))
    assert seen[0].mean(dim=(0, 1)).abs().max() < 1e-12


# --- the example -------------------------------------------------------------------------------


def test_the_ablation_writes_its_figure_and_numbers(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path), "--quick"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
    )
    assert "written:" in done.stdout
    assert (tmp_path / "ablation.png").stat().st_size > 10_000
    assert (tmp_path / "ablation.svg").exists()
    with (tmp_path / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert all(0.9 < float(row["weights"]) < 1.1 for row in rows)
    page = (tmp_path / "README.md").read_text()
    assert "Made by `python examples/05_ablate_rescalenet.py" in page
    # the two forms are one function: the same start, other gradients by ((k + c)/L)^(1/4)
    with (tmp_path / "gradients.csv").open() as file:
        gradients = list(csv.DictReader(file))
    norms = {
        (row["network"], row["k"]): float(row["gradient"])
        for row in gradients
        if row["network"] in ("paper: scalar m, c = L", "plain form")
    }
    for k in range(1, 5):
        ratio = norms["paper: scalar m, c = L", str(k)] / norms["plain form", str(k)]
        assert ratio == pytest.approx(((k + 4) / 4) ** 0.25, rel=1e-3)
