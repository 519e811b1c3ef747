"""Which depths train at which σ_w: a sweep, and mean-field theory's correlation length over it.

Run: python examples/12_map_trainability.py [FOLDER, reports/trainability] [--quick] [--jobs N]
"""

import math
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

import sigprop
from sigprop.inputs.datasets import resolve
from sigprop.theory.meanfield import critical_weight_variance, mean_field

mpl.use("Agg")
from matplotlib import pyplot as plt

QUICK = "--quick" in sys.argv
FOLDER = Path(next((a for a in sys.argv[1:] if not a.startswith("--")), "reports/trainability"))
JOBS = 2 if "--jobs" in sys.argv else 1
BIAS_VARIANCE, WIDTH, STEPS = 0.05, 64, 6 if QUICK else 200
DEPTHS = [4, 12] if QUICK else [5, 10, 20, 40, 80, 160]
VARIANCES = [1.0, 1.76] if QUICK else [1.0, 1.2, 1.4, 1.6, 1.76, 1.9, 2.2, 2.6, 3.2, 4.0]
PAGE = """# Which depths train: a map over depth and σ_w²

Made by `python examples/12_map_trainability.py`: tanh networks of width {width} without skips,
σ_b² = {bias}, {steps} steps of SGD on digits, one seed a cell; a sweep of {cells} cells, resumable,
on as many processes as you like.

![training accuracy over depth and weight variance, and the correlation length](map.png)

Color is the accuracy on the training data at the end. The line is 6 ξ_c, six times the depth over
which mean-field theory lets the correlation of two inputs decay (Schoenholz et al. 2017, figure 5);
ξ_c diverges at σ_w² = {critical:.2f}, dashed. Of the cells above the line {above:.0%} reach an
accuracy of one half, of those below it {below:.0%}.

Of the deepest networks none trains, also where ξ_c diverges: the line bounds the depth that a
signal crosses, and one learning rate and so few steps bound it further.
"""
DATA = resolve("digits")


def train(depth: int, weight_variance: float, seed: int) -> dict[str, float]:
    """Return the accuracy on the last training batches of one network."""
    options = {
        "depth": depth,
        "width": WIDTH,
        "activation": "tanh",
        "sigma_w": math.sqrt(weight_variance),
        "sigma_b": math.sqrt(BIAS_VARIANCE),
    }
    plan = sigprop.Plan(STEPS, 0.01, 0.9, schedule="constant", batch_size=128)
    records = sigprop.compare(
        ["feedforward"], DATA, plan=plan, seeds=[seed % 2**31], every=STEPS, options=options
    )
    rows = records.training.query("mode == 'train'")
    return {"accuracy": float(rows["accuracy"].tail(10).mean())}


def correlation_length(variance: float) -> float:
    """Return the depth scale over which the correlation of two inputs decays."""
    return mean_field("tanh", variance, BIAS_VARIANCE).xi_c


def draw(cells: pd.DataFrame) -> None:
    """Draw the map, and the theory over it."""
    table = cells.pivot_table(index="depth", columns="weight_variance", values="accuracy")
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    mesh = axes.pcolormesh(
        table.columns, table.index, table.to_numpy(), shading="nearest", cmap="viridis", vmin=0.1
    )
    figure.colorbar(mesh, label="accuracy on training data")
    critical = critical_weight_variance("tanh", BIAS_VARIANCE)
    fine = [v for v in np.linspace(VARIANCES[0], VARIANCES[-1], 60) if abs(v - critical) > 0.02]
    lengths = [6 * correlation_length(float(v)) for v in fine]
    axes.plot(fine, lengths, color="white", lw=2, label="6 ξ_c")
    axes.axvline(critical, color="white", ls="--", lw=1)
    axes.set(xlabel="σ_w²", ylabel="depth", yscale="log", ylim=(DEPTHS[0] * 0.7, DEPTHS[-1] * 1.4))
    axes.legend(loc="upper right", labelcolor="white", frameon=False)
    figure.savefig(FOLDER / "map.png", dpi=110)
    plt.close(figure)


def main() -> None:
    """Sweep, draw, and write the page."""
    grid: dict[str, list[int] | list[float]] = {"depth": DEPTHS, "weight_variance": VARIANCES}
    result = sigprop.sweep(grid, train, FOLDER / "cells" if QUICK else None, jobs=JOBS)
    if len(result.failed):
        sys.exit(result.failed.to_string())
    FOLDER.mkdir(parents=True, exist_ok=True)
    cells = result.cells.drop(columns=["status", "error", "folder"])
    cells["xi_c"] = cells["weight_variance"].map(correlation_length)
    draw(cells)
    cells.to_csv(FOLDER / "cells.csv", index=False)
    trained = cells["accuracy"] > 0.5
    deep = cells["depth"] > 6 * cells["xi_c"]
    page = PAGE.format(
        width=WIDTH,
        bias=BIAS_VARIANCE,
        steps=STEPS,
        cells=len(cells),
        critical=critical_weight_variance("tanh", BIAS_VARIANCE),
        above=trained[deep].mean() if deep.any() else math.nan,
        below=trained[~deep].mean(),
    )
    (FOLDER / "README.md").write_text(page, "utf-8")
    print(cells.pivot_table(index="depth", columns="weight_variance", values="accuracy").round(2))


if __name__ == "__main__":
    main()
