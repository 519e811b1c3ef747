"""What a long run costs on disk: rows streamed, written and loaded, with time and memory.

    OMP_NUM_THREADS=1 python -m benchmarks.run_size [ROWS] [FOLDER]

Rows are as a probe makes them: of a model of 50 blocks, 400 rows of `signals` a step, and flushed
every 50 steps.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import sigprop
from sigprop.probing.options import ProbeOptions
from sigprop.probing.streaming import tables_for

BLOCKS, STEPS_A_FLUSH = 50, 50
PORTS = ("in", "skip", "branch", "out")
FACTS = {"networks": ["model"], "seeds": [0], "steps": 0}


def step_columns(draw: np.random.Generator) -> dict[str, object]:
    """Return the columns of the signals of one step, as a probe's reader gives them."""
    rows = [
        (block, port, direction)
        for block in range(BLOCKS)
        for port in PORTS
        for direction in ("forward", "backward")
    ]
    blocks, ports, directions = zip(*rows, strict=True)
    numbers = {
        name: draw.lognormal(size=len(rows))
        for name, column in sigprop.records.SCHEMA["signals"].items()
        if column.dtype == "float64"
    }
    return {
        "mode": "train",
        "block": list(blocks),
        "kind": "block",
        "module": [f"blocks.{block}" for block in blocks],
        "name": [f"blocks.{block}" for block in blocks],
        "call": 0,
        "port": list(ports),
        "direction": list(directions),
        "channel_dim": 1,
        "count": np.full(len(rows), 65536),
        "channels": np.full(len(rows), 64),
        "nonfinite": np.zeros(len(rows), dtype=int),
        **numbers,
    }


def now() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the time, and the processor time of this process, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def peak() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(rows: int, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    draw = np.random.default_rng(0)
    columns = step_columns(draw)
    size = len(columns["block"])  # type: ignore[arg-type]
    options = ProbeOptions(directory=folder, flush_every=STEPS_A_FLUSH)
    tables = tables_for(options, FACTS, None)
    sigprop.records.tidy("signals", [])  # pandas is imported
    before, began = peak(), now()
    steps = rows // size
    for step in range(steps):
        changed = {"second_moment": draw.lognormal(size=size), "mean": draw.normal(size=size)}
        tables.append("signals", {**columns, **changed}, size, step=step)
        tables.step_recorded(step, list)
    tables.close(steps, [], complete=True)
    took, cpu = now() - began
    files = list(folder.glob("*.parquet"))
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f"{steps * size:,} rows, {steps} steps, {len(files)} parts, {megabytes:.0f} MB")
    a_step = cpu / steps * 1e3
    print(f"written in {took:.1f} s ({cpu:.1f} s of processor, {a_step:.2f} ms a step)")
    print(f"memory meanwhile: +{peak() - before:.0f} MB")
    began = now()
    records = sigprop.load(folder)
    took, cpu = now() - began
    assert len(records.signals) == steps * size
    assert records.missing == []
    held = records.signals.memory_usage(deep=True).sum() / 1e6
    print(f"loaded in {took:.1f} s ({cpu:.1f} s of processor)")
    print(f"peak {peak():.0f} MB, the frame is {held:.0f} MB")


if __name__ == "__main__":
    asked = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000_000
    main(asked, Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp()) / "run")
