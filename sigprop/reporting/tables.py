"""The tables of the report: one registered function from a study's records to a frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sigprop.records import Records
from sigprop.records.queries import at_first_step, by_block, dead_by_block
from sigprop.records.sequence import blocks_in_order, relative_gradient, unrolled
from sigprop.registry import Registry
from sigprop.reporting.aggregate import over_seeds
from sigprop.reporting.glossary import QUANTITIES
from sigprop.reporting.summary import summarize

Predictions = pd.DataFrame | None


@dataclass(frozen=True)
class TableSpec:
    """A table by name.

    Attributes:
        name: its name in the registry and of its CSV file.
        title: the heading above it.
        caption: one sentence that says what a row is.
        build: the function of what was seen and what theory predicts (None without); it returns
            an empty frame when there is no such data.
    """

    name: str
    title: str
    caption: str
    build: Callable[[Records, Predictions], pd.DataFrame]


#: Table by name, in the order of the page.
TABLES: Registry[TableSpec] = Registry("table")

Build = Callable[[Records, Predictions], pd.DataFrame]


def table(name: str, *, title: str, caption: str) -> Callable[[Build], Build]:
    """Return a decorator that registers a function from records to a table under ``name``.

    Args:
        name: the name of its file.
        title: the heading above it.
        caption: one sentence that says what a row is.
    """

    def file(build: Build) -> Build:
        """Return the function, which is registered as a table."""
        TABLES.register(name)(TableSpec(name, title, caption, build))
        return build

    return file


@table(
    "summary", title="Summary", caption="One column per network (one row per network in the CSV)."
)
def summary(records: Records, predictions: Predictions) -> pd.DataFrame:
    """Return one row per network.

    Args:
        records: what was seen.
        predictions: what theory predicts; None without.
    """
    return summarize(records, predictions)


@table(
    "init_by_block",
    title="Activations at initialization, by block",
    caption="Block outputs; second_moment, channel_variance and mean_shift are geometric means "
    "over seeds, low and high the smallest and largest seed of the second moment. Of a block with "
    "non-finite elements only how many seeds have them is given (nonfinite).",
)
def init_by_block(records: Records, predictions: Predictions) -> pd.DataFrame:
    """Return activation statistics by network and block at the first recorded step.

    Args:
        records: what was seen.
        predictions: not needed here.
    """
    signals = at_first_step(unrolled(records.signals))
    columns = ["second_moment", "channel_variance", "mean_shift", "kurtosis", "zero_fraction"]
    merged = _by_block(signals, "forward", columns)
    dead = _mean(dead_by_block(signals), "dead_fraction")
    return merged.merge(dead, on=["network", "block"], how="left")


@table(
    "gradient_by_block",
    title="Gradients at initialization, by block",
    caption="Loss gradients at block outputs, averaged like the activations; relative_gradient is "
    "the second moment over that of the last block.",
)
def gradient_by_block(records: Records, predictions: Predictions) -> pd.DataFrame:
    """Return gradient statistics by network and block at the first recorded step.

    Args:
        records: what was seen.
        predictions: not needed here.
    """
    signals = at_first_step(unrolled(records.signals))
    columns = ["second_moment", "channel_variance", "mean_shift", "zero_fraction"]
    rows = _finite(by_block(signals, columns, "backward"), columns)
    relative = _mean(relative_gradient(rows, blocks_in_order(signals)), "relative_gradient")
    merged = _by_block(signals, "backward", columns)
    return merged.merge(relative, on=["network", "block"], how="left")


def _by_block(signals: pd.DataFrame, direction: str, columns: list[str]) -> pd.DataFrame:
    """Return ``columns`` by network and block, with the block's name and the spread over seeds."""
    where = ["network", "block"]
    rows = _finite(by_block(signals, columns, direction), columns)
    spread = over_seeds(rows, columns[0], where, "scale").rename(columns={"center": columns[0]})
    for column in columns[1:]:
        spread = spread.merge(_mean(rows, column), on=where)
    order = blocks_in_order(signals).rename(columns={"label": "name"})
    named = spread.merge(order[[*where, "name"]], on=where, how="left")
    return named[[*where, "name", "seeds", columns[0], "low", "high", *columns[1:], "nonfinite"]]


