"""Cohen et al. 2021: sharpness rises to 2/eta and stays; and the quadratic where it all is known.

Run: python examples/10_find_edge_of_stability.py [FOLDER, reports/papers/cohen-2021] [--quick]
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from sigprop.curvature import critical_sharpness, linear_regression, look_at_stability
from sigprop.experiments.observed import observe
from sigprop.experiments.training import Plan
from sigprop.inputs.datasets import resolve

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

QUICK = "--quick" in sys.argv
FOLDERS = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
FOLDER = Path(FOLDERS[0] if FOLDERS else "reports/papers/cohen-2021")
SAMPLES, STEPS, EVERY = (64, 6, 3) if QUICK else (512, 400, 16)
RATES = {"0.3": "#0072b2", "0.5": "#de8f05", "0.8": "#029e73"}
DATA = resolve("digits")
IMAGES = DATA.train[0][:SAMPLES], DATA.train[1][:SAMPLES]  # type: ignore[index] # tensors
NOISY = torch.from_numpy(np.random.default_rng(0).random(SAMPLES) < 0.3)
RANDOM = torch.from_numpy(np.random.default_rng(1).integers(0, 10, SAMPLES))
NOISED = IMAGES[0], torch.where(NOISY, RANDOM, IMAGES[1])
PAGE = """# Cohen, Kaur, Li, Kolter & Talwalkar 2021: the edge of stability

Made by `python examples/10_find_edge_of_stability.py` (a tanh MLP 64-32-32-10 on {samples} digits,
three labels of ten drawn at random so that they take long to fit, {steps} steps of full-batch
gradient descent, one seed; the paper: networks on 5,000 images of CIFAR-10). `make papers` makes
it again.

![sharpness under gradient descent, and linear regression](edge.png)

| rate | 2/eta | sharpness, median of the last third | over 2/eta | critical sharpness, likewise |
|---|---|---|---|---|
{rows}

**Agrees.** The sharpness rises while the loss falls (progressive sharpening), and where it reaches
2/eta it hovers there, a little above, instead of growing on; the loss still falls, no longer at
every step (figures 1 and 5 of the paper). The larger the rate, the flatter the network. The
critical sharpness, which needs forward passes only, is far below the line as long as the gradient
points elsewhere, and near it at the edge for two of the three rates (Kalra & Barkeshli 2024).

**Differs.** With clean labels this network fits its digits before the edge matters: the sharpness
rises to about 5 and falls again, as the paper's appendix has it for cross entropy.

**The quadratic.** Right: linear regression on {samples} digits' pixels. The Hessian's eigenvalues
spread over {condition:.2g}, and every component of the error shrinks by 1 - eta lambda per step
(largest deviation from it: {deviation:.1g}); whitened inputs have one eigenvalue.

**Needs a GPU.** The paper's convolutional networks and Transformers, and Adam's line 38/eta on them
(Cohen et al. 2022); `curvature.stability` computes it for any of them, and
`tests/test_curvature.py` finds the line where Adam diverges on a parabola.
"""


def net() -> nn.Module:
    """Return a smooth network, as the theory wants it."""
    layers = [nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def look(
    model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], optimizer: torch.optim.Optimizer
) -> pd.DataFrame:
    """Return sharpness, line and critical sharpness at one step."""
    row = look_at_stability(model, functional.cross_entropy, batch, optimizer)
    along = critical_sharpness(model, functional.cross_entropy, batch, precision=0.05)
    return row.assign(critical=along)


def draw_training(axes: list[Axes]) -> list[str]:
    """Train at three rates, draw, and return the rows of the table."""
    rows = []
    for rate, color in RATES.items():
        plan = Plan(STEPS, float(rate), 0.0, batch_size=SAMPLES, schedule="constant")
        seen = observe({"net": net}, NOISED, look, plan, every=EVERY, samples=SAMPLES)
        axes[0].plot(seen["step"], seen["loss"], color=color, label=f"eta = {rate}")
        axes[1].plot(seen["step"], seen["sharpness"], color=color)
        axes[1].plot(seen["step"], seen["critical"], color=color, ls=":", lw=1.2)
        line = 2 / float(rate)
        axes[1].axhline(line, color=color, ls="--", lw=1)
        late = seen[["sharpness", "critical"]].iloc[-(len(seen) // 3) :].median()
        sharp, critical = late["sharpness"], late["critical"]
        ratio = sharp / line
        rows.append(f"| {rate} | {line:.3g} | {sharp:.2f} | {ratio:.2f} | {critical:.2f} |")
    axes[0].set(title="loss", xlabel="step", yscale="log")
    axes[0].legend(frameon=False)
    axes[1].set(title="sharpness (dashed 2/eta, dotted critical)", xlabel="step")
    return rows


def draw_regression(axes: list[Axes]) -> tuple[float, float]:
    """Draw eigenvalues and convergence; return the condition number and the deviation."""
    pixels = IMAGES[0].flatten(1).double().numpy()
    pixels = pixels[:, pixels.std(axis=0) > 0.2]
    targets = IMAGES[1].double().numpy() - 4.5
    raw = linear_regression(pixels, targets, steps=60)
    white = linear_regression(pixels, targets, steps=60, rate=0.5, whiten=True)
    for made, name, color in ((raw, "pixels", "#0072b2"), (white, "whitened", "#de8f05")):
        axes[0].plot(made.eigenvalues, ".", color=color, label=name)
    axes[0].set(title="eigenvalues of the Hessian", xlabel="index", yscale="log")
    axes[0].legend(frameon=False)
    for index in (0, 1, 3, 8):
        rows = raw.table[raw.table["index"] == index]
        axes[1].plot(rows["step"], rows["measured"], ".", ms=3, color="#0072b2")
        axes[1].plot(rows["step"], rows["predicted"], color="0.3", lw=1)
    axes[1].set(title="error along eigenvectors 0, 1, 3, 8", xlabel="step")
    off = (raw.table["measured"] - raw.table["predicted"]).abs().max()
    return raw.condition_number, float(np.nan_to_num(off))


def main() -> None:
    """Draw both pictures and write the page."""
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
    rows = draw_training(list(axes[:2]))
    condition, deviation = draw_regression(list(axes[2:]))
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / "edge.png", dpi=110)
    plt.close(figure)
    page = PAGE.format(
        samples=SAMPLES, steps=STEPS, rows="\n".join(rows), condition=condition, deviation=deviation
    )
    (FOLDER / "README.md").write_text(page)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
