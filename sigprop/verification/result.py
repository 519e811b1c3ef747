"""A verdict and its evidence: the table, the headline, and the likely cause of a violation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from sigprop.records import Records
from sigprop.verification.annihilation import NOT_STATED
from sigprop.verification.intervals import HOLDS, MOST_DRAWS, UNDECIDED, VIOLATED
from sigprop.verification.judgment import TRANSITION
from sigprop.verification.laws import Law

#: Verdicts with which a law as a whole may hold.
_SATISFIED = {HOLDS, TRANSITION, NOT_STATED}


@dataclass(frozen=True)
class Result:
    """What `verify` found.

    Attributes:
        law: the law that was tested.
        table: one row per block, then one per stage (``block`` = -1): ``predicted`` and
            ``measured`` ratio, ``low`` and ``high`` of its interval, ``verdict``;
            ``more_seeds_low`` and ``more_seeds_high``, between which the number lies that an
            undecided one needs; ``spread`` (standard deviation of the log ratio over
            seeds), ``skip`` and ``branch`` (second moments of the operands over the input's),
            their ``correlation`` (what the law assumes to be 0), and ``share``, the block's part
            of its stage's output. Where a block ends the signal: ``kind`` (killed, cut from the
            loss, not finite, skipped, from nothing), ``share_of_seeds`` in which it does, and
            ``reason``, a sentence.
        records: everything measured.
        tolerance: the relative deviation that still holds.
        level: confidence of all intervals together.
        seeds: how many draws.
        one_model: the draws are batches through one model, not initializations.
    """

    law: Law
    table: pd.DataFrame
    records: Records
    tolerance: float
    level: float
    seeds: int
    one_model: bool = False

    @property
    def verdict(self) -> str:
        """``"holds"``, ``"violated"`` or ``"undecided"``: of all blocks and stages together.

        A block that could not be read leaves the law undecided; one on which the law is not
        stated (a change of width) does not.
        """
        verdicts = set(self.table["verdict"])
        if VIOLATED in verdicts:
            return VIOLATED
        return HOLDS if HOLDS in verdicts and verdicts <= _SATISFIED else UNDECIDED

    @property
    def holds(self) -> bool:
        """Whether every block and stage keeps the law, shown by its interval."""
        return self.verdict == HOLDS

    @property
    def undecided(self) -> bool:
        """Whether more seeds are needed; see `more_seeds`."""
        return self.verdict == UNDECIDED

    @property
    def more_seeds(self) -> tuple[int, int]:
        """Between how many further seeds and how many would decide every undecided row."""
        return int(self.table["more_seeds_low"].max()), int(self.table["more_seeds_high"].max())

    @property
    def first_violation(self) -> pd.Series | None:
        """The first block that breaks the law, else the first stage that does, else None."""
        broken = self.table[self.table["verdict"] == VIOLATED]
        return None if broken.empty else broken.iloc[0]

    def headline(self) -> str:
        """Return the verdict in one line."""
        draws = "batches of one model" if self.one_model else "seeds"
        line = (
            f"{self.verdict.upper()}: {self.law.says}, within {self.tolerance:.0%} at "
            f"{self.level:.0%} confidence over {self.seeds} {draws}"
        )
        if self.undecided and any(self.more_seeds):
            return f"{line}; {_how_many(*self.more_seeds)} more are needed"
        unread = self.table[~self.table["verdict"].isin([*_SATISFIED, UNDECIDED])]
        if self.undecided and len(unread):
            row = unread.iloc[0]
            return f"{line}; {row['name']}: {row['reason']}"
        return line

    def cause(self) -> str:
        """Return the likely cause of the first violation, or an empty string."""
        row = self.first_violation
        if row is None:
            return ""
        if row["kind"]:
            name = f"block {row['block']} ({row['name']}) " if row["block"] >= 0 else ""
            return f"{name}{row['reason']}"
        if row["block"] < 0:
            return (
                f"no single block is far off, but together they change the signal by "
                f"x{row['measured']:.3g} where the law says x{row['predicted']:.3g}: "
                f"{row['reason']}"
            )
        return str(row["reason"])

    def failure(self) -> str:
        """Return the message of a failed assertion: headline, cause and the rows around it."""
        row = self.first_violation
        if row is None:
            rows = self.table[~self.table["verdict"].isin(_SATISFIED)]
            return f"{self.headline()}\n{_text(rows.head(5))}"
        index = int(self.table["verdict"].eq(VIOLATED).to_numpy().argmax())
        near = self.table.iloc[max(0, index - 1) : index + 2]
        if row["kind"]:
            return f"{self.headline()}\n{self.cause()}\n{_text(near)}"
        block = f"block {row['block']} ({row['name']})" if row["block"] >= 0 else row["name"]
        return f"{self.headline()}\nfirst broken by {block}: {self.cause()}\n{_text(near)}"

    def __str__(self) -> str:
        """Return the headline, the cause if there is one, and the whole table."""
        cause = self.cause()
        lines = [self.headline(), *([f"likely cause: {cause}"] if cause else []), _text(self.table)]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Return the result as numbers and strings, for JSON; None is undefined or infinite."""
        finite = ~self.table.isin([math.inf, -math.inf]) & self.table.notna()
        rows = self.table.astype(object).where(finite, None)
        return {
            "law": self.law.name,
            "verdict": self.verdict,
            "tolerance": self.tolerance,
            "level": self.level,
            "seeds": self.seeds,
            "more_seeds": self.more_seeds,
            "cause": self.cause(),
            "rows": rows.to_dict("records"),
        }


def _how_many(low: int, high: int) -> str:
    """Return an interval of numbers of draws in words; the largest stands for "or more"."""
    if high >= MOST_DRAWS:
        return f"at least {low}"
    return f"{low} to {high}" if low < high else f"about {low}"


def _text(table: pd.DataFrame) -> str:
    columns = ["stage", "block", "name", "predicted", "measured", "low", "high"]
    columns += ["spread", "correlation", "share", "verdict"]
    shown = table[columns].copy()
    ranges = zip(table["more_seeds_low"], table["more_seeds_high"], strict=True)
    shown["more_seeds"] = [_how_many(low, high) if high else "-" for low, high in ranges]
    return shown.to_string(index=False, na_rep="-", float_format="{:.4g}".format)
