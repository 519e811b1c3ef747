"""How often the defaults of `verify` err, and how often they leave a law undecided.

Run: python benchmarks/verify_error_rates.py [RUNS] [CASE]   (writes reports/verify/; about an hour)

The networks are not of the zoo: x_k = α_k x_{k-1} + β_k W₂ √2 relu(W₁ x_{k-1}) with
α_k² + β_k² = 1, of square matrices that are Gaussian, orthogonal (Haar), or drawn from Student's t
with 3 degrees of freedom, which has no fourth moment. For each of them the mean ratio of second
moments is exactly 1 per block and over all blocks, at any width. The law is also broken by
β × 1.1, which no single block shows.

A run judges as `verify` does by default, with the same functions, but draws only the ratios
(`Foreign.draw`), not the modules. `compare_with_verify` checks both halves of that shortcut against
`sigprop.verify` on the same network as a module. Of each network 3,000 draws are made (600 of
Student's t); runs take them in order, and again in another order when they are used up. What is
printed are exact (Clopper-Pearson) 95 % intervals of shares of runs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

import sigprop
from sigprop.verification.intervals import (
    HOLDS,
    UNDECIDED,
    VIOLATED,
    judge,
    log_mean_interval,
    more_draws,
)
from sigprop.verification.looks import LOOKS, levels
from sigprop.verification.result import Result

SAMPLES = 16
#: Draws of a network that are made in all, and at once; matrices from Student's t take longest.
POOL = {"gaussian": 3000, "orthogonal": 3000, "t, df 3": 600}
CHUNK = 40
TOLERANCE, LEVEL = 0.05, 0.95
WEIGHTS = ("gaussian", "orthogonal", "t, df 3")
#: Width, depth.
SIZES = [(width, depth) for width in (64, 128, 256) for depth in (10, 50)]
BROKEN = 1.1


@dataclass(frozen=True)
class Foreign:
    """A residual network that keeps the second moment, as numbers.

    Attributes:
        weights: one of `WEIGHTS`.
        width: units.
        depth: blocks; also c of the coefficients.
        beta: factor on every β; 1 keeps the law.
    """

    weights: str
    width: int
    depth: int
    beta: float = 1.0

    def coefficients(self) -> list[tuple[float, float]]:
        """Return (α, β) per block."""
        c = self.depth
        return [
            (math.sqrt((k + c) / (k + 1 + c)), self.beta / math.sqrt(k + 1 + c))
            for k in range(self.depth)
        ]

    def draw(self, count: int, generator: torch.Generator) -> np.ndarray:
        """Return second moments after over before each block, shape (count, depth)."""
        x = inputs(self.width).T.expand(count, -1, -1)
        before, ratios = x.square().mean((1, 2)), []
        for alpha, beta in self.coefficients():
            hidden = math.sqrt(2) * self.multiplied(x, generator).relu()
            x = alpha * x + beta * self.multiplied(hidden, generator)
            after = x.square().mean((1, 2))
            ratios.append(after / before)
            before = after
        return torch.stack(ratios, 1).double().numpy()

    def multiplied(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return W x with W of its own per draw; x has shape (draws, width, samples).

        A Gaussian W is seen through W x only, whose rows are normal with covariance xᵀx / width;
        of an orthogonal W, through the frame that it makes of an orthonormal basis of the columns
        of x. Both are drawn directly, which is exact and never makes W.
        """
        if self.weights == "t, df 3":
            size = (len(x), self.width, self.width)
            return student_t(size, generator) @ x / math.sqrt(self.width)
        noise = torch.randn(x.shape, generator=generator)
        if self.weights == "gaussian":
            gram = x.mT @ x / self.width
            floor = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1)
            root = torch.linalg.cholesky(gram + floor[:, None, None] * torch.eye(SAMPLES))
            return noise @ root.mT
        frame, upper = torch.linalg.qr(noise)
        frame = frame * upper.diagonal(dim1=1, dim2=2).sign()[:, None]
        return frame @ torch.linalg.qr(x)[1]


def inputs(width: int) -> Tensor:
    """Return the batch that every draw is given, shape (samples, width)."""
    return torch.randn(SAMPLES, width, generator=torch.Generator().manual_seed(0))


