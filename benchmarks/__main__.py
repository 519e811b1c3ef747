"""Everything with one command.

Run: python -m benchmarks [--quick] [--output FOLDER] [--only TABLE ...]

`--quick` says in a minute or two whether all of it works, not what it costs; its default folder is
runs/benchmarks. `--only overhead taps` makes these tables anew, `--only` alone none; the figures
and the page are drawn from the tables in the folder.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd
import torch

from benchmarks import alone, figure, growth, memory, operators, overhead, page, rows, spectra, taps
from benchmarks.measure import best_device
from benchmarks.tools import TOOLS
from sigprop.reporting.canvas import save

#: As many threads as PyTorch takes by itself.
THREADS = os.cpu_count() or 1

#: Table -> how to make it, given a device and whether to be quick.
TABLES: Mapping[str, Callable[[torch.device, bool], pd.DataFrame]] = {
    "machine": lambda device, quick: page.machine(device),
    "rows": lambda device, quick: rows.main(*(20, 10) if quick else ()),
    "spectra": lambda device, quick: spectra.main(quick),
    "operators": lambda device, quick: operators.main(quick),
    "taps": lambda device, quick: taps.main(device, 0.3 if quick else 2.0),
    "alone": lambda device, quick: alone.main(device, 3.0 if quick else 75.0, quick),
    "threads": lambda device, quick: alone.main(device, 3.0 if quick else 40.0, quick, THREADS),
    "memory": lambda device, quick: memory.main(quick),
    "growth": lambda device, quick: growth.main(device, 0.3 if quick else 3.0, quick),
    "overhead": lambda device, quick: overhead.main(device, quick),
}


def measure(names: Iterable[str], folder: Path, quick: bool) -> None:
    """Write the tables of these names, each as soon as it is made."""
    # Two cores shared with anything else would time that; one thread is what all tools get.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that measure apart
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        print(f"--- {name}", flush=True)
        table = TABLES[name](best_device(), quick)
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.5g", lineterminator="\n")


def draw(folder: Path) -> None:
    """Make the figures and the page from the tables in ``folder``."""
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES}
    shown = [name for name, tool in TOOLS.items() if tool.passes or "off-step" in name]
    shown = [name for name in shown if name in set(tables["overhead"]["tool"])]
    sheets = {
        "overhead": figure.overhead(tables["overhead"], shown),
        "growth": figure.growth(tables["growth"]),
    }
    for name, sheet in sheets.items():
        for kind in ("png", "svg"):
            save(sheet, kind, folder / f"{name}.{kind}")
    page.write(folder, tables)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a probe costs, beside its peers.")
    parser.add_argument("--quick", action="store_true", help="a few rounds of everything")
    parser.add_argument("--output", type=Path, help="the folder to write")
    parser.add_argument("--only", nargs="*", choices=TABLES, help="make these tables anew")
    given = parser.parse_args()
    folder = given.output or Path("runs/benchmarks" if given.quick else "reports/benchmarks")
    measure(TABLES if given.only is None else given.only, folder, given.quick)
    missing = [name for name in TABLES if not (folder / f"{name}.csv").exists()]
    if missing:
        sys.exit(f"nothing is drawn before {folder} has all tables; missing: {', '.join(missing)}")
    draw(folder)
    print("written:", folder)


if __name__ == "__main__":
    main()
