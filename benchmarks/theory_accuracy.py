"""How far theory's lines are from what networks of the zoo do, over many initializations.

Run: python -m benchmarks.theory_accuracy [--seeds 64] [--output reports/theory]

A line is one quantity of one network: the second moment, channel variance and mean shift of each
block's output on the way forward, the second moment of its gradient on the way back. Its error at a
block is |log(measured/predicted)|, measured being the mean over initializations, float64, inputs of
independent standard normal values. It holds the noise of that mean too, which is given beside it.
A mean shift below 1 % of the second moment is not compared: its line is at the bottom of a plot.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sigprop.networks import build, resolve
from sigprop.theory import Kernel
from sigprop.verification.predictions import recursion_of

QUANTITIES = ("second moment", "channel variance", "mean shift", "gradient")
_LEAST_SHIFT = 0.01

_MLP: Mapping[str, Any] = {"depth": 8, "width": 256, "inputs": (256,)}
_ENCODER: Mapping[str, Any] = {
    "architecture": "transformer",
    "depth": 4,
    "width": 128,
    "inputs": (8, 48),
    "heads": 4,
}
_RESNET: Mapping[str, Any] = {
    "architecture": "resnet",
    "depth": 4,
    "width": 64,
    "inputs": (32, 8, 8),
}


@dataclass(frozen=True)
class Case:
    """One network of the zoo, and how many samples it is given."""

    network: str
    kind: str
    own: Mapping[str, Any]
    samples: int

    @property
    def options(self) -> dict[str, Any]:
        """All options that are given to the network."""
        shared = {"mlp": _MLP, "transformer": _ENCODER, "resnet": _RESNET}[self.kind]
        return {**shared, **self.own}

    @property
    def label(self) -> str:
        """The network and its own options, for a table."""
        return " ".join([self.network, *(f"{key}={value}" for key, value in self.own.items())])


def _cases(kind: str, samples: int, *chosen: tuple[str, Mapping[str, Any]]) -> list[Case]:
    return [Case(name, kind, own, samples) for name, own in chosen]


CASES: tuple[Case, ...] = (
    *_cases(
        "mlp",
        64,
        ("plain", {}),
        ("plain", {"skip": False}),
        ("plain", {"activation": "gelu", "branch_layers": 3}),
        ("feedforward", {}),
        ("feedforward", {"activation": "tanh", "sigma_w": 1.3, "sigma_b": 0.2}),
        ("batchnorm", {}),
        ("batchnorm", {"order": "act-norm-weight"}),
        ("batchnorm", {"order": "weight-norm-act", "skip": False}),
        ("batchnorm-last", {}),
        ("layernorm", {}),
        ("layernorm", {"post": True}),
        ("groupnorm", {}),
        ("rescale", {}),
        ("rescale", {"bias": False}),
        ("fixup", {}),
        ("skipinit", {"gain": 0.3}),
        ("rezero", {}),
        ("layerscale", {"start": 0.5}),
        ("weightnorm", {}),
        ("weightnorm", {"mean_only": True}),
        ("scaled-weightnorm", {}),
        ("normprop", {}),
        ("nf-resnet", {"alpha": 0.5}),
        ("deepnorm", {}),
        ("mup", {}),
        ("unit-scaled", {}),
    ),
    *_cases(
        "transformer",
        16,
        ("transformer", {}),
        ("transformer", {"post": True}),
        ("deepnorm", {}),
        ("t-fixup", {}),
        ("layerscale", {"start": 0.5}),
        ("rescale", {}),
        ("skipinit", {"gain": 0.3}),
        ("mup", {}),
        ("unit-scaled", {}),
    ),
    *_cases(
        "resnet",
        16,
        ("plain", {}),
        ("plain", {"padding": "circular"}),
        ("batchnorm", {}),
        ("batchnorm", {"stages": 2, "block": "bottleneck"}),
        ("groupnorm", {}),
        ("groupnorm", {"per_group": 4}),
        ("instancenorm", {}),
        ("layernorm", {"stages": 2}),
        ("rescale", {"stages": 2}),
        ("rescale", {"block": "bottleneck"}),
        ("nf-resnet", {"stages": 2}),
        ("nfnet", {"stages": 2, "skip_gain": 1.0}),
        ("weightnorm", {"stages": 2}),
        ("scaled-weightnorm", {}),
        ("normprop", {}),
        ("feedforward", {"init": "orthogonal"}),
        ("vgg", {"depth": 5, "stages": 2}),
        ("vgg", {"depth": 5, "stages": 2, "bias": "after"}),
    ),
)


def measured(case: Case, seeds: Iterable[int]) -> np.ndarray:
    """Return what a network does, by hooks on its blocks and nothing else of sigprop.

    Args:
        case: which network.
        seeds: of its initializations.

    Returns:
        Shape (seeds, L + 1, 4): the quantities at x_0..x_L.
    """
    shape = (case.samples, *case.options["inputs"])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        net = build(case.network, **case.options).double()
        states = _trunk(net, x)
        generator = torch.Generator().manual_seed(1000 + seed)
        logits = states.pop()
        sent = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
        gradients = torch.autograd.grad(logits, states, sent)
        pairs = zip(states, gradients, strict=True)
        found.append([[*_moments(h.detach()), g.square().mean().item()] for h, g in pairs])
    return np.array(found)


def _trunk(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Return x_0..x_L and the logits."""
    states: list[Tensor] = []
    assert isinstance(net.blocks, nn.Sequential)
    for block in net.blocks:
        block.register_forward_hook(lambda module, given, out: states.extend([given[0], out]))
    logits = net(x)
    return [*states[::2], states[-1], logits]


