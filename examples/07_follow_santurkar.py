"""Santurkar et al. 2018: how predictable loss and gradient are along a step, during training.

Run: python examples/07_follow_santurkar.py [FOLDER, reports/papers/santurkar-2018] [--quick]
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from sigprop.experiments.observed import observe
from sigprop.experiments.training import Plan
from sigprop.landscape import covariate_shift, scan, summary

mpl.use("Agg")
from matplotlib import pyplot as plt

QUICK = "--quick" in sys.argv
FOLDERS = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
FOLDER = Path(FOLDERS[0] if FOLDERS else "reports/papers/santurkar-2018")
OPTIONS = {"depth": 2, "width": 8} if QUICK else {"depth": 8, "width": 48}
PLAN = Plan(4 if QUICK else 80, learning_rate=0.01, momentum=0.0, schedule="constant")
COLORS = {"plain": "#0072b2", "batchnorm": "#de8f05", "rescale": "#029e73"}
ETAS = np.linspace(0.05, 0.4, 8)
PANELS = [
    ("loss L(w - eta g)", "lowest_loss", "highest_loss"),
    ("gradient change, l2", "lowest_change", "highest_change"),
    ("effective smoothness", "effective_smoothness", "effective_smoothness"),
    ("cosine of G and G' (covariate shift)", "lowest_cosine", "highest_cosine"),
]
PAGE = """# Santurkar, Tsipras, Ilyas & Madry 2018: how batch normalization helps

Made by `python examples/07_follow_santurkar.py` ({steps} steps of SGD on digits, residual MLPs of
{depth} blocks, rate .01, batch 64, one seed; the paper: VGG on CIFAR-10). `make papers` makes it
again.

![loss, gradient, smoothness and covariate shift over training](landscape.png)

At every fourth step the gradient g of the coming minibatch is followed up to .4 g, in eight steps
(the paper's figure 4); the band is from the lowest to the highest value. The shift is that of
definition 2.1: a layer's gradient before and after the update of the layers in front of it; the
band is from the first to the third quartile of the layers.

| median over training | plain | batchnorm | rescale |
|---|---|---|---|
{rows}

**Agrees.** With batch normalization the loss along the gradient varies less, the gradient changes
less, and the effective smoothness is lower than without, at every step that was looked at. A
rescaled network without normalization is as smooth: the effect does not need batch statistics.

**Differs.** Without normalization the paper's VGG trains, while this residual network hardly does
at the common rate, so that its band is orders of magnitude wider than the paper's. The paper finds
no lower covariate shift with batch normalization; here the gradients of the plain network turn
more, since its updates are too long for it. One seed and one rate do not decide between the two.

**Needs a GPU.** VGG and the 25-layer linear network on CIFAR-10 over full trainings, and the noisy
batch normalization of section 2.3: `santurkar-vgg` in the ledger of claims is not run.
"""


def look(
    model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], optimizer: torch.optim.Optimizer
) -> pd.DataFrame:
    """Return the band along the gradient and the shift of the layers, at one step."""
    band = summary(scan(model, functional.cross_entropy, batch, ETAS))
    cosine = covariate_shift(model, functional.cross_entropy, batch, optimizer)["cosine"][1:]
    low, high = cosine.quantile([0.25, 0.75])
    return band.assign(lowest_cosine=low, highest_cosine=high)


def main() -> None:
    """Train three networks, look at each every fourth step, and draw what the paper draws."""
    networks = {name: name for name in COLORS}
    found = observe(networks, "digits", look, PLAN, every=4, options=OPTIONS)
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
    for panel, (title, low, high) in zip(axes, PANELS, strict=True):
        for name, color in COLORS.items():
            rows = found[found["network"] == name]
            panel.fill_between(rows["step"], rows[low], rows[high], color=color, alpha=0.35)
            panel.plot(rows["step"], rows[high], color=color, lw=1.5, label=name)
        panel.set(title=title, xlabel="step")
        if "cosine" not in title:
            panel.set_yscale("log")
    axes[0].legend(frameon=False)
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / "landscape.png", dpi=110)
    plt.close(figure)
    found.to_csv(FOLDER / "landscape.csv", index=False, float_format="%.6g")
    found["band of the loss"] = found["highest_loss"] - found["lowest_loss"]
    table = found.groupby("network")[
        ["band of the loss", "highest_change", "effective_smoothness", "highest_cosine"]
    ].median()
    lines = [
        f"| {str(name).replace('_', ' ')} | "
        + " | ".join(f"{column[n]:.3g}" for n in COLORS)
        + " |"
        for name, column in table.items()
    ]
    page = PAGE.format(steps=PLAN.steps, depth=OPTIONS["depth"], rows="\n".join(lines))
    (FOLDER / "README.md").write_text(page)
    print(table.to_string(float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
