"""Looks at a model before training: what a probe will see of it, what not, and why."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sigprop.capture import Blocks
from sigprop.capture.model.naming import ROOT, bare, modules
from sigprop.capture.model.nested import tensors
from sigprop.capture.recording.coverage import BYPASSED, COMPILED, FUSED, SCRIPTED
from sigprop.capture.torch_internals import compiled
from sigprop.errors import ProbeWarning
from sigprop.inputs.calling import Loss, backward, call, split_batch
from sigprop.inputs.devices import Device, kept_random_state, moved, placed, resolve_device
from sigprop.inputs.factories import copied
from sigprop.probing.options import check_model
from sigprop.probing.probe import attach
from sigprop.records import Records
from sigprop.torch_version import RUN_EAGERLY

if TYPE_CHECKING:  # loaded with the first frame, see `records`
    import pandas as pd

#: Why something is blind -> what is done, or can be done, about it.
FALLBACKS = {
    BYPASSED: "its weights are read as parameters; its output is that of the attention",
    COMPILED: f"run the steps to record {RUN_EAGERLY}",
    SCRIPTED: "read from outside where a module around it is a block",
    FUSED: "read from outside; with gradients or in training its inside is read too",
}
_FUSED_NOTE = (
    "{n} TransformerEncoderLayers: watched without hooks of their own, so that PyTorch may still "
    "fuse them in evaluation; their inside is then read from outside only"
)
_COMPILED_NOTE = (
    "the model is compiled, and this check looked at an uncompiled copy: inside graphs, additions "
    "and rectifiers that are no modules are not seen; to see them, run the steps to record "
    f"{RUN_EAGERLY}"
)
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


@dataclass(frozen=True)
class Check:
    """What a probe will see of a model.

    Attributes:
        tree: the modules in execution order with what was chosen as blocks, one line each.
        table: one row per module and function: name, type, block, status (block, inside a block,
            outside, function, container, alias, not callable, blind), the ports that are read,
            calls, output shape, parameters, gradient, reason, fallback.
        notes: what would slow training down or differ, one sentence each.
        records: what was recorded on the way.
    """

    tree: str
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    records: Records = field(default_factory=Records, repr=False)

    @property
    def blind(self) -> pd.DataFrame:
        """The rows of modules with parameters of which nothing will be seen."""
        return self.table[self.table["status"].isin(["blind", "not callable"])]

    def __str__(self) -> str:
        """Return the tree, the notes, and why anything stays unseen."""
        lines = [self.tree, *(f"note: {note}" for note in self.notes)]
        for row in self.blind.to_dict("records"):
            tail = f" Instead: {row['fallback']}." if row["fallback"] else ""
            lines.append(f"{row['status']}: {row['name']} ({row['type']}): {row['reason']}.{tail}")
        return "\n".join(lines)


def check(
    model: nn.Module,
    inputs: object,
    targets: object = None,
    loss: Loss | None = None,
    *,
    blocks: Blocks = "auto",
    device: Device = "auto",
) -> Check:
    """Send one batch forward and back through a copy of a model and say what a probe sees.

    Args:
        model: the model; it is not touched.
        inputs: a tensor, tuple, dict, or a DataLoader whose first batch is used.
        targets: what the loss compares with.
        loss: ``(output, targets) -> scalar``; as in `measure` when not given.
        blocks: what to record, as in `attach`.
        device: where to compute, as in `measure`; a model on an accelerator stays there.

    Returns:
        The tree, a table with one row per module, and notes.

    Raises:
        UnknownName: a glob matches no module.
        BadInput: the model cannot be copied or probed, or does not take the inputs.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> seen = check(model, torch.ones(5, 3))
        >>> seen.table["status"].tolist()
        ['outside', 'block', 'block', 'block']
        >>> len(seen.blind)
        0
    """
    check_model(model)
    chosen = resolve_device(device, model)
    batch, wanted = moved(split_batch(inputs, targets), chosen)
    twin = placed(copied(bare(model)), chosen)
    watch = _Watch()
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ProbeWarning)
        probe = attach(twin, blocks=blocks)
        with kept_random_state(chosen), probe, torch.enable_grad(), watch.on(twin):
            output = call(twin, batch)
            if not backward(output, wanted, loss, seed=0):
                told.append("no gradient comes back: nothing in this model requires one")
    told += [str(w.message) for w in caught if issubclass(w.category, ProbeWarning)]
    if any(compiled(m) for m in model.modules()):
        told.append(_COMPILED_NOTE)
    fused = sum(isinstance(m, nn.TransformerEncoderLayer) for m in twin.modules())
    if fused:
        told.append(_FUSED_NOTE.format(n=fused))
    read = probe.records.signals["count"]
    told.append(f"a recorded step reads {len(read)} tensors with {read.sum():,} elements in all")
    table = _table(twin, probe.records, watch)
    return Check(_tree(table, type(twin).__name__), table, told, probe.records)


class _Watch:
    """Notes the order of first calls and the shapes of outputs; global, so that nothing changes."""

    def __init__(self) -> None:
        self.order: dict[str, int] = {}
        self.shapes: dict[str, str] = {}
        self._names: dict[int, str] = {}
        self._handles: list[Any] = []

    def on(self, model: nn.Module) -> _Watch:
        """Watch these modules."""
        self._names = {id(module): name for name, module in modules(model)}
        return self

    def __enter__(self) -> None:
        register: Callable[..., Any] = nn.modules.module.register_module_forward_pre_hook
        self._handles = [
            register(self._before),
            nn.modules.module.register_module_forward_hook(self._after),
        ]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, _: object) -> None:
        name = self._names.get(id(module))
        if name is not None:
            self.order.setdefault(name, len(self.order))

    def _after(self, module: nn.Module, _: object, output: object) -> None:
        name = self._names.get(id(module))
        if name is not None:
            first = next((x for _, x in tensors(output)), None)
            self.shapes.setdefault(name, "" if first is None else str(list(first.shape)))


def _table(model: nn.Module, records: Records, watch: _Watch) -> pd.DataFrame:
    import pandas as pd

    from sigprop.records.queries import own_rows

    everything = dict(modules(model))
    blocks = set(own_rows(records.signals)["module"])
    rows = [
        _row(row, everything, blocks, records, watch) for row in records.coverage.to_dict("records")
    ]
    order = [_first_call(str(row["name"]), watch.order) for row in rows]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return table.iloc[sorted(range(len(rows)), key=order.__getitem__)].reset_index(drop=True)


def _row(
    row: Any, everything: dict[str, nn.Module], blocks: set[str], records: Records, watch: _Watch
) -> dict[str, Any]:
    name, module = row["name"], everything.get(row["name"])
    return {
        **{key: row[key] for key in ("name", "type", "calls", "gradient", "reason")},
        "block": name in blocks,
        "status": _status(name, row, module, blocks),
        "ports": _ports(records, row),
        "output": watch.shapes.get(name, ""),
        "parameters": _weights(module),
        "fallback": FALLBACKS.get(row["reason"], ""),
    }


def _weights(module: nn.Module | None) -> int:
    if module is None:
        return 0
    return sum(0 if is_lazy(p) else p.numel() for p in module.parameters())


def _first_call(name: str, order: dict[str, int]) -> int:
    """Return a module's place in execution order; a container's is that of its first module."""
    name = name.partition(":")[0]
    within = (place for other, place in order.items() if other.startswith(f"{name}."))
    return order.get(name, min(within, default=len(order)))


def _ports(records: Records, row: Any) -> str:
    """Return what is read of a module or function: ``"in skip branch (2x) out"``."""
    if not row["recorded"]:
        return ""
    rows = records.signals.query("direction == 'forward'")
    rows = rows[rows["module"] == row["name"]]
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


def _status(name: str, row: Any, module: nn.Module | None, blocks: set[str]) -> str:
    reason = str(row["reason"])
    if module is None:
        return "alias" if reason else "function"
    if name in blocks:
        return "block"
    if "container" in reason:
        return "container"
    if reason == BYPASSED:
        return "not callable"
    inside = any(_holds(block, name) for block in blocks)
    if not row["calls"]:
        weighs = next(module.parameters(), None) is not None
        return "blind" if weighs or not inside else "inside a block"
    return "inside a block" if inside else "outside"


def _holds(block: str, name: str) -> bool:
    return name.startswith(f"{block}.") or (block == ROOT and name != ROOT)


def _tree(table: pd.DataFrame, root: str) -> str:
    lines = [(line, row) for line, row in _lines(table, ROOT, "", root)]
    width = max(len(line) for line, _ in lines) + 2
    header = f"{'module':<{width}}{'output':<20}{'parameters':>12}  seen"
    rule = "=" * max(len(header), width + 50)
    body = [
        f"{line:<{width}}{row['output']:<20}{_count(row):>12}  {_seen(row)}".rstrip()
        for line, row in lines
    ]
    blocks = int(table["block"].sum())
    foot = f"■ {blocks} blocks, · inside a block; modules in execution order"
    return "\n".join([rule, header, rule, *body, rule, foot])


def _count(row: pd.Series) -> str:
    return f"{row['parameters']:,}" if row["parameters"] else ""


def _seen(row: pd.Series) -> str:
    if row["status"] == "block":
        return f"■ {row['ports']}"
    if row["status"] in ("inside a block", "function"):
        return f"· {row['ports']}".rstrip()
    return "" if row["status"] in ("outside", "container") else str(row["status"])


def _lines(
    table: pd.DataFrame, name: str, indent: str, label: str
) -> Iterator[tuple[str, pd.Series]]:
    """Yield the tree's lines below a module, its children in execution order."""
    row = table[table["name"] == name].iloc[0]
    yield label if name == ROOT else f"{label} ({row['type']})", row
    children = [
        str(other)
        for other, status in zip(table["name"], table["status"], strict=True)
        if status != "alias" and other != name and _parent(str(other)) == name
    ]
    for child in children:
        last = child == children[-1]
        short = child if name == ROOT and ":" not in child else child[len(name) :].lstrip(".")
        branch = f"{indent}{'└─ ' if last else '├─ '}"
        inner = indent + ("   " if last else "│  ")
        for index, (line, at) in enumerate(_lines(table, child, "", short)):
            yield (branch if index == 0 else inner) + line, at


def _parent(name: str) -> str:
    if ":" in name:
        return name.partition(":")[0]
    return name.rpartition(".")[0] or ROOT