def _finite(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return ``rows`` without the numbers of tensors with non-finite elements.

    They are taken over the finite rest and would look like those of a healthy tensor.
    """
    return rows.assign(**{name: rows[name].mask(rows["nonfinite"]) for name in columns})


def _mean(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    kind = QUANTITIES[column].kind if column in QUANTITIES else "share"
    averaged = over_seeds(rows, column, ["network", "block"], kind)
    return averaged[["network", "block", "center"]].rename(columns={"center": column})


@table(
    "deviation",
    title="Measured against predicted, by block",
    caption="log_ratio is the natural logarithm of measured (geometric mean over seeds) over "
    "predicted; 0 is agreement, ±0.1 about 10 %.",
)
def deviation(records: Records, predictions: Predictions) -> pd.DataFrame:
    """Return how far measurements lie from the predictions; empty without predictions.

    Args:
        records: what was seen.
        predictions: what theory predicts; None without.
    """
    columns = ["network", "direction", "quantity", "block", "measured", "predicted", "log_ratio"]
    if predictions is None or predictions.empty:
        return pd.DataFrame(columns=columns)
    signals = at_first_step(unrolled(records.signals))
    parts = []
    for (direction, quantity), rows in predictions.groupby(["direction", "quantity"], sort=False):
        name = str(quantity)
        measured = _mean(_finite(by_block(signals, name, str(direction)), [name]), name)
        measured = measured.rename(columns={name: "measured"})
        parts.append(rows.merge(measured, on=["network", "block"]))
    joined = pd.concat(parts, ignore_index=True).rename(columns={"value": "predicted"})
    ratio = joined["measured"] / joined["predicted"].where(joined["predicted"] != 0)
    joined["log_ratio"] = np.log(ratio.where(ratio > 0))
    return joined[columns]


@table(
    "training",
    title="Training",
    caption="One row per network, mode and step: means over seeds, smallest and largest loss.",
)
def training(records: Records, predictions: Predictions) -> pd.DataFrame:
    """Return loss, accuracy and learning rate by network, mode and step.

    Args:
        records: what was seen.
        predictions: not needed here.
    """
    rows = records.training
    where = ["network", "mode", "step"]
    loss = over_seeds(rows, "loss", where, "cost").rename(
        columns={"center": "loss", "low": "loss_low", "high": "loss_high"}
    )
    rest = rows.groupby(where)[["accuracy", "learning_rate"]].mean().reset_index()
    merged = loss.merge(rest, on=where)
    merged["nonfinite"] += merged.pop("undefined")
    return merged


@table(
    "spectra_summary",
    title="Spectra",
    caption="One row per weight (or operator), seed and step; condition is largest over smallest "
    "singular value, stable_rank is Σσ² / σ²max.",
)
def spectra_summary(records: Records, predictions: Predictions) -> pd.DataFrame:
    """Return largest and smallest singular value, condition number and stable rank.

    Args:
        records: what was seen.
        predictions: not needed here.
    """
    where = ["network", "run", "seed", "step", "name", "operator"]
    groups = records.spectra.groupby(where, sort=False)["singular_value"]
    table = groups.agg(count="size", largest="max", smallest="min").reset_index()
    table["condition"] = table["largest"] / table["smallest"].where(table["smallest"] > 0)
    scaled = (records.spectra["singular_value"] / groups.transform("max")) ** 2
    rank = scaled.groupby([records.spectra[name] for name in where], sort=False).sum(min_count=1)
    table["stable_rank"] = rank.to_numpy(dtype=float)
    return table


@table(
    "coverage",
    title="Coverage",
    caption="One row per module: was it recorded, how often called, what of its gradient, and the "
    "reason where something is absent (seeds that agree are one row).",
)
def coverage(records: Records, predictions: Predictions) -> pd.DataFrame:
    """Return the coverage of every module, those not recorded first.

    Args:
        records: what was seen.
        predictions: not needed here.
    """
    columns = ["network", "name", "type", "recorded", "status", "calls", "gradient", "reason"]
    rows = records.coverage[columns].drop_duplicates()
    return rows.sort_values("recorded", kind="stable").reset_index(drop=True)


@table(
    "provenance",
    title="Provenance",
    caption="How these records were made: command, versions, seeds and time.",
)
def provenance(records: Records, predictions: Predictions) -> pd.DataFrame:
    """Return the manifest as rows of key and value.

    Args:
        records: what was seen.
        predictions: not needed here.
    """
    return pd.DataFrame(list(_flat(records.manifest)), columns=["key", "value"])


def _flat(facts: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple | set):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value))))
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows
