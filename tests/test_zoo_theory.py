"""The zoo's networks against the recursions of their families, which know nothing of them."""

from typing import Any

import pytest
import torch
from messages import refusal
from zoo import channel_variance, gaussian, made, second, trunk

from sigprop import theory
from sigprop.errors import BadInput

WIDTH, SAMPLES, SEEDS = 256, 256, 6

#: Network, its options -> family, its options. Trunks of 8 blocks of dense layers.
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "plain": ({}, "plain", {}),
    "batchnorm": ({}, "batchnorm", {"layers": 2}),
    "layernorm": ({}, "layernorm", {"layers": 2}),
    "groupnorm": ({"per_group": WIDTH}, "layernorm", {"layers": 2}),
    "batchnorm-last": ({}, "plain", {}),
    "rescale": ({}, "rescale", {"init": "centered_preserving"}),
    "skipinit": ({"gain": 0.3}, "skipinit", {"gain": 0.3}),
    "fixup": ({}, "fixup", {}),
    "rezero": ({}, "rezero", {}),
    "layerscale": ({"start": 0.5}, "layernorm", {"layers": 2, "scale": 0.5}),
    "scaled-weightnorm": ({}, "weightnorm", {}),
    "nf-resnet": ({"alpha": 0.5}, "nf", {"alpha": 0.5}),
    "feedforward": ({}, "mlp", {}),
    "unit-scaled": (
        {"residual_mult": 2.0, "attn_ratio": 0.5},
        "unit_scaled",
        {"residual_mult": 2.0, "attn_ratio": 0.5},
    ),
    "mup": ({"branch": 2.0}, "skipinit", {"gain": 2.0 / 8**0.5}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_trunk_follows_its_recursion(name):
    options, family, arguments = CASES[name]
    start = theory.Kernel(samples=SAMPLES)
    centered = start.centered() if name == "rescale" else start
    predicted = theory.predict(family, 8, **arguments, start=centered)
    for of, expected in (
        (second, predicted.second_moment),
        (channel_variance, predicted.channel_variance),
    ):
        seen = []
        for seed in range(SEEDS):
            net = made(name, seed, depth=8, width=WIDTH, inputs=WIDTH, **options)
            values = trunk(net, gaussian(seed, SAMPLES, WIDTH), of=of)
            seen.append([value / values[0] for value in values])
        found = torch.tensor(seen).mean(0).tolist()
        # a ratio's standard deviation is about sqrt(5 L/n) = 0.4 for eight He layers in a row, a
        # third of it for residual blocks: 4 standard errors of 6 seeds
        rel = 0.6 if name == "feedforward" else 0.2
        assert found == pytest.approx((expected / expected[0]).tolist(), rel=rel), of.__name__


def test_unit_scaling_at_one_is_rescalenet_with_half_the_depth():
    ours, same = theory.predict("unit_scaled", 12), theory.predict("rescale", 12, c=6)
    assert ours.scale[1:] == pytest.approx(same.scale[1:], rel=1e-14)
    assert ours.skip[1:] == pytest.approx(same.skip[1:], rel=1e-14)
    assert (ours.skip**2 + ours.scale**2)[1:] == pytest.approx([1.0] * 12)


def test_unit_scaling_refuses_a_negative_depth():
    with refusal(BadInput, "depth must be a whole number of at least 0; got -1"):
        theory.predict("unit_scaled", -1)
