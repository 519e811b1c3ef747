"""What a training loop reached, and where it broke: pure functions of the training frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sigprop.records.queries import DRAW


@dataclass(frozen=True)
class Divergence:
    """The first step at which a network's training loss was not finite.

    Attributes:
        network: its name.
        step: the earliest such step over the draws.
        diverged: how many draws diverged.
        draws: how many there are.
    """

    network: str
    step: int
    diverged: int
    draws: int

    def sentence(self) -> str:
        """Return it in words.

        Example:
            >>> Divergence("plain", 3, 2, 3).sentence()
            'diverged at step 3 (2 of 3 seeds)'
        """
        share = "" if self.diverged == self.draws else f" ({self.diverged} of {self.draws} seeds)"
        return f"diverged at step {self.step}{share}"


def train_rows(training: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of training mode, in order of step.

    A loss that is NaN counts as diverged even when it was never finite: silence would be worse.
    """
    rows = training[training["mode"] == "train"]
    return rows.sort_values([*DRAW, "step"], kind="stable")


def evaluated(training: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows with an accuracy and their mode: ``eval`` if there is any, else ``train``."""
    known = training[training["accuracy"].notna()]
    mode = "eval" if (known["mode"] == "eval").any() else "train"
    return known[known["mode"] == mode], mode


def divergences(loss: pd.DataFrame) -> dict[str, Divergence]:
    """Return by network where its loss stopped being finite.

    Args:
        loss: rows of `train_rows`.

    Returns:
        Network -> its `Divergence`; a network all of whose losses are finite is not in it.
    """
    bad = loss[~np.isfinite(loss["loss"])]
    draws = loss.groupby("network")[["run", "seed"]].apply(lambda rows: len(rows.drop_duplicates()))
    found = {}
    for name in bad["network"].drop_duplicates():
        rows = bad[bad["network"] == name]
        broken = len(rows[["run", "seed"]].drop_duplicates())
        step = int(rows["step"].min())
        found[str(name)] = Divergence(str(name), step, broken, int(draws[name]))
    return found


def final_values(rows: pd.DataFrame, column: str) -> dict[str, float]:
    """Return by network the mean over draws of ``column`` at each draw's last row.

    Args:
        rows: of the training frame, in any order.
        column: a number of it.

    Returns:
        Network -> that mean.
    """
    last = rows.sort_values("step", kind="stable").groupby(DRAW, sort=False).tail(1)
    return {
        str(name): float(value) for name, value in last.groupby("network")[column].mean().items()
    }
