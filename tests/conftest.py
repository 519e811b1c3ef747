"""Shared set-up: modules beside the tests can be imported by name; `--quick` is half of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

#: What `pytest --quick` leaves out, and why; everything that is marked slow is left out too.
LEFT_OUT = {
    "test_any_model_pitfalls": "processes of data parallelism, compiled graphs",
    "test_any_model_real": "published architectures",
    "test_benchmarks": "timings",
    "test_claims_comparison": "measures the misprints",
    "test_claims_ledger": "every claim, twice",
    "test_claims_saboteurs": "every saboteur",
    "test_cli": "processes of the command line",
    "test_cli_errors": "processes of the command line",
    "test_cli_instruments": "trains networks",
    "test_compare": "trains networks",
    "test_compiled": "compiled graphs",
    "test_compiled_graphs": "compiled graphs",
    "test_data": "data sets read from files",
    "test_diagnosis": "networks with every fault, and healthy ones",
    "test_docstrings": "parses every file",
    "test_documents": "runs every example and every block of the README",
    "test_facts_networks": "networks measured over seeds",
    "test_networks": "builds and runs every network of the zoo",
    "test_own_network": "processes of the command line",
    "test_packaging": "builds and installs a wheel",
    "test_predictions": "networks measured over seeds",
    "test_probe_neutrality": "every habit of a model, with and without a probe",
    "test_report_browser": "opens a whole report in a browser",
    "test_report_figures": "draws every figure",
    "test_report_own": "whole reports with figures",
    "test_report_page": "whole reports with figures",
    "test_report_words": "draws figures",
    "test_run_directory": "processes that are killed, and full disks",
    "test_signals_native": "every layout and type in C and in torch",
    "test_signals_norms": "every layout and type in C and in torch",
    "test_streaming": "processes that are killed, and full disks",
    "test_sweep": "starts processes, Dask's among them",
    "test_theory_gaussian": "adaptive integrators over every activation",
    "test_theory_matrices": "simulated products of matrices",
    "test_theory_meanfield": "adaptive integrators and simulated networks",
    "test_theory_normalized": "simulated networks",
    "test_theory_residual": "every recursion at every depth",
    "test_theory_simulated": "simulated networks, many seeds",
    "test_torch_internals": "every entry, with and without it",
    "test_training": "trains networks",
    "test_verify": "networks measured over seeds",
    "test_verify_annihilation": "networks measured over seeds",
    "test_zoo_agc": "trains networks",
    "test_zoo_contract": "builds and runs every network of the zoo",
    "test_zoo_facts": "networks measured over seeds",
    "test_zoo_oracles": "runs the ablation",
    "test_zoo_rescale": "networks measured over seeds",
    "test_zoo_theory": "networks measured over seeds",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave the slow half out")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is slow when only the quick half is asked for."""
    if not config.getoption("--quick"):
        return
    left_out = [
        item
        for item in items
        if item.path.stem in LEFT_OUT or item.get_closest_marker("slow") is not None
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def pytest_terminal_summary(terminalreporter: Any) -> None:
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