def student_t(size: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Return draws of Student's t with 3 degrees of freedom, scaled to variance 1 (Bailey 1994)."""
    u = torch.rand(size, generator=generator).clamp_min(2**-25)
    angle = torch.rand(size, generator=generator).mul_(2 * math.pi)
    return u.pow_(-2 / 3).sub_(1).sqrt_().mul_(angle.cos_())  # / sqrt(3), the t's own deviation


class Network(nn.Module):
    """The same network as a module."""

    def __init__(self, numbers: Foreign) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(numbers, alpha, beta) for alpha, beta in numbers.coefficients()
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    def __init__(self, numbers: Foreign, alpha: float, beta: float) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        self.first, self.second = (
            nn.Linear(numbers.width, numbers.width, bias=False) for _ in range(2)
        )
        for layer in (self.first, self.second):
            with torch.no_grad():
                layer.weight.copy_(_weight(numbers))

    def forward(self, x: Tensor) -> Tensor:
        hidden = math.sqrt(2) * self.first(x).relu()
        return self.alpha * x + self.beta * self.second(hidden)


def _weight(numbers: Foreign) -> Tensor:
    size = (numbers.width, numbers.width)
    if numbers.weights == "orthogonal":
        return nn.init.orthogonal_(torch.empty(size))
    draws = torch.randn(size) if numbers.weights == "gaussian" else student_t(size)
    return draws / math.sqrt(numbers.width)


@dataclass(frozen=True)
class Run:
    """One run of `verify`, without its table.

    Attributes:
        verdict: of all blocks and the stage.
        draws: from how many.
        missed: an interval of any look did not hold the true ratio.
    """

    verdict: str
    draws: int
    missed: bool


def run(
    ratios: np.ndarray,
    draw: Callable[[int], np.ndarray],
    looks: Sequence[int] = LOOKS,
) -> Run:
    """Judge as `verify` does, from draws of ratios, of which the true means are 1.

    Args:
        ratios: of the first look, shape (draws, blocks).
        draw: number of further draws -> their ratios.
        looks: after how many draws is judged.
    """
    missed = False
    for count in looks:
        if count > len(ratios):
            ratios = np.vstack([ratios, draw(count - len(ratios))])
        verdicts, low = [], 0
        for row, level in _rows(ratios, len(looks)):
            interval = log_mean_interval(row, level)
            verdicts.append(judge(interval, 0.0, TOLERANCE))
            if verdicts[-1] == UNDECIDED:
                low = max(low, more_draws(interval, 0.0, TOLERANCE, level)[0])
            missed |= not interval.low <= 0 <= interval.high
        if VIOLATED in verdicts:
            return Run(VIOLATED, count, missed)
        if UNDECIDED not in verdicts:
            return Run(HOLDS, count, missed)
        if low > looks[-1] - count:
            break
    return Run(UNDECIDED, count, missed)


def _rows(ratios: np.ndarray, looks: int) -> list[tuple[np.ndarray, float]]:
    block, stage = levels(LEVEL, looks, ratios.shape[1], 1)
    return [*((column, block) for column in ratios.T), (ratios.prod(1), stage)]


def compare_with_verify(numbers: Foreign, seeds: int = 64) -> tuple[bool, float]:
    """Check the shortcut against `sigprop.verify` on the same network as a module.

    Args:
        numbers: the network.
        seeds: over how many the mean ratios are compared.

    Returns:
        Whether verdict and number of draws are the same for the same ratios; and how many
        standard errors lie between the stage's mean ratio as drawn and as `verify` measured it.
    """
    result = sigprop.verify(lambda: Network(numbers), inputs(numbers.width))
    ratios = _measured(result)
    found = run(ratios[: LOOKS[0]], _handed_out(ratios[LOOKS[0] :]))
    same = (found.verdict, found.draws) == (result.verdict, result.seeds)
    fixed = sigprop.verify(lambda: Network(numbers), inputs(numbers.width), seeds=seeds)
    stage = _measured(fixed).prod(1)
    drawn = numbers.draw(4 * seeds, torch.Generator().manual_seed(1)).prod(1)
    error = math.sqrt(drawn.var(ddof=1) / len(drawn) + stage.var(ddof=1) / len(stage))
    return same, float((drawn.mean() - stage.mean()) / error)


def _measured(result: Result) -> np.ndarray:
    rows = result.records.signals.query("kind == 'block' and direction == 'forward'")
    sides = rows.pivot_table(index="seed", columns=["port", "block"], values="second_moment")
    return np.asarray(sides["out"] / sides["in"])


def _handed_out(ratios: np.ndarray) -> Callable[[int], np.ndarray]:
    rows = iter(ratios)
    return lambda count: np.stack([next(rows) for _ in range(count)])


def share(hits: int, runs: int) -> str:
    """Return a share in percent with its exact 95 % interval (Clopper and Pearson 1934)."""
    low, high = stats.binomtest(hits, runs).proportion_ci(0.95, method="exact")
    return f"{100 * hits / runs:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def pool(numbers: Foreign, generator: torch.Generator) -> Callable[[int], np.ndarray]:
    """Return a function that hands out draws: number -> ratios, shape (number, depth)."""
    made = numbers.draw(CHUNK, generator)
    size = POOL[numbers.weights]
    order = np.arange(size)
    used = needed = 0

    def take(count: int) -> np.ndarray:
        nonlocal made, order, used, needed
        if used + count > size:
            order = torch.randperm(size, generator=generator).numpy()
            used, needed = 0, size
        else:
            needed = max(needed, used + count)
        while len(made) < needed:
            made = np.vstack([made, numbers.draw(CHUNK, generator)])
        used += count
        return made[order[used - count : used]]

    return take


def rates(numbers: Foreign, runs: int) -> dict[str, object]:
    """Return one row of the table: shares of runs in percent."""
    take = pool(numbers, torch.Generator().manual_seed(0))
    found, of_three = [], 0
    for _ in range(runs):
        first = take(LOOKS[0])
        found.append(run(first, take))
        of_three += run(first[:3], take, (3,)).missed
    draws = np.array([one.draws for one in found])
    verdicts = [one.verdict for one in found]
    true = numbers.beta == 1
    row: dict[str, object] = {
        "weights": numbers.weights,
        "width": numbers.width,
        "depth": numbers.depth,
        "law": "true law" if true else f"broken: beta x {numbers.beta:g}",
        "runs": runs,
    }
    row |= {name: share(verdicts.count(name), runs) for name in (HOLDS, UNDECIDED, VIOLATED)}
    if true:
        row["an interval misses"] = share(sum(one.missed for one in found), runs)
        row["an interval misses, 3 seeds"] = share(of_three, runs)
    return row | {"seeds, median": int(np.median(draws)), "seeds, most": int(draws.max())}


def cases() -> list[Foreign]:
    """Return the networks of the table: the true ones of all sizes, the broken ones of one."""
    true = [Foreign(weights, *size) for weights in WEIGHTS for size in SIZES]
    broken = [Foreign(weights, 128, depth, BROKEN) for weights in WEIGHTS for depth in (10, 50)]
    return true + broken


def main(runs: int = 300, only: str = "") -> None:
    """Measure the cases whose description holds ``only`` and write what is known of all.

    Args:
        runs: per case.
        only: a part of ``"weights width depth beta"``; empty for all cases.
    """
    folder = Path("reports/verify")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "error_rates.csv"
    keys = ["weights", "width", "depth", "law"]
    for numbers in cases():
        if only in f"{numbers.weights} {numbers.width} {numbers.depth} {numbers.beta}":
            made = pd.DataFrame([rates(numbers, runs)])
            print(made.to_string(index=False, header=False), flush=True)
            known = [pd.read_csv(path)] if path.exists() else []
            joined = pd.concat([*known, made]).drop_duplicates(keys, keep="last")
            joined.to_csv(path, index=False, lineterminator="\n")
    checked = Foreign("t, df 3", 64, 10)
    print("the shortcut judges as verify does, and differs by so many errors:")
    print(*compare_with_verify(checked))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300, *sys.argv[2:3])
