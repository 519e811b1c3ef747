"""OpenMetrics: the last step's numbers as gauges in a text file, for Prometheus' node exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sigprop.diagnosis.finding import SEVERITIES, Findings
from sigprop.integrations.grouped import NO_FINDINGS, by_step, package
from sigprop.records import Records, atomic_write

_LABELS = ("network", "seed", "of", "name")


def write_openmetrics(records: Records, path: str | Path, findings: Findings = NO_FINDINGS) -> None:
    """Write the numbers of each network's last step as gauges ``sigprop_second_moment{...}``.

    The file is replaced as a whole, so that a collector never reads half of it.

    Args:
        records: as of `sigprop.integrations.grouped.by_step`.
        path: of the file, ``*.prom`` for the node exporter's textfile collector.
        findings: of `sigprop.diagnose`, counted by severity.

    Raises:
        BadInput: the package ``prometheus_client`` is not installed.
        RunError: the file cannot be written.
    """
    client = package("prometheus_client", "openmetrics")
    registry = client.CollectorRegistry()
    gauges: dict[str, Any] = {}

    def gauge(name: str, about: str, labels: tuple[str, ...]) -> Any:
        if name not in gauges:
            gauges[name] = client.Gauge(name, about, labels, registry=registry)
        return gauges[name]

    last = {(network, seed): one for one in by_step(records) for network, seed in [one[:2]]}
    for network, seed, step, numbers in last.values():
        gauge("sigprop_step", "The step of these numbers.", ("network", "seed")).labels(
            network, seed
        ).set(step)
        for key, number in numbers.items():
            of, column, name = (*key.split("/", 2), "")[:3]
            about = f"The number {column!r} of sigprop's records."
            gauge(f"sigprop_{column}", about, _LABELS).labels(network, seed, of, name).set(number)
    for severity in SEVERITIES:
        count = sum(one.severity == severity for one in findings)
        about = "Findings of sigprop.diagnose."
        gauge("sigprop_findings", about, ("severity",)).labels(severity).set(count)
    text = package("prometheus_client.openmetrics.exposition", "openmetrics").generate_latest(
        registry
    )
    atomic_write(Path(path), lambda temporary: temporary.write_bytes(text))
