"""Take RescaleNet apart: c, multiplier, bias, form; at initialization and over training.

Run: python examples/05_ablate_rescalenet.py [FOLDER] [--quick]
"""

import math
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sigprop
from sigprop.experiments.training import Plan
from sigprop.inputs.datasets import FASHION_MNIST, Data, resolve

QUICK = "--quick" in sys.argv
FOLDERS = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
FOLDER = Path(FOLDERS[0] if FOLDERS else "reports/ablation")
L, WIDTH, SEEDS, STEPS = (4, 16, 1, 3) if QUICK else (16, 64, 2, 300)
PLAN = Plan(STEPS, learning_rate=0.05, batch_size=64, evaluate_every=max(1, STEPS // 5))
BATCHES = (2, 8) if QUICK else (2, 4, 8, 16, 64, 256)
STARTS = (1.0, 2.0) if QUICK else (0.5, 1.0, 1.5, 2.0, 3.0)

#: The multiplier of each residual branch, by its name among the parameters.
MULTIPLIERS = [f"blocks.{k}.branch.multiplier.m" for k in range(L)]

VARIANTS: dict[str, dict[str, Any]] = {
    "paper: scalar m, c = L": {},
    "vector m": {"multiplier": "vector"},
    "no multiplier": {"multiplier": "none"},
    "scalar on skip too": {"backbone": True},
    "c = L/8": {"c": L / 8},
    "c = 8L": {"c": 8.0 * L},
    "plain form": {"reparametrize": False},
    "bias from 8 batches": {"bias_batches": 8},
    "He gain (authors' code)": {"gain": "he"},
    "no bias": {"bias": False},
}


def data() -> Data:
    """Return real images: Fashion-MNIST where its Debian package is installed, else digits."""
    return resolve("fashion-mnist" if FASHION_MNIST.is_dir() and not QUICK else "digits")


def of_blocks(signals: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the residual blocks' outputs."""
    return signals[(signals["kind"] == "block") & (signals["port"] == "out")]


def ratios(signals: pd.DataFrame) -> pd.DataFrame:
    """Return E[x_L^2]/E[x_0^2] in the forward pass, per network, seed and step."""
    rows = signals[(signals["direction"] == "forward") & (signals["mode"] == "train")]
    keys = ["network", "seed", "step"]
    rows = rows[rows["kind"] == "block"]
    first = rows[(rows["block"] == 0) & (rows["port"] == "in")].set_index(keys)
    last = rows[(rows["block"] == L - 1) & (rows["port"] == "out")].set_index(keys)
    return (last["second_moment"] / first["second_moment"]).rename("ratio").reset_index()


def weights(parameters: pd.DataFrame) -> pd.DataFrame:
    """Return each block's multiplier (root mean square) and the product of its weights' norms.

    ``norms`` is relative to the first recorded step, so that 1 means that weights kept their size.
    """
    rows = parameters[parameters["block"] >= 0].assign(k=parameters["block"] + 1)
    keys = ["network", "seed", "step", "k"]
    m = rows[rows["name"].isin(MULTIPLIERS)].set_index(keys)
    size = m["weight_norm"] / m["count"] ** 0.5
    products = rows[rows["ndim"] == 2].groupby(keys)["weight_norm"].prod()
    begun = products.groupby(["network", "seed", "k"]).transform("first")
    return pd.DataFrame({"m": size, "norms": products / begun}).reset_index()


def dead_units(task: Data) -> pd.DataFrame:
    """Return the share of units that are off for 4096 test images, by size of the first batch.

    With skip connections, and without, where a deep ReLU network loses units.
    """
    rows = []
    assert isinstance(task.test, tuple)
    fresh = task.test[0][:4096]
    for seed in range(1 if QUICK else 8):
        for bias, skip in product((True, False), (True, False)):
            for size in BATCHES if bias else BATCHES[-1:]:
                torch.manual_seed(seed)
                net = build(task, {"bias": bias, "skip": skip, "branch_layers": 1})
                net(next(task.batches(seed, size))[0])
                metrics = ["zero_fraction"]
                seen = sigprop.measure(net.eval(), fresh, spectra=False, metrics=metrics).signals
                share = seen["dead_fraction"].dropna().mean()
                rows.append({"bias": bias, "skip": skip, "batch": size, "dead": share})
    return pd.DataFrame(rows)


def from_start(task: Data, start: float) -> torch.nn.Module:
    """Return a RescaleNet whose multipliers begin at ``start``."""
    net: Any = build(task, {})
    for block in net.blocks:
        torch.nn.init.constant_(block.branch.multiplier.m, start)
    return net


def starts(task: Data) -> pd.DataFrame:
    """Return E[x_L^2]/E[x_0^2] at the start and after training, by the multipliers' start."""
    labels = {f"{start:g}": start for start in STARTS}
    records = sigprop.compare(
        {label: partial(from_start, task, start) for label, start in labels.items()},
        task,
        plan=PLAN,
        seeds=SEEDS,
        metrics=["second_moment"],
        every=lambda step: step in (0, STEPS - 1),
    )
    found = ratios(records.signals).merge(
        weights(records.parameters).groupby(["network", "seed", "step"])[["m", "norms"]].mean(),
        on=["network", "seed", "step"],
    )
    return found.assign(start=found["network"].map(labels), trained=found["step"] > 0)


def law(start: float) -> float:
    """Return prod(alpha_k^2 + m^2 beta_k^2): what multipliers of m do to the variance."""
    pairs = zip(*sigprop.networks.coefficients(L, L), strict=True)
    return math.prod(a * a + (start * b) ** 2 for a, b in pairs)


def build(task: Data, options: dict[str, Any]) -> torch.nn.Module:
    """Return a RescaleNet for the task."""
    return sigprop.networks.build(
        "rescale", depth=L, width=WIDTH, inputs=task.shape, classes=task.classes, **options
    )


def draw(tables: dict[str, pd.DataFrame], task: str) -> Figure:
    """Return the six panels."""
    sns.set_theme(style="ticks", palette="colorblind", font_scale=0.85)
    colors = dict(zip(VARIANTS, sns.color_palette("colorblind", len(VARIANTS)), strict=True))
    styles = {name: ("-" if i < 5 else "--") for i, name in enumerate(VARIANTS)}
    figure, axes = plt.subplots(2, 3, figsize=(13.5, 7.6), layout="constrained")
    panels = axes.ravel()

    def line(axis: Axes, name: str, table: pd.DataFrame, x: str, y: str) -> None:
        middle = table.groupby(x)[y]
        axis.plot(middle.mean(), color=colors[name], ls=styles[name], lw=1.6, label=name)
        if SEEDS > 1:
            low, high = middle.min(), middle.max()
            axis.fill_between(low.index, low, high, color=colors[name], alpha=0.12, lw=0)

    def each(axis: Axes, key: str, x: str, y: str, names: list[str] | None = None) -> None:
        for name in names or list(VARIANTS):
            line(axis, name, tables[key][tables[key]["network"] == name], x, y)

    each(panels[0], "init", "k", "moment")
    panels[0].set(xlabel="block $k$", ylabel="$E[x_k^2]\\,/\\,E[x_0^2]$")
    panels[0].set_title("a  At initialization the law holds where it should", loc="left")

    norms = tables["gradients"].pivot_table("gradient", ["seed", "k"], "network", aggfunc="first")
    form = (norms["paper: scalar m, c = L"] / norms["plain form"]).groupby("k").mean()
    panels[1].plot(form, "o", mfc="none", color=colors["paper: scalar m, c = L"], label="measured")
    k = pd.Series(range(1, L + 1))
    panels[1].plot(k, ((k + L) / L) ** 0.25, color="0.2", ls=":", label="$((k+c)/L)^{1/2m}$")
    panels[1].set(xlabel="block $k$", ylabel="gradient norm: paper / plain form")
    panels[1].set_title("b  One function, two forms: other gradients", loc="left")
    panels[1].legend(*panels[1].get_legend_handles_labels(), frameon=False)

    each(panels[2], "ratios", "step", "ratio")
    panels[2].set(xlabel="step", ylabel="$E[x_L^2]\\,/\\,E[x_0^2]$", yscale="log")
    panels[2].set_title("c  Training moves every variant off the law", loc="left")

    learned = [n for n in VARIANTS if n != "no multiplier"]
    each(panels[3], "final", "k", "m", learned)
    panels[3].axhline(1, color="0.5", lw=0.8)
    panels[3].set(xlabel="block $k$", ylabel="$m_k$ (root mean square)")
    low, high = (getattr(tables["final"]["norms"], name)() for name in ("min", "max"))
    text = f"$\\prod\\|W\\|$ of a branch, relative to its start: {low:.3f} to {high:.3f}"
    panels[3].annotate(text, (0.98, 0.02), xycoords="axes fraction", ha="right", size=8)
    panels[3].set_title("d  Learned multipliers shrink", loc="left")

    begun = tables["starts"]
    grid = pd.Series([0.4 + 0.02 * i for i in range(140)])
    panels[4].plot(
        grid, grid.map(law), color="0.2", ls=":", label="$\\prod(\\alpha_k^2 + m^2\\beta_k^2)$"
    )
    for trained, label in ((False, "measured at the start"), (True, "after training")):
        rows = begun[begun["trained"] == trained]
        panels[4].plot(
            rows["start"], rows["ratio"], "s" if trained else "o", mfc="none", label=label
        )
    for start in sorted(set(STARTS) - set(begun[begun["trained"]]["start"])):
        panels[4].annotate("training\ndiverged", (start, law(start) / 9), ha="center", size=8)
    panels[4].set(xlabel="$m$ at the start", ylabel="$E[x_L^2]\\,/\\,E[x_0^2]$", yscale="log")
    panels[4].set_title("e  Multipliers above 1 do break the law", loc="left")
    panels[4].legend(frameon=False)

    dead = tables["dead"]
    for skip, marker in ((False, "o"), (True, "s")):
        rows = dead[dead["skip"] == skip]
        words = "with skips" if skip else "without skips"
        share = rows[rows["bias"]].groupby("batch")["dead"].mean()
        (drawn,) = panels[5].plot(100 * share, marker=marker, mfc="none", label=f"bias, {words}")
        none = 100 * rows[~rows["bias"]]["dead"].mean()
        panels[5].axhline(none, color=drawn.get_color(), ls="--", label=f"no bias, {words}")
    panels[5].set(xlabel="images in the batch that sets the biases", xscale="log")
    panels[5].set_xticks(BATCHES, [str(size) for size in BATCHES])
    panels[5].minorticks_off()
    panels[5].set_ylabel("units off for 4096 test images, %")
    panels[5].set_title("f  A few images are enough to keep units alive", loc="left")
    panels[5].legend(frameon=False)

    sns.despine(figure)
    handles, labels = panels[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    title = (
        f"RescaleNet taken apart: {L} blocks, width {WIDTH}, {task}, {SEEDS} seeds (band: range)"
    )
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def main() -> None:
    """Train every variant, and write the figure and its tables."""
    task = data()
    records = sigprop.compare(
        {name: partial(build, task, options) for name, options in VARIANTS.items()},
        task,
        plan=PLAN,
        seeds=SEEDS,
        metrics=["second_moment"],
        every=lambda step: step == 0 or step % max(1, STEPS // 12) == 0 or step == STEPS - 1,
    )
    forward = of_blocks(records.signals).query("step == 0 and direction == 'forward'").copy()
    forward["k"] = forward["block"] + 1
    begin = records.signals.query(
        "step == 0 and kind == 'block' and block == 0 and port == 'in' and direction == 'forward'"
    ).set_index(["network", "seed"])["second_moment"]
    forward = forward.join(begin.rename("first"), on=["network", "seed"])
    forward["moment"] = forward["second_moment"] / forward["first"]
    gradients = records.parameters.query("step == 0 and block >= 0 and ndim == 2").copy()
    gradients["k"] = gradients["block"] + 1
    gradients["gradient"] = gradients["grad_norm"]
    sizes = weights(records.parameters)
    tables = {
        "init": forward[["network", "seed", "k", "moment"]],
        "gradients": gradients[["network", "seed", "k", "gradient"]],
        "ratios": ratios(records.signals),
        "final": sizes[sizes["step"] == sizes["step"].max()],
        "starts": starts(task),
        "dead": dead_units(task),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure = draw(tables, task.name)
    figure.savefig(FOLDER / "ablation.png", dpi=170)
    figure.savefig(FOLDER / "ablation.svg")
    plt.close(figure)
    summary = summarize(records, tables)
    summary.round(4).to_csv(FOLDER / "summary.csv")
    for name, table in tables.items():
        table.round(6).to_csv(FOLDER / f"{name}.csv", index=False)
    (FOLDER / "README.md").write_text(page(task.name, summary, tables))
    print(summary.to_string(float_format="{:.3f}".format))
    print(
        tables["starts"].groupby(["start", "trained"])[["ratio", "m", "norms"]].mean().to_string()
    )
    print(tables["dead"].groupby(["skip", "bias", "batch"])["dead"].mean().to_string())
    print("written:", FOLDER)


def page(task: str, summary: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> str:
    """Return the page that goes with the figure: what was run, and the numbers in it."""
    begun = tables["starts"].groupby(["start", "trained"])[["ratio", "m", "norms"]].mean()
    dead = tables["dead"].groupby(["skip", "bias", "batch"])[["dead"]].mean()
    return f"""# RescaleNet taken apart

![The figure](ablation.png)

Made by `python examples/05_ablate_rescalenet.py {FOLDER}`:
{L} blocks of two weights, width {WIDTH}, ReLU, on {task}; {STEPS} steps of SGD (rate
{PLAN.learning_rate}, momentum {PLAN.momentum}, batches of {PLAN.batch_size}, cosine),
{SEEDS} seeds. A ratio is E[x_L^2]/E[x_0^2]; m is the root mean square of the learned
multipliers; weights is the product of a branch's weight norms relative to the start.

{markdown(summary)}

By the multipliers' start (panel e); where the row after training is missing, training diverged.

{markdown(begun)}

Share of units that are off for 4096 test images, by the batch that set the biases (panel f).

{markdown(dead)}
"""


def markdown(table: pd.DataFrame) -> str:
    """Return a table of numbers as Markdown, its index as columns."""
    flat = table.reset_index()
    rows = [
        [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row]
        for row in flat.itertuples(index=False)
    ]
    lines = [list(flat.columns), ["---"] * flat.shape[1], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summarize(records: sigprop.Records, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one row per variant: accuracy, and how far the law, multipliers and weights moved."""
    scores = records.training.query("mode == 'eval'")
    scores = scores[scores["step"] == scores["step"].max()].groupby("network")["accuracy"]
    ratio, final = tables["ratios"], tables["final"].groupby("network")
    last = ratio[ratio["step"] == ratio["step"].max()].groupby("network")["ratio"].mean()
    spread = scores.std() if SEEDS > 1 else scores.mean() * math.nan
    return pd.DataFrame(
        {
            "accuracy": scores.mean(),
            "sd": spread,
            "ratio at start": ratio[ratio["step"] == 0].groupby("network")["ratio"].mean(),
            "ratio at end": last,
            "m mean": final["m"].mean(),
            "m max": final["m"].max(),
            "weights": final["norms"].mean(),
        }
    ).reindex(list(VARIANTS))


if __name__ == "__main__":
    main()
