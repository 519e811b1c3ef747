"""Draw one picture of three residual networks: what each does to the signal and to its gradient.

Run: python examples/06_draw_overview.py [FOLDER, reports/overview by default] [--quick]
"""

import sys
from pathlib import Path

import matplotlib as mpl
import torch

import sigprop

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

QUICK = "--quick" in sys.argv
FOLDER = Path(next((a for a in sys.argv[1:] if not a.startswith("--")), "reports/overview"))
DEPTH, WIDTH, SEEDS = (8, 64, 2) if QUICK else (32, 256, 5)
COLORS = {"plain": "#0072b2", "batchnorm": "#de8f05", "rescale": "#029e73"}
NOTES = {
    "plain": "plain: doubles per block",
    "batchnorm": "BatchNorm: + 1 per block",
    "rescale": "RescaleNet: kept",
}


def measured() -> sigprop.Records:
    """Return one forward and one backward pass of each network, over fresh initializations."""
    inputs = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    options = {"depth": DEPTH, "width": WIDTH, "inputs": 64}
    return sigprop.concat(
        [
            sigprop.measure(name, inputs, seeds=SEEDS, network=name, options=options, spectra=False)
            for name in COLORS
        ]
    )


def draw(axes: Axes, records: sigprop.Records, direction: str, end: int) -> None:
    """Draw the second moment over blocks, relative to its value at block ``end``."""
    rows = records.by_block("second_moment", direction=direction, port="out")
    for name, color in COLORS.items():
        table = rows[rows["network"] == name].pivot(
            index="block", columns="seed", values="second_moment"
        )
        table = table / table.loc[end]
        axes.plot(table.index, table.mean(axis=1), color=color, lw=2)
        axes.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=color, alpha=0.2)
    axes.set(yscale="log", xlabel="block")


def main() -> None:
    """Draw both directions, annotate the forward one, and save the picture."""
    records = measured()
    figure, (forward, backward) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    draw(forward, records, "forward", end=0)
    draw(backward, records, "backward", end=DEPTH - 1)
    forward.set_title("forward: second moment E[x²] over that of block 0", fontsize=10)
    backward.set_title("backward: E[g²] over that of the last block", fontsize=10)
    blocks = torch.arange(DEPTH)
    for values in (2.0**blocks, (blocks + 2) / 2, blocks * 0.0 + 1):
        forward.plot(blocks, values, "k--", lw=1)
    top = 2.0 ** (DEPTH - 1)
    for name, height in {"plain": top**0.43, "batchnorm": 60.0, "rescale": 0.1}.items():
        style = {"color": COLORS[name], "fontweight": "bold", "ha": "right"}
        forward.text(DEPTH - 1, height, NOTES[name], **style)
    for axes in (forward, backward):
        axes.set_ylim(0.02, 10 * top)
    forward.text(0.03, 0.9, "dashed: theory\nband: seeds", transform=forward.transAxes, va="top")
    backward.text(0.97, 0.9, "← the gradient travels", transform=backward.transAxes, ha="right")
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / "overview.png", dpi=150)
    plt.close(figure)
    last = records.by_block("second_moment").query("block == block.max()")
    print(last.groupby("network")["second_moment"].mean().to_string(float_format="{:.3g}".format))
    print("written:", FOLDER / "overview.png")


if __name__ == "__main__":
    main()
