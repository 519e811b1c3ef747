"""The table of a check: for every module, whether it is a block, what is read of it, or why not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parameter import is_lazy

from sigprop.capture.model.blocks import CONTAINER, EXPORTED, SCRIPTED
from sigprop.capture.model.naming import ROOT, modules
from sigprop.capture.recording.coverage import BYPASSED, COMPILED, FUSED
from sigprop.probing.watching import Watch
from sigprop.records import Records
from sigprop.torch_version import RUN_EAGERLY

if TYPE_CHECKING:  # loaded with the first frame, see `records`
    import pandas as pd

#: Why something is blind -> what is done, or can be done, about it.
FALLBACKS = {
    BYPASSED: "its weights are read as parameters; its output is that of the attention",
    COMPILED: f"run the steps to record {RUN_EAGERLY}",
    SCRIPTED: "read from outside where a module around it is a block",
    EXPORTED: "read from outside: the whole model's inputs and outputs, and its weights",
    FUSED: "read from outside; with gradients or in training its inside is read too",
}

#: Statuses of modules with weights of which nothing is seen.
BLIND = ("blind", "not callable")

_COLUMNS = (
    "name",
    "type",
    "block",
    "status",
    "ports",
    "calls",
    "output",
    "parameters",
    "gradient",
    "reason",
    "fallback",
)


def check_table(model: nn.Module, records: Records, watch: Watch) -> pd.DataFrame:
    """Return one row per module and function, in execution order.

    Args:
        model: the copy that was run.
        records: what a probe recorded of it.
        watch: what was seen from outside.
    """
    import pandas as pd

    seen = _Seen(model, records, watch)
    rows = [seen.row(row) for row in records.coverage.to_dict("records")]
    order = [_first_call(str(row["name"]), watch.order) for row in rows]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return table.iloc[sorted(range(len(rows)), key=order.__getitem__)].reset_index(drop=True)


class _Seen:
    """What is known of a model after one pass."""

    def __init__(self, model: nn.Module, records: Records, watch: Watch) -> None:
        self._modules = dict(modules(model))
        self._watch, self._signals = watch, records.signals
        coverage = records.coverage
        self._called = set(coverage[coverage["calls"] > 0]["name"])
        from sigprop.records.queries import own_rows  # loads pandas

        own = own_rows(records.signals)
        own = own[own["port"].isin(["in", "out"])]
        self._blocks = set(own["module"]) & set(self._modules)
        self._read_weights = {
            id(p) for name in self._called for p in _own_weights(self._modules.get(name))
        }

    def row(self, row: Any) -> dict[str, Any]:
        name, module = row["name"], self._modules.get(row["name"])
        status = self._status(name, row, module)
        reason = _REASONS.get(status, row["reason"])
        if status == "container" and row["reason"] != CONTAINER:
            reason = "its modules are called one by one"
        return {
            **{key: row[key] for key in ("name", "type", "calls", "gradient")},
            "block": name in self._blocks,
            "status": status,
            "ports": _ports(self._signals, row),
            "output": self._watch.shapes.get(name, ""),
            "parameters": _weights(module),
            "reason": reason,
            "fallback": FALLBACKS.get(row["reason"], ""),
        }

    def _status(self, name: str, row: Any, module: nn.Module | None) -> str:
        if module is None:
            return "function" if row["type"] == "function" else "alias"
        if name in self._blocks:
            return "block"
        if row["reason"] == CONTAINER:
            return "container"
        if row["reason"] == BYPASSED:
            return "not callable"
        inside = any(_holds(block, name) for block in self._blocks)
        if row["calls"]:
            return "inside a block" if inside else "outside"
        return self._uncalled(name, module, inside)

    def _uncalled(self, name: str, module: nn.Module, inside: bool) -> str:
        """Return the status of a module that was never called itself."""
        own = list(_own_weights(module))
        if own and all(id(p) in self._read_weights for p in own):
            return "shared"
        if not own and any(other.startswith(f"{name}.") for other in self._called):
            return "container"
        if next(module.parameters(), None) is not None:
            return "blind"
        return "inside a block" if inside else "not called"


#: What stands as the reason of a status that coverage does not know.
_REASONS = {
    "shared": "never called; another module with the same weights is",
    "not called": "never called, and without weights",
}


def _own_weights(module: nn.Module | None) -> Iterable[nn.Parameter]:
    return () if module is None else module.parameters(recurse=False)


def _weights(module: nn.Module | None) -> int:
    if module is None:
        return 0
    return sum(0 if is_lazy(p) else p.numel() for p in module.parameters())


def _first_call(name: str, order: dict[str, int]) -> int:
    """Return a module's position in execution order; a container's is that of its first module."""
    name = name.partition(":")[0]
    within = (position for other, position in order.items() if other.startswith(f"{name}."))
    return order.get(name, min(within, default=len(order)))


def _ports(signals: pd.DataFrame, row: Any) -> str:
    """Return what is read of a module or function: ``"in skip branch (2x) out"``."""
    if not row["recorded"]:
        return ""
    rows = signals[(signals["direction"] == "forward") & (signals["module"] == row["name"])]
    own = rows[rows["kind"].isin(["block", "leaf", "addition"])]
    rows = own if len(own) else rows  # those of a rectifier inside a block
    counts = dict(rows.groupby("port")["call"].nunique())
    if row["type"] == "function":  # of one forward pass
        counts = {"out": row["calls"]}
    return " ".join(
        port + (f" ({counts[port]}x)" if counts[port] > 1 else "")
        for port in ("in", "skip", "branch", "out")
        if port in counts
    )


def _holds(block: str, name: str) -> bool:
    return name.startswith(f"{block}.") or (block == ROOT and name != ROOT)
