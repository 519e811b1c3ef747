"""Everything with one command.

Run: python -m benchmarks [--quick] [--output FOLDER] [--redraw]

`--quick` says in a minute or two whether all of it works, not what it costs; its default folder is
runs/benchmarks. `--redraw` makes the figures and the page again from the tables.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd
import torch

from benchmarks import figure, growth, memory, offstep, overhead, page, taps
from benchmarks.tools import TOOLS
from sigprop.report.canvas import save

TABLES = ("machine", "overhead", "offstep", "growth", "memory", "taps")


def measure(quick: bool) -> dict[str, pd.DataFrame]:
    """Return every table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = page.machine(device)
    return {
        "machine": pd.DataFrame({"fact": list(facts), "value": list(facts.values())}),
        "taps": taps.main(device, 0.3 if quick else 2.0),
        "offstep": offstep.main(device, 3.0 if quick else 25.0),
        "memory": memory.main(quick),
        "growth": growth.main(device, 0.3 if quick else 3.0, quick),
        "overhead": overhead.main(device, quick),
    }


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
    facts = tables.pop("machine").set_index("fact")["value"].to_dict()
    page.write(folder, facts, tables)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a probe costs, beside its peers.")
    parser.add_argument("--quick", action="store_true", help="a few rounds of everything")
    parser.add_argument("--output", type=Path, help="the folder to write")
    parser.add_argument("--redraw", action="store_true", help="figures and page only")
    given = parser.parse_args()
    folder = given.output or Path("runs/benchmarks" if given.quick else "reports/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    if not given.redraw:
        # Two cores shared with anything else would time that; one thread is what all tools get.
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"
        for name, table in measure(given.quick).items():
            table.to_csv(
                folder / f"{name}.csv", index=False, float_format="%.5g", lineterminator="\n"
            )
    draw(folder)
    print("written:", folder)


if __name__ == "__main__":
    main()
