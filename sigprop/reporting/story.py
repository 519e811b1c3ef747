"""What happened, in words: sentences per network from one row of the summary. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from sigprop.reporting.verdicts import STEADY, VERDICTS, Level, Row, verdict
from sigprop.words import counted, factor, known, number, share

#: Factor from the start up to which a rate of growth would describe nothing.
NEAR = 1.3


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


def story_of(row: Row) -> NetworkStory:
    """Return the story of one row of the summary.

    Args:
        row: the columns of `SUMMARY`, missing where unknown.
    """
    word = verdict(row)
    clauses = [clause for clause in (forward_clause(row), training_clause(row)) if clause]
    return NetworkStory(
        network=str(row["network"]),
        verdict=word,
        level=VERDICTS[word][0],
        headline=" and ".join(clauses) + ".",
        why=tuple(sentence for sentence in reasons(row) if sentence),
    )


def forward_clause(row: Row) -> str:
    """Return what the second moment does over the blocks at initialization.

    Args:
        row: the columns of `SUMMARY`, missing where unknown.
    """
    if known(row["nonfinite_from_block"]):
        return _not_finite(row)
    if not known(row["total_ratio"]):
        return "no second moments of block outputs were recorded"
    stack = f"in {row['stack']}, " if known(row["stack"]) else ""
    return f"{stack}the second moment {_change(row)}"


def _not_finite(row: Row) -> str:
    words = f"activations are not finite from block {row['nonfinite_from_block']} on"
    if not known(row["nonfinite_elements"]) or not row["nonfinite_elements"] > 0:
        return words
    return (
        f"{words} ({row['nonfinite_elements']} of {counted(row['nonfinite_of'], 'element')} there)"
    )


def _change(row: Row) -> str:
    total, fold, blocks = row["total_ratio"], row["largest_fold"], row["blocks_spanned"]
    if blocks <= 1 and not known(row["growth_per_block"]):
        return f"changes {factor(total)} over its single block"
    over = f"over {counted(blocks, 'block')}"
    if fold <= NEAR:
        return f"stays within {share(fold - 1)} of its start {over}"
    span = f"{factor(total)} {over}"
    if 1 / STEADY <= total <= STEADY:
        return f"wanders by up to {factor(_furthest(row))} and comes back ({span})"
    verb = "grows" if total > 1 else "shrinks"
    rate = per_block(row)
    if rate:
        return f"{verb} {rate} ({span})"
    turns = fold > STEADY * max(total, 1 / total)
    way = f", as far as {factor(_furthest(row))} on the way" if turns else ""
    return f"{verb} unevenly ({span}{way})"


def _furthest(row: Row) -> float:
    """Return the ratio to the start at the block that is furthest from it, up or down."""
    high, low = row["highest_ratio"], row["lowest_ratio"]
    if not (known(high) and known(low)):
        return float(row["largest_fold"])
    return float(high if high >= 1 / low else low)


def per_block(row: Row) -> str:
    """Return the rate of growth in words; empty where no one rate describes it.

    There is none where growth is uneven or where the rate goes the other way than the whole.
    A factor within 1 % of 1 is given in per cent, because it would be printed as ×1.00.

    Args:
        row: the columns of `SUMMARY`, missing where unknown.
    """
    rate, total = row["growth_per_block"], row["total_ratio"]
    if not known(rate) or row["growth"] not in ("geometric", "linear"):
        return ""
    if row["growth"] == "linear":
        return f"linearly, by {number(abs(rate))} per block" if rate * (total - 1) > 0 else ""
    if (rate - 1) * (total - 1) <= 0:
        return ""
    if abs(rate - 1) < 0.01:
        return f"by {100 * abs(rate - 1):.2g} % per block"
    return f"{factor(rate)} per block"


def training_clause(row: Row) -> str:
    """Return how training ended; empty when there was none.

    Args:
        row: the columns of `SUMMARY`, missing where unknown.
    """
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
    """Return the facts behind the headline, one sentence each; empty where nothing is known.

    Args:
        row: the columns of `SUMMARY`, missing where unknown.
    """
    return [_growth(row), _theory(row), _shift(row), _dead(row), *_gradient(row), _weight(row)]


def _growth(row: Row) -> str:
    rate, error = row["growth_per_block"], row["growth_standard_error"]
    if not (known(rate) and known(error)) or row["growth"] not in ("geometric", "linear"):
        return ""
    shown = error if error > 1e-9 * abs(rate) else 0.0  # below that it is rounding
    what = "Growth per block is" if row["growth"] == "geometric" else "The gain per block is"
    seeds = counted(row["seeds"], "seed")
    return f"{what} {number(rate)} ± {shown:.1g} (standard error over {seeds})."


def _theory(row: Row) -> str:
    ratio = row["theory_ratio"]
    if not known(ratio):
        return ""
    fold = max(ratio, 1 / ratio)
    if fold <= 2:
        return f"Measured second moments stay within {share(fold - 1)} of theory at every block."
    return (
        f"At block {row['theory_block']} the measured second moment is {factor(ratio)} what theory "
        "predicts."
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


def _gradient(row: Row) -> list[str]:
    """Return what the gradient does, and which blocks have none."""
    if known(row["nonfinite_gradients"]) and row["nonfinite_gradients"] > 0:
        return [f"Gradients are not finite in {counted(row['nonfinite_gradients'], 'block')}."]
    if not known(row["gradient_blocks"]):
        return ["No gradients at block outputs were recorded."]
    first, ratio = row["gradient_from_block"], row["gradient_ratio"]
    missing = row["gradient_missing"]
    lost = (
        [f"{counted(missing, 'block')} {'has' if missing == 1 else 'have'} no gradient."]
        if known(missing) and missing > 0
        else []
    )
    to = f"block {first}, the first with a gradient" if lost else "the first"
    if not known(ratio):
        return lost
    if ratio == 0:
        return [*lost, f"The gradient's second moment is exactly 0 at {_at(first, bool(lost))}."]
    return [
        *lost,
        f"From the last block back to {to}, the gradient's second moment changes {factor(ratio)}.",
    ]


def _at(block: int, some_missing: bool) -> str:
    return f"block {block}, the first with a gradient" if some_missing else "the first block"


def _weight(row: Row) -> str:
    if not known(row["grad_to_weight"]):
        return ""
    return f"The median gradient-to-weight ratio is {number(row['grad_to_weight'])}."
