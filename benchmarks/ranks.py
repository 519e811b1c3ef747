"""What merging the statistics of ranks sends and takes, by the number of ranks.

Run: python -m benchmarks.ranks [--steps N] [--output FOLDER]

Collectives and bytes are counted, exactly; milliseconds are medians over steps on the first rank,
with as many processes as ranks on the cores that there are: beyond their number ranks wait for each
other's turns, and only counts mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import sigprop
from benchmarks.page import markdown
from benchmarks.subjects import SUBJECTS
from sigprop.capture.distributed.ranks import Ranks

NAMES = ("MLP, 20 blocks of 256, batch 256", "ResNet-20, batch 64 of 3x32x32")
SIZES = (2, 3, 4)
#: Ranks of a large job, and the bytes a second of an ordinary network card (10 Gbit/s).
MANY, CARD = 1000, 1.25e9


def one_rank(name: str, steps: int, file: str) -> None:
    """Train as one of many ranks, and write what the first one measured."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    training = SUBJECTS[name](torch.device("cpu"))
    model = training.forward = DistributedDataParallel(training.model)
    taken: list[float] = []
    merge = Ranks.merge

    def timed(self: Ranks, *given: Any) -> Any:
        start = time.perf_counter()
        try:
            return merge(self, *given)
        finally:
            taken.append(time.perf_counter() - start)

    Ranks.merge = timed  # type: ignore[method-assign, assignment]
    times: dict[bool, list[float]] = {True: [], False: []}
    with sigprop.attach(model, training.optimizer, every=2, strict=True) as probe:
        for step in range(2 * steps):
            start = time.perf_counter()
            training.step()
            times[step % 2 == 0].append(time.perf_counter() - start)
        collectives, sent = probe.traffic
        rows = probe.records.signals
    if dist.get_rank() == 0:
        last = rows[rows["step"] == rows["step"].max()]
        channels = int(last["channels"].sum())
        size = 48 + 72 * channels + 48 * len(last)
        found = {
            "subject": name,
            "ranks": dist.get_world_size(),
            "taps": len(last),
            "channels": channels,
            "parameters": sum(p.numel() for p in training.model.parameters()),
            "collectives a step": 4,
            "collectives once": collectives - 4 * steps,
            "bytes a step": size,
            "bytes once": sent - steps * size,
            "bare ms": 1e3 * statistics.median(times[False][1:]),
            "recorded ms": 1e3 * statistics.median(times[True][1:]),
            "merging ms": 1e3 * statistics.median(taken[1:]),
        }
        Path(file).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def measure(steps: int) -> pd.DataFrame:
    """Return a row for each network and number of ranks."""
    found = []
    for name in NAMES:
        for size in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                file = str(Path(folder) / "found.json")
                command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
                command += [f"--nproc-per-node={size}", "-m", "benchmarks.ranks"]
                command += ["--rank", name, "--steps", str(steps), "--output", file]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
                found.append(json.loads(Path(file).read_text()))
    return pd.DataFrame(found)


def write(folder: Path, table: pd.DataFrame) -> None:
    """Write the table and a page about it."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "ranks.csv", index=False, float_format="%.5g", lineterminator="\n")
    two = table[table["ranks"] == 2].assign(
        share=lambda t: t["merging ms"] / t["recorded ms"],
        seconds=lambda t: 2 * (MANY - 1) / MANY * t["bytes a step"] / CARD,
    )
    columns = ["subject", "ranks", "taps", "channels", "collectives a step", "bytes a step"]
    columns += ["collectives once", "bytes once"]
    times = two[["subject", "bare ms", "recorded ms", "merging ms", "share"]]
    many = two[["subject", "bytes a step", "seconds"]].rename(columns={"seconds": "seconds a step"})
    (folder / "README.md").write_text(f"""# What merging ranks sends and takes

Made by `python -m benchmarks.ranks` on {os.cpu_count()} cores.

A recorded step sends 72 bytes a channel and 48 a tap from each rank, in three reductions behind a
meeting of 48 bytes, whatever the number of ranks; a step that is not recorded sends nothing. Once,
when taps are new, their names are sent.

{markdown(table[columns], 4)}

On two ranks, one core each, over gloo on one machine: medians of a step's time, and of the time
between a rank's arrival and the merged statistics, in which it also waits for the other rank.

{markdown(times, 4)}

A ring reduction among N ranks sends 2 (N - 1)/N times the bytes from each: among {MANY} ranks, with
10 Gbit/s each, this bound of the bandwidth (latency apart) for a recorded step:

{markdown(many, 4)}
""")


def main() -> None:
    parser = argparse.ArgumentParser(description="What merging ranks sends and takes.")
    parser.add_argument("--steps", type=int, default=20, help="recorded steps")
    parser.add_argument("--output", default="reports/ranks", help="the folder to write")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank:
        one_rank(given.rank, given.steps, given.output)
        return
    write(Path(given.output), measure(given.steps))


if __name__ == "__main__":
    main()
