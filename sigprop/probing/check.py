"""Looks at a model before training: what a probe will see of it, what not, and why."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sigprop.capture import Blocks
from sigprop.capture.model.blocks import Choice
from sigprop.capture.model.naming import bare
from sigprop.capture.torch_internals import compiled
from sigprop.errors import BadInput, ProbeWarning
from sigprop.inputs.calling import Loss, backward, call, split_batch
from sigprop.inputs.devices import Device, kept_random_state, moved, placed, resolve_device
from sigprop.inputs.factories import copied
from sigprop.probing.check_rows import BLIND, check_table
from sigprop.probing.check_tree import tree
from sigprop.probing.learning import learned
from sigprop.probing.options import check_model
from sigprop.probing.probe import attach
from sigprop.probing.watching import Watch
from sigprop.records import Records
from sigprop.torch_version import RUN_EAGERLY

if TYPE_CHECKING:  # loaded with the first frame, see `records`
    import pandas as pd

_FUSED_NOTE = (
    "{n} TransformerEncoderLayers: watched without hooks of their own, so that PyTorch may still "
    "fuse them in evaluation; their inside is then read from outside only"
)
_COMPILED_NOTE = (
    "the model is compiled, and this check looked at an uncompiled copy: inside graphs, additions "
    "and rectifiers that are no modules are not seen; to see them, run the steps to record "
    f"{RUN_EAGERLY}"
)
_NO_GRADIENT_NOTE = "no gradient comes back: nothing in this model requires one"
_NO_LOSS_NOTE = "no output fits the targets, so a random gradient was sent back instead"
_CHOICE = (
    "{count} blocks were chosen by {seen} ({some}): {why}. To choose others give blocks='leaves', "
    "globs over the names in the first column such as blocks='layers.*', or a function of name and "
    "module"
)
_SUM_NOTE = (
    "{names}: the input goes into {how}, which is not read as a residual addition: no skip and "
    "branch; write it as x + f(x) to have them"
)


@dataclass(frozen=True)
class Check:
    """What a probe will see of a model.

    Attributes:
        tree: the modules in execution order with what was chosen as blocks, one line each.
        table: one row per module and function: name, type, block, status (block, inside a block,
            outside, function, container, alias, shared, not called, not callable, blind), the
            ports that are read, calls, output shape, parameters, gradient, reason, fallback.
        notes: what would slow training down or differ, one sentence each.
        records: what was recorded on the way.
        chosen: which blocks were chosen automatically, why, and how to choose others; else empty.
        blocks: the blocks as `attach` takes them: those that a forward pass showed, where they were
            chosen automatically, which a probe cannot know before there was one.
    """

    tree: str
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    records: Records = field(default_factory=Records, repr=False)
    chosen: str = ""
    blocks: Blocks = field(default="auto", repr=False)

    @property
    def blind(self) -> pd.DataFrame:
        """The rows of modules with parameters of which nothing will be seen."""
        return self.table[self.table["status"].isin(BLIND)]

    def __str__(self) -> str:
        """Return the tree, why these blocks, the notes, and why anything stays unseen."""
        lines = [self.tree, *([self.chosen] if self.chosen else ())]
        lines += [f"note: {note}" for note in self.notes]
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
        loss: ``(output, targets) -> scalar``; as in `measure` when not given, and a random
            gradient where no output fits the targets.
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
    watch = Watch(twin)
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ProbeWarning)
        blocks = learned(twin, batch, blocks, chosen)
        probe = attach(twin, blocks=blocks, ranks="own")
        with kept_random_state(chosen), probe, torch.enable_grad():
            with watch:
                output = call(twin, batch)
            notes += _sent_back(output, wanted, loss)
    notes += [str(w.message) for w in caught if issubclass(w.category, ProbeWarning)]
    if any(compiled(m) for m in model.modules()):
        notes.append(_COMPILED_NOTE)
    fused = sum(isinstance(m, nn.TransformerEncoderLayer) for m in twin.modules())
    if fused:
        notes.append(_FUSED_NOTE.format(n=fused))
    records = probe.records
    table = check_table(twin, records, watch)
    notes += _other_sums(table, watch)
    read = records.signals["count"]
    notes.append(f"a recorded step reads {len(read)} tensors with {read.sum():,} elements in all")
    shown = tree(table, type(twin).__name__)
    return Check(shown, table, notes, records, _why_these(blocks, table), blocks)


def _sent_back(output: Any, targets: Any, loss: Loss | None) -> list[str]:
    """Send a gradient back.

    Returns:
        A note when there is none, or not that of the targets.

    Raises:
        BadInput: the loss that was given cannot be computed, or the output holds no tensor.
    """
    try:
        return [] if backward(output, targets, loss, seed=0) else [_NO_GRADIENT_NOTE]
    except BadInput:
        if loss is not None or targets is None:
            raise
    backward(output, None, None, seed=0)
    return [_NO_LOSS_NOTE]


def _why_these(blocks: Blocks, table: pd.DataFrame) -> str:
    """Return why these blocks were chosen, where they were automatically, and how to others."""
    if not isinstance(blocks, Choice):
        return ""
    names = [str(name) for name in table[table["block"]]["name"]]
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    seen = "a forward pass" if blocks.from_calls else "the classes of modules"
    return _CHOICE.format(count=len(names), some=some, why=blocks.reason, seen=seen)


def _other_sums(table: pd.DataFrame, watch: Watch) -> list[str]:
    """Return a note per way to combine input and branch that shows no ports, with the blocks."""
    blocks = table[table["block"] & ~table["ports"].str.contains("branch")]["name"]
    found: dict[str, list[str]] = {}
    for name in blocks:
        for how in sorted(watch.sums.get(name, ())):
            found.setdefault(how, []).append(str(name))
    return [
        _SUM_NOTE.format(names=", ".join(names[:3]) + (", ..." if len(names) > 3 else ""), how=how)
        for how, names in found.items()
    ]
