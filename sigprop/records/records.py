"""What was seen: the frames of one or several runs, and the questions that are asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.records.frames import stack, tidy
from sigprop.records.run_writer import RunWriter
from sigprop.records.schema import SCHEMA

if TYPE_CHECKING:  # 0.3 s to import: paid when rows become a frame, not when a probe is attached
    import pandas as pd

    from sigprop.records.queries import Step


@dataclass
class Records:
    """The frames of one or several runs.

    Attributes:
        signals: one row per step, tap and direction (activation and gradient statistics).
        parameters: one row per step and parameter.
        spectra: one row per singular value.
        coverage: one row per module: was it recorded, and if not, why.
        training: one row per step of a training loop (loss, accuracy, learning rate).
        manifest: how the run was made: command, versions, seeds, status.
        missing: what a load could not find, one sentence each; empty for a whole run.
    """

    signals: pd.DataFrame = field(default_factory=lambda: tidy("signals", []))
    parameters: pd.DataFrame = field(default_factory=lambda: tidy("parameters", []))
    spectra: pd.DataFrame = field(default_factory=lambda: tidy("spectra", []))
    coverage: pd.DataFrame = field(default_factory=lambda: tidy("coverage", []))
    training: pd.DataFrame = field(default_factory=lambda: tidy("training", []))
    manifest: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the frames by table name."""
        return {table: getattr(self, table) for table in SCHEMA}

    def networks(self) -> list[str]:
        """Return the names of the networks seen, in the order they were recorded."""
        seen: dict[str, None] = {}
        for frame in self.tables().values():
            seen.update(dict.fromkeys(frame["network"].unique()))
        return list(seen)

    def by_block(
        self,
        quantity: str | Sequence[str],
        direction: str = "forward",
        port: str = "out",
        step: Step = "last",
    ) -> pd.DataFrame:
        """Return a number of every block: how it travels through the depth.

        Rows of training mode are taken; of a network that has none, those of evaluation mode.
        Several calls of a block in one step are averaged.

        Args:
            quantity: a column of `signals`, or several.
            direction: ``"forward"`` for activations, ``"backward"`` for gradients.
            port: ``"out"``, ``"in"``, or an operand of the block's addition: ``"skip"``,
                ``"branch"``.
            step: ``"last"`` or ``"first"`` of those that each run recorded, a step's number, or
                None for all.

        Returns:
            Columns ``network``, ``run``, ``seed``, ``step``, ``block``, ``module``, the
            quantities, and ``nonfinite``, true where an element was NaN or infinite; one row per
            block and step, sorted by the first five.

        Raises:
            UnknownName: a quantity, direction or port has no such name.
            BadInput: ``step`` is none of the above.

        Example:
            >>> import torch, sigprop
            >>> records = sigprop.measure("plain", torch.randn(64, 8, 8), options={"depth": 3})
            >>> records.by_block("second_moment")["block"].tolist()
            [0, 1, 2]
        """
        from sigprop.records.queries import by_block  # pandas, only now

        return by_block(self.signals, quantity, direction, port, step)

    def save(self, directory: str | Path) -> Path:
        """Write a complete run directory and return its path.

        Args:
            directory: where to write; made if absent.

        Returns:
            The directory.

        Raises:
            RunError: the directory cannot be written, or holds another run.
        """
        writer = RunWriter(directory, self.manifest)
        for table, frame in self.tables().items():
            writer.append(table, frame)
        writer.complete()
        return writer.directory

    def __repr__(self) -> str:
        sizes = ", ".join(f"{table}: {len(frame)}" for table, frame in self.tables().items())
        return f"Records({', '.join(self.networks()) or 'empty'}; rows {sizes})"


def concat(records: Sequence[Records]) -> Records:
    """Return the rows of several records as one, for comparing runs made apart.

    Args:
        records: in the order in which their networks are to be listed. Of the manifests, seeds,
            networks and designs are joined; all else is the first one's.

    Example:
        >>> rows = tidy("training", [{"network": "plain"}])
        >>> concat([Records(training=rows), Records(training=rows)]).training["network"].tolist()
        ['plain', 'plain']
    """
    frames = {table: tidy(table, stack([r.tables()[table] for r in records])) for table in SCHEMA}
    manifest = dict(records[0].manifest) if records else {}
    manifest["seeds"] = sorted({s for r in records for s in r.manifest.get("seeds", [])})
    manifest["networks"] = list({n: None for r in records for n in r.manifest.get("networks", [])})
    manifest["designs"] = {
        label: found for r in records for label, found in r.manifest.get("designs", {}).items()
    }
    manifest["cotangents"] = {
        label: n for r in records for label, n in r.manifest.get("cotangents", {}).items()
    }
    return Records(**frames, manifest=manifest, missing=[m for r in records for m in r.missing])
