"""Why a law is broken, told from what was measured: skip, branch, their cross term, padding.

Of a block x + f(x) that is to multiply a quantity by ρ, the skip is measured to keep s and the
branch to add b of the quantity in front, both in the law's own quantity and direction. What the law
leaves to the branch is ρ - s. The causes differ in these numbers, seed by seed and block by block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from sigprop.verification.intervals import VIOLATED
from sigprop.verification.laws import Law

Array = npt.NDArray[np.float64]

#: What explains this much of a deviation is named as its cause.
_EXPLAINS = 0.5
#: An operand below this share of the input is nothing; a branch that adds no more is dead.
_NOTHING = 1e-12
#: Two gradients that agree to this relative precision are the same one.
_SAME = 1e-4
#: How many standard errors a slope must be from the right one to be called wrong.
_ERRORS = 4.0
#: How far a factor may lie from a known one to be named after it, beside two standard errors.
_NEAR = 0.02

#: Per weight layer: by what factor a second moment is off, and what does that.
_GAINS: Mapping[str, Mapping[float, str]] = {
    "forward": {
        1 / 2: "what a missing gain of √2 in front of a ReLU does",
        2.0: "what a gain of √2 without a ReLU does",
        1 - 1 / math.pi: "what He's gain does after a mean subtraction, where "
        "√(2/(1 - 1/π)) is needed",
    },
    "backward": {
        1 / 2: "what a missing gain of √2 in front of a ReLU does",
        2.0: "what a gain of √2 without a ReLU does",
        math.pi / (math.pi - 1): "what the gain √(2/(1 - 1/π)) of a centered ReLU does to the "
        "gradient",
    },
}
#: The same of one layer without a skip.
_DEFAULTS = {
    1 / 3: "PyTorch's default initialization of a linear layer, variance 1/(3 fan_in)",
    1 / 6: "PyTorch's default initialization of a linear layer, variance 1/(3 fan_in), and a ReLU",
}


def explained(
    table: pd.DataFrame,
    found: pd.DataFrame,
    law: Law,
    without_zeros: Callable[[], pd.DataFrame | None] = lambda: None,
) -> pd.DataFrame:
    """Return the table of a result with a reason in every row that is violated.

    Where at least half of a stage's blocks are violated, their common cause is looked for in all
    of them: one block cannot show an exponent.

    Args:
        table: what `judgment` returns.
        found: rows of `evidence`.
        law: that was judged.
        without_zeros: measures the same draws with circular padding; None where none is padded
            with zeros. It is called only where a law is violated.

    Returns:
        A copy.
    """
    broken = (table["verdict"] == VIOLATED) & (table["kind"] == "")
    if not broken.any():
        return table
    circular = without_zeros()
    judged = found[(found["kind"] == "") & ~found["transition"]]
    reasons = table["reason"].tolist()
    for place, row in enumerate(table.to_dict("records")):
        if not broken.iloc[place]:
            continue
        stage = table[(table["stage"] == row["stage"]) & (table["block"] >= 0)]
        together = row["block"] < 0 or (stage["verdict"] == VIOLATED).mean() >= 0.5
        blocks = stage["block"].tolist() if together else [row["block"]]
        predicted = stage.set_index("block")["predicted"]
        rows = judged[judged["block"].isin(blocks)]
        reasons[place] = cause(rows, predicted, law, circular)
    return table.assign(reason=reasons)


def cause(
    draws: pd.DataFrame,
    predicted: Mapping[int, float] | pd.Series,
    law: Law,
    circular: pd.DataFrame | None = None,
) -> str:
    """Return the likely cause of a deviation in words, with the numbers that show it.

    Args:
        draws: rows of `evidence` of the blocks concerned, all of them with a ratio.
        predicted: block -> ratio that the law predicts.
        law: that was judged.
        circular: the same blocks with circular padding instead of zeros, if that was measured.
    """
    blocks = _Blocks(draws, predicted, law)
    reasons = itertools.chain([_border(blocks, circular)], _operand_causes(blocks))
    return next(filter(None, reasons), "") or _chain(blocks)


class _Blocks:
    """Means over draws, one number per block, of what the causes differ in."""

    def __init__(
        self, draws: pd.DataFrame, predicted: Mapping[int, float] | pd.Series, law: Law
    ) -> None:
        ratio = draws["after"] / draws["before"]
        self.draws = draws.assign(ratio=ratio, cross=ratio - draws["skip"] - draws["branch"])
        by_block = self.draws.groupby("block")
        self.means = by_block[
            ["ratio", "skip", "branch", "cross", "correlation", "branch_moment", "skip_moment"]
        ].mean()
        self.errors = by_block["branch"].sem()
        self.predicted = np.array([predicted[block] for block in self.means.index])
        self.law = law

    def __getitem__(self, name: str) -> Array:
        return self.means[name].to_numpy(dtype=np.float64)

    @property
    def backward(self) -> bool:
        return self.law.direction == "backward"

    @property
    def what(self) -> str:
        name = self.law.quantity.replace("_", " ")
        return f"gradient's {name}" if self.backward else name

    @property
    def residual(self) -> bool:
        """Whether every block has a skip and a branch from its input to its output."""
        return self.law.ports == ("in", "out") and bool(np.isfinite(self["skip"]).all())

    @property
    def deviations(self) -> Array:
        """By how much each ratio is off, relative to what the law says."""
        return np.asarray(self["ratio"] / self.predicted - 1)

    @property
    def left(self) -> Array:
        """What the law leaves to each branch beside its skip."""
        return np.asarray(self.predicted - self["skip"])


def _operand_causes(blocks: _Blocks) -> Iterator[str]:
    if not blocks.residual:
        return
    for find in (_dead, _detached, _correlated, _no_alpha, _mean_shift, _exponent, _factor):
        yield find(blocks)


def _dead(blocks: _Blocks) -> str:
    draws = blocks.draws
    dead = draws[draws["branch_moment"] <= _NOTHING * draws["skip_moment"]]
    if dead.empty:
        return ""
    counted = dead["seed"].nunique(), draws["seed"].nunique()
    names = _listed(dead["name"].unique())
    return (
        f"the branch of {names} adds exactly 0 in {counted[0]} of {counted[1]} draws: a layer in "
        f"it is dead; the skip alone keeps {_span(blocks['skip'])}"
    )


def _detached(blocks: _Blocks) -> str:
    if not blocks.backward:
        return ""
    draws = blocks.draws
    cut = (draws["ratio"] / draws["skip"] - 1).abs().groupby(draws["block"]).max() < _SAME
    if not cut.any():
        return ""
    names = _listed(draws.loc[draws["block"].map(cut), "name"].unique())
    return (
        f"no gradient passes the branch of {names}: what arrives in front is exactly what the "
        f"skip passes ({_span(blocks['skip'][cut.to_numpy()])}); is the branch detached?"
    )


def _correlated(blocks: _Blocks) -> str:
    cross = float((blocks["cross"] / blocks.predicted).sum())
    deviation = float(blocks.deviations.sum())
    if blocks.backward or cross * deviation <= 0 or cross / deviation <= _EXPLAINS:
        return ""
    return (
        f"skip and branch are correlated ({_span(blocks['correlation'], '+.3f')}); the cross term "
        f"alone changes the ratio by {_span(blocks['cross'], '+.3g')} a block"
    )


def _no_alpha(blocks: _Blocks) -> str:
    if blocks.left.max() > 0.1 * blocks["branch"].mean():
        return ""
    return (
        f"the skip keeps {_span(blocks['skip'])} of its input's {blocks.what} and the branch adds "
        f"{_span(blocks['branch'])}, where the law says {_span(blocks.predicted)} together: is the "
        "factor α of the skip forgotten?"
    )


def _mean_shift(blocks: _Blocks) -> str:
    if blocks.law.quantity != "channel_variance" or blocks.backward:
        return ""
    moments = float(np.mean(blocks["branch_moment"] / blocks.left))
    variances = float(np.mean(blocks["branch"] / blocks.left))
    if abs(moments - 1) > _EXPLAINS * abs(variances - 1):
        return ""
    return (
        f"the branch adds {_span(blocks['branch'])} of channel variance where the law leaves "
        f"{_span(blocks.left)}; its second moment is right (x{moments:.3g}), so the rest of it is "
        "mean shift: the branch's weights or inputs are not centered"
    )


def _exponent(blocks: _Blocks) -> str:
    """Return words for a branch that falls as another power than the law leaves it, or none."""
    left, branch = blocks.left, blocks["branch"]
    if len(left) < 4 or (left <= 0).any() or (branch <= 0).any():
        return ""
    x, y = np.log(left), np.log(branch / left)
    errors = blocks.errors.to_numpy() / branch
    slope, slope_error = _slope(x, y, errors)
    span = abs(slope) * float(np.ptp(x))
    if not abs(slope) > _ERRORS * slope_error or span < _EXPLAINS * float(np.abs(y).max()):
        return ""
    return (
        f"wrong exponent: over the blocks the branch adds a power {1 + slope:.2f} ± "
        f"{slope_error:.2f} of what the law leaves it ({_span(left)}), where 1 is right; it adds "
        f"x{math.exp(y[0]):.3g} as much in the first block and x{math.exp(y[-1]):.3g} in the last"
    )


def _slope(x: Array, y: Array, errors: Array) -> tuple[float, float]:
    """Return the slope of a line through points with these errors, and its standard error."""
    weights = 1 / np.maximum(errors, 1e-6) ** 2
    centered = x - np.average(x, weights=weights)
    total = float((weights * centered**2).sum())
    if total == 0:
        return 0.0, math.inf
    return float((weights * centered * y).sum() / total), 1 / math.sqrt(total)


def _factor(blocks: _Blocks) -> str:
    left, branch = blocks.left, blocks["branch"]
    factor = float(branch.sum() / left.sum())
    both = (
        f"the skip keeps {_span(blocks['skip'])} and the branch adds {_span(branch)} of the "
        f"input's {blocks.what}, together {_span(blocks['skip'] + branch)} where the law says "
        f"{_span(blocks.predicted)}"
    )
    if factor <= 0:
        return both
    error = float(np.sqrt((blocks.errors.to_numpy() ** 2).sum()) / branch.sum())
    known = _known(factor, error, _powers(_GAINS[blocks.law.direction]))
    return f"{both}: " + (
        f"the branch adds x{factor:.3g} of what is left to it, {known}"
        if known
        else f"β is off, the branch adds x{factor:.3g} of what is left to it (amplitude "
        f"x{math.sqrt(factor):.3g})"
    )


def _powers(gains: Mapping[float, str]) -> dict[float, str]:
    layers = {1: "in one layer", 2: "in two layers", 3: "in three layers"}
    return {
        gain**count: f"{words}, {where}"
        for gain, words in gains.items()
        for count, where in layers.items()
    }


def _known(factor: float, error: float, candidates: Mapping[float, str]) -> str:
    """Return the words of the one candidate that a factor agrees with, or an empty string."""
    near = _NEAR + 2 * error
    fits = [words for known, words in candidates.items() if abs(math.log(factor / known)) < near]
    return fits[0] if len(fits) == 1 else ""


def _border(blocks: _Blocks, circular: pd.DataFrame | None) -> str:
    if circular is None:
        return ""
    ratios = (circular["after"] / circular["before"]).groupby(circular["block"]).mean()
    with_zeros = float(np.log(blocks["ratio"] / blocks.predicted).sum())
    without = float(np.log(ratios.reindex(blocks.means.index) / blocks.predicted).sum())
    if not abs(without) < _EXPLAINS * abs(with_zeros):
        return ""
    return (
        "a border effect of zero padding: with circular padding in its place the same weights "
        f"change the {blocks.what} by x{math.exp(without):.3g} of what the law says, with zeros by "
        f"x{math.exp(with_zeros):.3g}"
    )


def _chain(blocks: _Blocks) -> str:
    ratio = blocks["ratio"]
    seen = "" if blocks.residual else "; no residual addition was seen in it"
    each = "the block multiplies" if len(ratio) == 1 else "each block multiplies"
    factor = float(np.exp(np.log(ratio / blocks.predicted).mean()))
    error = float(blocks.draws.groupby("block")["ratio"].sem().mean() / ratio.mean())
    error /= math.sqrt(len(ratio))
    known = _known(factor, error, {**_GAINS[blocks.law.direction], **_DEFAULTS})
    return f"{each} the {blocks.what} by {_span(ratio)}{f': {known}' if known else ''}{seen}"


def _span(values: Array, form: str = ".4g") -> str:
    """Return one number, or the smallest and the largest where they differ."""
    low, high = format(float(np.min(values)), form), format(float(np.max(values)), form)
    return low if low == high else f"{low} to {high}"


def _listed(names: Array) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
