"""The columns of `parameters`: weights, gradients and updates."""

from __future__ import annotations

from sigprop.records.schema.column import WHERE, Column, table

_NO_GRADIENT = "NaN without a gradient"
_NO_UPDATE = "NaN without an optimizer or a gradient"

PARAMETERS = table(
    WHERE,
    Column("name", "str", "The parameter's name."),
    Column(
        "block",
        "int64",
        "Depth of the block that holds the parameter, as in signals.",
        undefined="-1 outside of every block",
    ),
    Column(
        "shape",
        "str",
        "The sizes of its axes, such as 64x3x3x3; empty for a scalar.",
        undefined="empty in runs recorded with schema 1",
    ),
    Column(
        "ndim",
        "int64",
        "Number of axes; a weight matrix or a kernel has two or more.",
        unit="axes",
        undefined="in runs recorded with schema 1: 2 where the numbers show several output units, "
        "1 where they show one, -1 where they show neither",
    ),
    Column("count", "int64", "Number of elements.", "N", "elements"),
    Column(
        "weight_norm", "float64", "Frobenius norm of the weight before the update.", "‖w‖",
        "that of w",
    ),
    Column(
        "grad_norm",
        "float64",
        "Frobenius norm of the gradient as the optimizer receives it in step: summed over "
        "micro-batches, reduced over ranks and unscaled.",
        "‖g‖",
        "that of g",
        _NO_GRADIENT,
    ),
    Column(
        "grad_to_weight",
        "float64",
        "Norm of the gradient over that of the weight, as the optimizer receives them in step.",
        "‖g‖ / ‖w‖",
        "that of g/w",
        f"{_NO_GRADIENT}, and where the weight is 0",
    ),
    Column(
        "update_to_weight",
        "float64",
        "Norm of the change that one optimizer step made over the norm of the weight before it.",
        "‖w_after - w_before‖ / ‖w_before‖",
        "1",
        f"{_NO_UPDATE}, and where the weight is 0",
    ),
    Column(
        "unit_grad_to_weight_max",
        "float64",
        "Largest ratio of gradient to weight over the output units: the ratio that adaptive "
        "gradient clipping bounds (Brock et al. 2021).",
        "max_i ‖g_i‖ / max(‖w_i‖, 0.001)",
        "that of g/w",
        _NO_GRADIENT,
    ),
    Column(
        "angular_update",
        "float64",
        "Angle between the weight before and after one optimizer step.",
        "∠(w_before, w_after)",
        "radians",
        f"{_NO_UPDATE}, and where the weight is 0",
    ),
    Column(
        "effective_lr",
        "float64",
        "Learning rate over the squared norm of the weight: the step size of a weight whose scale "
        "a normalization takes away.",
        "learning rate / ‖w‖²",
        "that of 1/w²",
        "NaN without an optimizer, and where the weight is 0",
    ),
    Column(
        "skipped",
        "bool",
        "Whether a gradient scaler left the optimizer's step out, since a gradient was not finite.",
    ),
)  # fmt: skip
