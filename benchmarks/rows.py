"""What a long run costs after training: seconds to write, load and report a million rows.

Run: python benchmarks/rows.py [STEPS] [BLOCKS]   (writes reports/benchmarks/rows.csv)

The rows of one step are real, read by a probe from a network of BLOCKS blocks (10 signal rows and 4
parameter rows a block). Every further step repeats them with each number multiplied by a
log-normal factor, as the dictionaries that a probe keeps; ten times a run they become frames and a
part of the run directory, as `sigprop.compare` does. Wall-clock seconds on one thread, all of it
once; `peak MB` is the largest resident memory of the process so far.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import sigprop
from sigprop.records import RunWriter, tidy

FOLDER = Path("reports/benchmarks")
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


def repeated(frame: pd.DataFrame, steps: range, noise: np.random.Generator) -> list[dict[str, Any]]:
    """Return the rows of ``frame`` once a step, every float times its own factor near 1."""
    many = pd.concat([frame] * len(steps), ignore_index=True)
    many["step"] = np.repeat(np.asarray(steps), len(frame))
    floats = many.select_dtypes("float64").columns
    many[floats] *= np.exp(0.1 * noise.standard_normal((len(many), len(floats))))
    return many.to_dict("records")


class Stopwatch:
    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if self.rows and self.rows[-1]["stage"] == name:
            seconds += self.rows.pop()["seconds"]
        self.rows.append({"stage": name, "seconds": seconds, "peak MB": peak})


def main(steps: int = 1000, blocks: int = 100) -> None:
    torch.set_num_threads(1)
    noise, watch = np.random.default_rng(0), Stopwatch()
    step = recorded_step(blocks)
    tables = {name: step.tables()[name] for name in ("signals", "parameters", "training")}
    with tempfile.TemporaryDirectory() as folder:
        writer = RunWriter(Path(folder) / "run", step.manifest)
        writer.append("coverage", step.coverage)
        writer.append("spectra", step.spectra)
        for part in range(PARTS):
            some = range(part * steps // PARTS, (part + 1) * steps // PARTS)
            rows = {name: repeated(frame, some, noise) for name, frame in tables.items()}
            with watch.stage("frames and Parquet parts"):
                for name, kept in rows.items():
                    writer.append(name, tidy(name, kept))
                writer.flush()
        writer.complete()
        with watch.stage("load"):
            records = sigprop.load(writer.directory)
        with watch.stage("save"):
            records.save(Path(folder) / "again")
        with watch.stage("report"):
            page = sigprop.report(records, Path(folder) / "report")
        sizes = {"run on disk": writer.directory, "report.html": page, "figures": page.parent}
        for name, place in sizes.items():
            files = place.rglob("*") if place.is_dir() else [place]
            size = sum(file.stat().st_size for file in files if file.is_file())
            watch.rows.append({"stage": name, "MB": size / 1e6})
    table = pd.DataFrame(watch.rows)
    table.insert(0, "parameter rows", len(records.parameters))
    table.insert(0, "signal rows", len(records.signals))
    print(table.to_string(index=False, float_format="{:.3g}".format))
    FOLDER.mkdir(parents=True, exist_ok=True)
    table.to_csv(FOLDER / "rows.csv", index=False, float_format="%.4g", lineterminator="\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
