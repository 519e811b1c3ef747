"""What each drawn number means: one entry per quantity, read by axes, captions and the glossary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: How a quantity is averaged over seeds and what axis it may have.
#: ``scale``: non-negative, geometric mean, logarithmic when it spans decades;
#: ``share``: a fraction, arithmetic mean, linear; ``signed``: arithmetic mean, linear;
#: ``cost``: arithmetic mean, logarithmic when it spans decades.
Kind = Literal["scale", "share", "signed", "cost"]


@dataclass(frozen=True)
class Quantity:
    """One number of the frames, in words.

    Attributes:
        name: the column it comes from, or the name of the ratio made of two columns.
        label: the words on an axis, with the definition in symbols.
        definition: one sentence for the glossary.
        kind: how it is averaged and scaled, see `Kind`.
    """

    name: str
    label: str
    definition: str
    kind: Kind


_ALL = (
    Quantity(
        "second_moment",
        "second moment  E[x²]",
        "Mean of x² over every element. The identity second_moment = channel_variance + "
        "mean_shift holds for each row.",
        "scale",
    ),
    Quantity(
        "channel_variance",
        "channel variance  mean$_c$ Var(x$_c$)",
        "Mean over channels of the biased variance over all other axes (the 'average channel "
        "variance' of signal propagation plots).",
        "scale",
    ),
    Quantity(
        "mean_shift",
        "mean shift  mean$_c$ (E[x$_c$])²",
        "Mean over channels of the squared channel mean (the 'average squared channel mean' of "
        "signal propagation plots).",
        "scale",
    ),
    Quantity(
        "dead_fraction",
        "dead units  [share of channels]",
        "Share of units whose activation is never above 0 in the whole recorded window; it exists "
        "at rectified taps only, and a block's value is the mean over its taps weighted by "
        "channels.",
        "share",
    ),
    Quantity(
        "zero_fraction",
        "zeros  [share of elements]",
        "Share of elements that are exactly 0.",
        "share",
    ),
    Quantity(
        "relative_gradient",
        "E[g²] / E[g²] at the last block",
        "Second moment of the gradient at a block's output divided by the one at the last block's "
        "output: 1 on the right, and what backpropagation made of it on the left.",
        "scale",
    ),
    Quantity(
        "branch_to_skip",
        "E[branch²] / E[skip²]",
        "Second moment of the residual branch divided by that of the skip connection, at the "
        "addition that joins them.",
        "scale",
    ),
    Quantity(
        "skip_branch_correlation",
        "correlation of skip and branch",
        "Correlation of the two operands of the residual addition; 0 is what additive variance "
        "laws assume.",
        "signed",
    ),
    Quantity(
        "grad_to_weight",
        "gradient to weight  ‖g‖ / ‖w‖",
        "Frobenius norm of the gradient over that of the weight, as the optimizer sees them; a "
        "block's value is the geometric mean over its weight matrices.",
        "scale",
    ),
    Quantity(
        "update_to_weight",
        "update to weight  ‖Δw‖ / ‖w‖",
        "Norm of the change that one optimizer step made over the norm of the weight before it.",
        "scale",
    ),
    Quantity(
        "singular_value",
        "singular value  σ",
        "A singular value of a weight as a linear map; condition number is largest over smallest, "
        "stable rank is Σσ² / σ²max.",
        "scale",
    ),
    Quantity("loss", "training loss", "The training objective, per step.", "cost"),
    Quantity(
        "accuracy", "accuracy  [share correct]", "Share of samples classified correctly.", "share"
    ),
)

#: Quantity by name.
QUANTITIES: dict[str, Quantity] = {quantity.name: quantity for quantity in _ALL}
