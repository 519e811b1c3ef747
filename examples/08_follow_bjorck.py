"""Bjorck et al. 2018: step lengths, heavy tails and cancellation, with and without normalization.

Run: python examples/08_follow_bjorck.py [FOLDER, reports/papers/bjorck-2018] [--quick]
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from torch import nn
from torch.nn import functional

from sigprop import gradients, networks
from sigprop.inputs.datasets import resolve
from sigprop.inputs.factories import initialize

mpl.use("Agg")
from matplotlib import pyplot as plt

QUICK = "--quick" in sys.argv
FOLDERS = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
FOLDER = Path(FOLDERS[0] if FOLDERS else "reports/papers/bjorck-2018")
DEPTH, WIDTH, CHANNELS, STEPS = (2, 8, 4, 2) if QUICK else (20, 48, 16, 8)
COLORS = {
    "plain": "#0072b2",
    "batchnorm-last": "#cc78bc",
    "batchnorm": "#de8f05",
    "rescale": "#029e73",
}
DATA = resolve("digits")
INPUTS, LABELS = DATA.train  # type: ignore[misc] # digits are tensors
BATCH = INPUTS[:256], LABELS[:256]
PAGE = """# Bjorck, Gomes, Selman & Weinberger 2018: understanding batch normalization

Made by `python examples/08_follow_bjorck.py` (residual MLPs of {depth} blocks, and for the kernels
residual convolutional networks of {depth} blocks with {channels} channels; digits, at
initialization, one seed; the paper: a 110-layer ResNet on CIFAR-10). `make papers` makes it again.

![relative loss, divergence, tails and cancellation](gradients.png)

{table}

**Agrees.** A step along the gradient raises the loss of the plain network at rates a thousand times
smaller than that of the normalized one (figure 3 of the paper). At a rate that the normalized
network trains with, the plain one diverges within two steps, its activations growing from block to
block (figure 4). Gradients of the plain network have heavy tails (figure 2). With batch
normalization the parts that a kernel's gradient is summed from cancel several times more than
without (table 1). The noise of a minibatch gradient is alpha² C/B within its error (section 3.2):
{noise}.

**Differs.** The paper's ratios of cancellation reach 250 in 110 layers; this small network has a
tenth of that. A single norm in front of the head (`batchnorm-last`) does more for the largest
stable rate here than norms everywhere, where the paper has about two thirds of the gain in
accuracy: a rate that does not diverge within {steps} steps is a weaker demand than one that trains
well. Its tails stay as heavy as those of the plain network. A rescaled network, which normalizes
nothing, has stable rates, light tails and cancellation like the normalized one.

**Needs a GPU.** Accuracy with a norm in the last layer only, and the 110 layers of table 1:
`bjorck-last-layer` and `bjorck-110-layers` in the ledger of claims are not run.
"""


def built(name: str, architecture: str = "mlp") -> nn.Module:
    """Return a network of the zoo for digits, from one seed."""
    width = CHANNELS if architecture == "resnet" else WIDTH
    return initialize(
        lambda: networks.build(
            name, depth=DEPTH, width=width, architecture=architecture, inputs=DATA.shape, classes=10
        ),
        seed=0,
    )


def main() -> None:
    """Measure, draw, and write the page."""
    loss = functional.cross_entropy
    steps = list(zip(INPUTS[: 64 * STEPS].split(64), LABELS[: 64 * STEPS].split(64), strict=True))
    etas = np.logspace(-5, 2, 4 if QUICK else 29)
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
    rows = {}
    for name, color in COLORS.items():
        model = built(name)
        along = gradients.relative_loss(model, loss, BATCH, etas)
        axes[0].plot(along["eta"], along["relative_loss"].clip(upper=1e4), color=color, label=name)
        seen = gradients.activations_until_divergence(model, loss, steps, rate=0.1)
        blocks = (
            seen.by_block("channel_variance", step=None).groupby("block").max(numeric_only=True)
        )
        axes[1].plot(blocks.index, blocks["channel_variance"], color=color)
        tails = gradients.tails(model, loss, BATCH)
        weights = tails[tails["name"].str.contains("branch")]["kurtosis"].to_numpy()
        axes[2].plot(np.arange(len(weights)), weights, color=color, lw=1)
        images = BATCH[0][:32], BATCH[1][:32]
        kernels = gradients.cancellation(built(name, "resnet"), loss, images)["ratio"].to_numpy()
        axes[3].plot(np.arange(len(kernels)), kernels, color=color, lw=1)
        rows[name] = {
            "largest stable rate": gradients.largest_stable_rate(model, loss, steps, precision=0.3),
            "relative loss at eta = .01": float(
                gradients.relative_loss(model, loss, BATCH, [0.01])["relative_loss"].iloc[0]
            ),
            "largest channel variance": float(blocks["channel_variance"].max()),
            "kurtosis, median layer": float(np.median(weights)),
            "cancellation, median kernel": float(np.nanmedian(kernels)),
        }
    axes[0].set(title="loss after a step over before", xlabel="eta", xscale="log", yscale="log")
    axes[0].legend(frameon=False)
    axes[1].set(
        title=f"largest channel variance, eta = .1, ≤ {STEPS} steps", xlabel="block", yscale="log"
    )
    axes[2].set(title="kurtosis of a weight's gradient", xlabel="weight", yscale="log")
    axes[3].set(title="Σ|d I| / |Σ d I| of a kernel", xlabel="kernel", yscale="log")
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / "gradients.png", dpi=110)
    plt.close(figure)
    table = pd.DataFrame(rows)
    table.to_csv(FOLDER / "gradients.csv", float_format="%.6g")
    head = "| | " + " | ".join(map(str, table)) + " |\n|---|" + "---|" * len(table.columns)
    lines = [
        f"| {index} | " + " | ".join(f"{v:.3g}" for v in row) + " |"
        for index, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    samples = BATCH[0][:64], BATCH[1][:64]
    found = gradients.noise(built("rescale"), loss, samples, rate=0.1, size=8)
    noise = f"predicted {found.predicted:.4g}, measured {found.measured:.4g} ± {found.error:.1g}"
    page = PAGE.format(
        depth=DEPTH,
        channels=CHANNELS,
        table="\n".join([head, *lines]),
        noise=noise,
        steps=STEPS + 1,
    )
    (FOLDER / "README.md").write_text(page)
    print(table.to_string(float_format="{:.3g}".format))
    print(noise)


if __name__ == "__main__":
    main()
