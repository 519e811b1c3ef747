"""Shared set-up: helpers beside the tests can be imported by name."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def pytest_terminal_summary(terminalreporter) -> None:
    """Show what each saboteur broke and what became of the check (test_claims_saboteurs.py)."""
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for key, value in getattr(report, "user_properties", [])
        if key == "sabotage" and getattr(report, "when", "") == "call"
    ]
    if not rows:
        return
    terminalreporter.section("saboteurs: every check can fail")
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in [("claim", "saboteur", "verdict", "what shows it"), *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        terminalreporter.write_line(" | ".join([*cells, row[3]]))
