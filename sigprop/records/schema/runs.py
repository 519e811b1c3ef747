"""The columns of `coverage` and `training`: what became of each module, and how it learned."""

from __future__ import annotations

from sigprop.records.schema.column import DRAW, MODE, WHERE, Column, table

#: Code of `status` in the coverage table -> what it says of a module.
STATUS = {
    "recorded": "activations were recorded, and gradients where they were asked for",
    "not_chosen": "the module was not selected by blocks",
    "container": "chosen, and without a forward of its own: only the modules in it are called",
    "never_called": "no recorded step called it as a module",
    "called_directly": "its forward was called, and not the module, so that no hook ran",
    "no_gradient": "activations were recorded, and no gradient came",
    "scripted": "a ScriptModule takes no hooks",
    "fused": "PyTorch ran it as part of one fused function",
    "unsupported": "chosen or called, and there is nothing to read, or no way to read it",
    "failed": "the probe failed and switched itself off",
}

COVERAGE = table(
    DRAW,
    Column("name", "str", "The module's name, with ':relu' for a function in it."),
    Column("type", "str", "The module's class, or 'function'."),
    Column("recorded", "bool", "Whether at least one activation was recorded."),
    Column(
        "status",
        "str",
        "What became of the module: " + "; ".join(f"{k}: {v}" for k, v in STATUS.items()) + ".",
        undefined="empty in runs recorded with schema 1 that do not show it",
        codes=tuple(STATUS),
    ),
    Column("calls", "int64", "How often it was called in recorded steps.", unit="calls"),
    Column(
        "gradient",
        "str",
        "Whether gradients were recorded, and if not, why.",
        undefined="empty where no activation was recorded",
    ),
    Column(
        "reason",
        "str",
        "Why nothing was recorded, in words.",
        undefined="empty where something was",
    ),
)

TRAINING = table(
    WHERE,
    MODE,
    Column(
        "loss",
        "float64",
        "The training objective; in training mode before the update of that step.",
        unit="that of the loss",
        undefined="NaN where it was not logged",
    ),
    Column(
        "accuracy",
        "float64",
        "Share of the samples that were classified correctly.",
        "#{correct} / #{samples}",
        "share of samples",
        "NaN where it was not logged",
    ),
    Column(
        "learning_rate",
        "float64",
        "The optimizer's learning rate of that step.",
        "η",
        "",
        "NaN where it was not logged",
    ),
)
