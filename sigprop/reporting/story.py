"""What happened, in words: sentences per network from one row of the summary. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sigprop.reporting.words import counted, factor, known, number, share

Level = Literal["bad", "warn", "good", "none"]

#: Verdict -> how bad it is and what it means; printed on the page below the headline.
VERDICTS: Mapping[str, tuple[Level, str]] = {
    "diverged": ("bad", "the training loss stopped being finite"),
    "not finite": ("bad", "activations or gradients are not finite at initialization"),
    "explodes": ("bad", "the second moment grows by 1000 or more from start to end"),
    "vanishes": ("bad", "the second moment shrinks to 1/1000 or less from start to end"),
    "drifts": ("warn", "the second moment leaves ±10 % of its start, by less than 1000"),
    "steady": ("good", "the second moment stays within 10 % of its start at every block"),
    "not measured": ("none", "no block outputs of a forward pass were recorded"),
}
STEADY = 1.1
EXTREME = 1e3
Row = Mapping[str, Any]


@dataclass(frozen=True)
class NetworkStory:
    """The headline of one network.

    Attributes:
        network: its name.
        verdict: a key of `VERDICTS`.
        level: how bad that is.
        headline: one sentence with the numbers behind the verdict.
        why: further sentences, one fact each.
    """

    network: str
    verdict: str
    level: Level
    headline: str
    why: tuple[str, ...]


def tell(row: Row) -> NetworkStory:
    """Return the story of one row of the summary."""
    word = verdict(row)
    clauses = [clause for clause in (forward_clause(row), training_clause(row)) if clause]
    return NetworkStory(
        network=str(row["network"]),
        verdict=word,
        level=VERDICTS[word][0],
        headline=" and ".join(clauses) + ".",
        why=tuple(sentence for sentence in reasons(row) if sentence),
    )


def verdict(row: Row) -> str:
    """Return the worst of the `VERDICTS` that the numbers support."""
    if known(row["diverged_at"]):
        return "diverged"
    if known(row["nonfinite_from_block"]) or (
        known(row["nonfinite_gradients"]) and row["nonfinite_gradients"] > 0
    ):
        return "not finite"
    if not known(row["total_ratio"]):
        return "not measured"
    if row["total_ratio"] >= EXTREME:
        return "explodes"
    if row["total_ratio"] <= 1 / EXTREME:
        return "vanishes"
    return "drifts" if row["largest_fold"] > STEADY else "steady"


def forward_clause(row: Row) -> str:
    """Return what the second moment does over the blocks at initialization."""
    if known(row["nonfinite_from_block"]):
        return f"activations are not finite from block {row['nonfinite_from_block']} on"
    if not known(row["total_ratio"]):
        return "no second moments of block outputs were recorded"
    if not known(row["growth_per_block"]):
        return f"the second moment changes {factor(row['total_ratio'])} over its single block"
    growth, fold, total = row["growth_per_block"], row["largest_fold"], row["total_ratio"]
    if fold <= STEADY:
        return (
            f"the second moment changes {factor(growth)} per block and stays within "
            f"{share(fold - 1)} of its start over {counted(row['blocks_spanned'], 'block')}"
        )
    span = f"{factor(total)} over {counted(row['blocks_spanned'], 'block')}"
    if 1 / STEADY <= total <= STEADY:
        return f"the second moment wanders by up to {factor(fold)} and comes back ({span})"
    verb = "grows" if total > 1 else "shrinks"
    return f"the second moment {verb} {factor(growth)} per block ({span})"


def training_clause(row: Row) -> str:
    """Return how training ended; empty when there was none."""
    if known(row["diverged_at"]):
        some = known(row["seeds"]) and row["diverged_seeds"] < row["seeds"]
        of = f" ({row['diverged_seeds']} of {counted(row['seeds'], 'seed')})" if some else ""
        return f"training diverged at step {row['diverged_at']}{of}"
    ends = []
    if known(row["final_loss"]):
        ends.append(f"loss {number(row['final_loss'])}")
    if known(row["final_accuracy"]):
        ends.append(f"accuracy {share(row['final_accuracy'])}")
    return f"training ends at {' and '.join(ends)}" if ends else ""


def reasons(row: Row) -> list[str]:
    """Return the facts behind the headline, one sentence each; empty where nothing is known."""
    return [_growth(row), _shift(row), _dead(row), _gradient(row), _weight(row)]


def _growth(row: Row) -> str:
    if not (known(row["growth_standard_error"]) and known(row["growth_per_block"])):
        return ""
    error = row["growth_standard_error"]
    shown = error if error > 1e-9 * row["growth_per_block"] else 0.0  # below that it is rounding
    return (
        f"Growth per block is {number(row['growth_per_block'])} ± {shown:.1g} "
        f"(standard error over {counted(row['seeds'], 'seed')})."
    )


def _shift(row: Row) -> str:
    if not known(row["mean_shift_share"]):
        return ""
    start = f"Mean shift makes up at most {share(row['mean_shift_share'])} of the second moment"
    if not known(row["channel_variance_ratio"]):
        return f"{start}."
    return (
        f"{start}; the channel variance alone changes {factor(row['channel_variance_ratio'])} "
        "from start to end."
    )


def _dead(row: Row) -> str:
    if not known(row["dead_fraction"]):
        return ""
    if row["dead_fraction"] == 0:
        return "No unit is dead at initialization."
    return f"Up to {share(row['dead_fraction'])} of units are dead (block {row['dead_block']})."


def _gradient(row: Row) -> str:
    if known(row["nonfinite_gradients"]) and row["nonfinite_gradients"] > 0:
        return f"Gradients are not finite in {counted(row['nonfinite_gradients'], 'block')}."
    if not known(row["gradient_ratio"]):
        return "No gradients at block outputs were recorded."
    if row["gradient_ratio"] == 0:
        return "The gradient's second moment is exactly 0 at the first block."
    return (
        f"From the last block back to the first, the gradient's second moment changes "
        f"{factor(row['gradient_ratio'])}."
    )


def _weight(row: Row) -> str:
    if not known(row["grad_to_weight"]):
        return ""
    return f"The median gradient-to-weight ratio is {number(row['grad_to_weight'])}."