def _moments(x: Tensor) -> tuple[float, float, float]:
    channels = x.movedim(-1 if x.dim() == 3 else 1, 0).flatten(1)
    second = channels.square().mean().item()
    shift = channels.mean(dim=1).square().mean().item()
    return second, second - shift, shift


def line(case: Case, found: np.ndarray) -> pd.DataFrame:
    """Return a row per quantity and block: measured, its relative standard error, predicted.

    Args:
        case: which network.
        found: what `measured` returned.
    """
    mean = found.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = found.std(axis=0, ddof=1) / math.sqrt(len(found)) / mean
    predicted = _predicted(case, mean)
    rows = []
    for column, quantity in enumerate(QUANTITIES):
        forward = column < 3
        for block in range(len(mean) - 1):
            at = block + 1 if forward else block
            share = predicted[at, column] / predicted[at, 0]
            if quantity == "mean shift" and share < _LEAST_SHIFT:
                continue
            rows.append(
                (quantity, block, mean[at, column], error[at, column], predicted[at, column])
            )
    return pd.DataFrame(rows, columns=["quantity", "block", "measured", "error", "predicted"])


def _predicted(case: Case, mean: np.ndarray) -> np.ndarray:
    options = case.options
    positions = {"mlp": 1, "transformer": options["inputs"][0]}.get(
        case.kind, math.prod(options["inputs"][1:])
    )
    samples = case.samples * positions
    second, shift = mean[0, 0], mean[0, 2]
    covariance = (shift - second / samples) / (1 - 1 / samples)
    start = Kernel(second, min(covariance, second), samples=samples)
    made = recursion_of({"network": case.network, **resolve(case.network, **options)}, start)
    columns = [made.second_moment, made.channel_variance, made.mean_shift]
    return np.stack([*columns, made.gradient_second_moment * mean[-1, 3]], axis=1)


#: Kind and label of a case -> its `line`.
Lines = Mapping[tuple[str, str], pd.DataFrame]


def summary(lines: Lines) -> pd.DataFrame:
    """Return one row per network: median and worst error of each line, and the noise in it.

    Args:
        lines: what `line` returned, by case.
    """
    rows = []
    for (kind, label), found in lines.items():
        row: dict[str, Any] = {"kind": kind, "network": label}
        error = (found["measured"] / found["predicted"]).map(np.log).abs()
        for quantity in QUANTITIES:
            which = (found["quantity"] == quantity) & (found["predicted"] > 0)
            row[f"{quantity}: median"] = error[which].median()
            row[f"{quantity}: noise"] = found["error"][which].median()
        rows.append(row)
    return pd.DataFrame(rows)


def overall(lines: Lines) -> pd.DataFrame:
    """Return median and 95th percentile over the zoo, per quantity and in all.

    Args:
        lines: what `line` returned, by case.
    """
    every = pd.concat(lines.values())
    every["off"] = (every["measured"] / every["predicted"]).map(np.log).abs()
    groups = [(quantity, every[every["quantity"] == quantity]) for quantity in QUANTITIES]
    rows = [
        {
            "quantity": name,
            "points": len(rows),
            "median": rows["off"].median(),
            "95th percentile": rows["off"].quantile(0.95),
            "noise: median": rows["error"].median(),
        }
        for name, rows in [*groups, ("all", every)]
    ]
    return pd.DataFrame(rows)


def _percent(frame: pd.DataFrame) -> str:
    shown = frame.copy()
    for column in frame.select_dtypes("float"):
        shown[column] = [("-" if math.isnan(v) else f"{v:.1%}") for v in frame[column]]
    rows = [
        list(shown.columns),
        ["---"] * len(shown.columns),
        *shown.astype(str).to_numpy().tolist(),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Measure every case and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--output", type=Path, default=Path("reports/theory"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = {}
    for case in CASES:
        lines[case.kind, case.label] = line(case, measured(case, range(given.seeds)))
        print(case.kind, case.label, flush=True)
    given.output.mkdir(parents=True, exist_ok=True)
    points = pd.concat([f.assign(kind=kind, network=label) for (kind, label), f in lines.items()])
    columns = ["kind", "network", "quantity", "block", "measured", "error", "predicted"]
    points[columns].to_csv(given.output / "points.csv", index=False, float_format="%.5g")
    page = _PAGE.format(
        seeds=given.seeds, overall=_percent(overall(lines)), each=_percent(summary(lines))
    )
    (given.output / "README.md").write_text(page, "utf-8")


_PAGE = """# How accurate theory's lines are

    python -m benchmarks.theory_accuracy --seeds {seeds}

|log(measured/predicted)| at every block's output, of means over {seeds} initializations in float64
with independent standard normal inputs. It holds the noise of those means, which is given beside
it. Expectations are those of wide networks: what is left over at width 256, 128 (Transformers) and
64 (ResNets) is mostly the width's. Points are in `points.csv`.

{overall}

Median per network:

{each}
"""

if __name__ == "__main__":
    main()
