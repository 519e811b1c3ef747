"""What a long run costs after training: seconds to write, load, save and report a million rows.

The rows of one step are real, read by a probe from a network of ten signal rows and four parameter
rows a block. Every further step repeats them with each number multiplied by a log-normal factor,
kept by column as a probe keeps them; ten times a run they become frames and a part of the run
directory, as `sigprop.compare` does. All of it once. `seconds` are the wall's, in which the disk
and whatever else the machine does take part; `peak MB` is the most that the process held.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

import sigprop
from benchmarks.memory import RESET, forget_peak, peak
from sigprop.records import RunWriter
from sigprop.records.column_buffer import ColumnBuffer

PARTS = 10


def recorded_step(blocks: int) -> sigprop.Records:
    torch.manual_seed(0)
    model = sigprop.networks.build("rescale", depth=blocks, width=16, inputs=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with sigprop.attach(model, optimizer, network="rescale") as probe:
        loss = nn.functional.cross_entropy(model(torch.randn(32, 16)), torch.randint(0, 10, (32,)))
        loss.backward()
        optimizer.step()
        probe.record_spectra()
        probe.log(loss=loss.item())
    return probe.records


def repeated(
    table: str, frame: pd.DataFrame, steps: range, noise: np.random.Generator
) -> ColumnBuffer:
    """Return the rows of ``frame`` once a step, every float times its own factor near 1."""
    rows = ColumnBuffer(table)
    columns = {str(name): list(column) for name, column in frame.items()}
    floats = {str(name): frame[name].to_numpy() for name in frame.select_dtypes("float64")}
    for step in steps:
        factors = np.exp(0.1 * noise.standard_normal((len(floats), len(frame))))
        noisy = {name: f * floats[name] for name, f in zip(floats, factors, strict=True)}
        rows.append({**columns, **noisy, "step": step}, len(frame))
    return rows


class Stopwatch:
    """Seconds of each stage by the wall's clock and the processor's, and the most memory held."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done in the context; a stage that comes again goes on."""
        if RESET.exists():
            forget_peak()
        row = self.stages.setdefault(name, {"seconds": 0.0, "processor s": 0.0, "peak MB": 0.0})
        wall, processor = time.perf_counter(), time.process_time()
        yield
        row["seconds"] += time.perf_counter() - wall
        row["processor s"] += time.process_time() - processor
        row["peak MB"] = max(row["peak MB"], peak() / 1e6) if RESET.exists() else math.nan


def megabytes(path: Path) -> float:
    """Return the size of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def main(steps: int = 1000, blocks: int = 100) -> pd.DataFrame:
    """Return a row a stage, with its seconds, and a row for each thing on disk, with its size."""
    noise, watch = np.random.default_rng(0), Stopwatch()
    step = recorded_step(blocks)
    tables = {name: step.tables()[name] for name in ("signals", "parameters", "training")}
    with tempfile.TemporaryDirectory() as folder:
        writer = RunWriter(Path(folder) / "run", step.manifest)
        writer.append("coverage", step.coverage)
        writer.append("spectra", step.spectra)
        for part in range(PARTS):
            some = range(part * steps // PARTS, (part + 1) * steps // PARTS)
            rows = {name: repeated(name, frame, some, noise) for name, frame in tables.items()}
            with watch.stage("frames and Parquet parts"):
                for name, kept in rows.items():
                    writer.append(name, kept.frame())
                writer.flush()
        writer.complete()
        with watch.stage("load"):
            records = sigprop.load(writer.directory)
        with watch.stage("save"):
            records.save(Path(folder) / "again")
        with watch.stage("report"):
            page = sigprop.report(records, Path(folder) / "report")
        paths = {"run on disk": writer.directory, "report.html": page, "figures": page.parent}
        sizes = {name: megabytes(path) for name, path in paths.items()}
    found = {**watch.stages, **{name: {"MB": size} for name, size in sizes.items()}}
    table = pd.DataFrame.from_dict(found, orient="index").rename_axis("stage").reset_index()
    table.insert(0, "signal rows", len(records.signals))
    table.insert(1, "parameter rows", len(records.parameters))
    return table
