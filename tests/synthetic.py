"""Records with exactly known numbers, made without a network: what the report is tested on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sigprop.records import Records, tidy

#: growth of the second moment per block, and share of it that is mean shift at the last block
LAWS = {
    "plain": {"growth": 2.0, "shift": 0.45, "dead": 0.10, "gradient": 2.0, "loss": 6.0},
    "batchnorm": {"growth": 1.08, "shift": 0.02, "dead": 0.02, "gradient": 1.05, "loss": 0.35},
    "rescale": {"growth": 1.0, "shift": 0.20, "dead": 0.0, "gradient": 1.0, "loss": 0.25},
    "fixup": {"growth": 1.01, "shift": 0.10, "dead": 0.01, "gradient": 0.99, "loss": 0.45},
    "shrinking": {"growth": 0.8, "shift": 0.05, "dead": 0.4, "gradient": 0.8, "loss": 1.2},
    "layernorm": {"growth": 1.03, "shift": 0.06, "dead": 0.03, "gradient": 1.02, "loss": 0.30},
}


def second_moment(network: str, block: int, seed: int = 0, step: int = 0) -> float:
    """The value a synthetic block output carries: the law times a factor 1.02 ** (seed - 1)."""
    law = LAWS[network]
    return float(law["growth"] ** (block + 1) * 1.02 ** (seed - 1) * 1.001**step)


def gradient(network: str, block: int, blocks: int, seed: int = 0) -> float:
    law = LAWS[network]
    return float(1e-4 * law["gradient"] ** (blocks - 1 - block) * 1.02 ** (seed - 1))


def make(
    networks: Sequence[str] = ("plain", "batchnorm", "rescale"),
    blocks: int = 30,
    seeds: int = 3,
    steps: Sequence[int] = (0, 10, 20, 30),
    loss_steps: int = 60,
    diverge_at: int | None = 3,
) -> Records:
    """Records of several networks; ``plain`` loses its finite loss at ``diverge_at``."""
    tables: dict[str, list[dict[str, object]]] = {name: [] for name in Records().tables()}
    for network in networks:
        for seed in range(seeds):
            for step in steps:
                broken = network == "plain" and diverge_at is not None and step >= diverge_at
                where = {"run": "synthetic", "network": network, "seed": seed, "step": step}
                for block in range(blocks):
                    tables["signals"] += _signals(where, network, block, blocks, broken)
                    tables["parameters"] += _parameters(where, network, block, blocks, broken)
                if step in (steps[0], steps[-1]):
                    tables["spectra"] += _spectra(where, blocks)
            tables["training"] += _training(network, seed, loss_steps, diverge_at)
        tables["coverage"] += _coverage(network, blocks)
    frames = {name: tidy(name, rows) for name, rows in tables.items()}
    manifest = {
        "schema": 2,
        "status": "complete",
        "created": "2024-01-02T03:04:05+00:00",
        "command": "sigprop compare plain batchnorm rescale",
        "versions": {"python": "3.11", "torch": "2.5"},
        "seeds": list(range(seeds)),
    }
    tables_by_name: dict[str, Any] = dict(frames)
    return Records(manifest=manifest, **tables_by_name)


def _signals(where, network, block, blocks, broken):
    law, seed, step = LAWS[network], where["seed"], where["step"]
    m2 = second_moment(network, block, seed, step)
    share = law["shift"] * (block + 1) / blocks
    base = {
        **where,
        "mode": "train",
        "block": block,
        "kind": "block",
        "module": f"blocks.{block}",
        "name": f"blocks.{block}",
        "call": 0,
        "channel_dim": 1,
        "count": 4096,
        "channels": 64,
        "kurtosis": 3.0,
        "zero_fraction": 0.0,
    }
    nan = float("nan")
    lost = 4096 if broken else 0

    def row(port, value, direction="forward", **more):
        value = nan if broken else value
        return {
            **base,
            "port": port,
            "direction": direction,
            "second_moment": value,
            "channel_variance": value * (1 - share),
            "mean_shift": value * share,
            "nonfinite": lost,
            **more,
        }

    entry = second_moment(network, block - 1, seed, step)
    branch = abs(m2 - entry) + 1e-3 * m2
    return [
        row("in", entry),
        row("skip", m2 - branch if m2 > branch else m2),
        row("branch", branch, skip_branch_correlation=0.02 * math.sin(block + seed)),
        row("out", m2),
        row("out", gradient(network, block, blocks, seed), "backward", zero_fraction=0.1),
        row("out", m2, **_relu(block, 1), dead_fraction=law["dead"], channels=48),
        row("out", m2, **_relu(block, 2), dead_fraction=0.0, channels=16),
    ]


def _relu(block, number):
    name = f"blocks.{block}.relu{number}"
    return {"kind": "rectifier", "module": name, "name": name}


def _parameters(where, network, block, blocks, broken):
    ratio = 10.0 * math.sqrt(gradient(network, block, blocks, where["seed"]))
    ratio = float("inf") if broken else ratio
    common = {**where, "block": block, "weight_norm": 8.0, "effective_lr": 0.01}
    matrix = {"shape": "64x64", "ndim": 2, "count": 4096}
    vector = {"shape": "64", "ndim": 1, "count": 64}
    name = f"blocks.{block}"
    return [
        {**common, "name": f"{name}.conv1.weight", **matrix, "grad_to_weight": ratio,
         "update_to_weight": 0.01 * ratio, "grad_norm": 8 * ratio},
        {**common, "name": f"{name}.conv2.weight", **matrix, "grad_to_weight": 4 * ratio,
         "update_to_weight": 0.04 * ratio, "grad_norm": 32 * ratio},
        {**common, "name": f"{name}.conv2.bias", **vector, "grad_to_weight": 1e6},
        {**common, "name": f"{name}.norm.weight", **vector, "grad_to_weight": 1e6},
        {**common, "name": f"{name}.norm.bias", **vector, "grad_to_weight": 1e6},
        {**common, "name": "stem.weight", "block": -1, **matrix, "grad_to_weight": 1e6},
    ]  # fmt: skip


def _spectra(where, blocks, values=16):
    rows = []
    for block in range(blocks):
        for index in range(values):
            sigma = 2.0 * 10 ** (-index * (1 + block / blocks + where["step"] / 60) / values)
            rows.append(
                {
                    **where,
                    "name": f"blocks.{block}.conv1.weight",
                    "operator": "conv",
                    "index": index,
                    "singular_value": sigma,
                    "log_singular_value": math.log(sigma),
                }
            )
    return rows


def _training(network, seed, loss_steps, diverge_at):
    rows = []
    where = {"run": "synthetic", "network": network, "seed": seed, "learning_rate": 0.01}
    for step in range(loss_steps):
        broken = network == "plain" and diverge_at is not None and step >= diverge_at
        end = LAWS[network]["loss"]
        noise = 0.05 * math.sin(1.7 * step + seed)
        loss = end + (2.3 - end) * math.exp(-step / 12) + noise
        if network == "plain":
            loss = 2.3 * 100.0 ** min(step, 120)
        rows.append({**where, "step": step, "mode": "train",
                     "loss": float("nan") if broken else loss})  # fmt: skip
        if step % 10 == 9:
            accuracy = 0.1 if broken else 0.97 - 0.85 * math.exp(-step / 15) - 0.005 * seed
            rows.append({**where, "step": step, "mode": "eval", "accuracy": accuracy})
    return rows


def _coverage(network, blocks):
    rows = [
        {"run": "synthetic", "network": network, "name": f"blocks.{block}", "type": "Block",
         "recorded": True, "status": "recorded", "calls": 4, "gradient": "yes", "reason": ""}
        for block in range(blocks)
    ]  # fmt: skip
    rows.append({"run": "synthetic", "network": network, "name": "drop", "type": "Dropout",
                 "recorded": False, "status": "never_called", "calls": 0, "gradient": "no",
                 "reason": "never called"})  # fmt: skip
    return rows
