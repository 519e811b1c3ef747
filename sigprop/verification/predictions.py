"""What theory predicts of recorded networks: the one bridge from a design to its recursion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sigprop.records import Records
from sigprop.records.queries import at_first_step, by_block
from sigprop.registry import Registry
from sigprop.theory import Kernel, Prediction, predict

Design = Mapping[str, Any]
Recursion = Callable[[Design, Kernel], Prediction]

#: Network of the zoo -> its recursion, given the design and the kernel of the first block's input.
RECURSIONS: Registry[Recursion] = Registry("recursion")

#: Options on which the recursions depend -> the values they cover, the default first.
_COVERED: Mapping[str, tuple[object, ...]] = {
    "architecture": ("mlp", "resnet"),
    "order": ("norm-act-weight", "act-norm-weight"),
    "stages": (1,),
    "skip": (True,),
    "block": ("basic",),
    "groups": (1,),
    "post": (False,),
    "scaled": (True,),
    "drop": (0.0,),
    "stochastic_depth": (0.0,),
}

_FORWARD = ("second_moment", "channel_variance", "mean_shift")


def recursion_of(design: Design, start: Kernel) -> Prediction | None:
    """Return a network's predicted course, or None where theory has none.

    Theory is silent on networks that are not of the zoo, on an activation after the addition
    (the trunk is then not Gaussian), on stages (strided shortcuts), and on zero padding.

    Args:
        design: ``{"network": name, **options of networks.build}``.
        start: second-order statistics of the first block's input.

    Example:
        >>> design = {"network": "plain", "depth": 3}
        >>> recursion_of(design, Kernel()).second_moment.tolist()
        [1.0, 2.0, 4.0, 8.0]
    """
    name = design.get("network")
    images = design.get("architecture") == "resnet"
    covered = all(design.get(option, values[0]) in values for option, values in _COVERED.items())
    bordered = images and design.get("padding", "zeros") != "circular"
    if name not in RECURSIONS or not covered or bordered:
        return None
    return RECURSIONS[str(name)](design, start)


def predictions(records: Records) -> pd.DataFrame:
    """Return predicted values for every recorded network that has a recursion.

    The recursion starts from the measured second moment and mean shift of the first block's
    input, and, backward, from the measured gradient at the last block's output.

    Returns:
        Columns ``network, block, direction, quantity, value``, one row per block output.
    """
    designs = records.manifest.get("designs", {})
    found = [_network(records, label, design) for label, design in designs.items()]
    known = [frame for frame in found if len(frame)]
    columns = ["network", "block", "direction", "quantity", "value"]
    return pd.concat(known, ignore_index=True) if known else pd.DataFrame(columns=columns)


def start_kernel(signals: pd.DataFrame) -> Kernel | None:
    """Return the kernel of the first block's input, from one network's rows at their first step."""
    entry = at_first_step(signals[signals["direction"] == "forward"])
    entry = entry[(entry["port"] == "in") & (entry["block"] == 0)]
    second, shift = entry["second_moment"].mean(), entry["mean_shift"].mean()
    samples = float((entry["count"] / entry["channels"]).mean())
    if not len(entry) or not np.isfinite(second) or samples < 2:
        return None
    covariance = (shift - second / samples) / (1 - 1 / samples)
    return Kernel(second, min(covariance, second), samples=samples)


def _network(records: Records, label: str, design: Design) -> pd.DataFrame:
    signals = records.signals[records.signals["network"] == label]
    start = start_kernel(signals)
    predicted = recursion_of(design, start) if start is not None else None
    if predicted is None:
        return pd.DataFrame()
    forward = {name: getattr(predicted, name)[1:] for name in _FORWARD}
    frames = [_frame(label, "forward", name, values) for name, values in forward.items()]
    back = at_first_step(by_block(signals, "backward", ["second_moment"]))
    last = back[back["block"] == back["block"].max()]["second_moment"]
    if len(last) and (last > 0).all():
        scale = float(np.exp(np.log(last).mean()))
        gradient = scale * predicted.gradient_second_moment[1:]
        frames.append(_frame(label, "backward", "second_moment", gradient))
    return pd.concat(frames, ignore_index=True)


def _frame(label: str, direction: str, quantity: str, values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "network": label,
            "block": np.arange(len(values)),
            "direction": direction,
            "quantity": quantity,
            "value": values,
        }
    )


def _shape(design: Design) -> dict[str, Any]:
    return {
        "depth": design.get("depth", 20),
        "layers": design.get("branch_layers", 2),
        "activation": design.get("activation", "relu"),
    }


@RECURSIONS.register("plain")
def _plain(design: Design, start: Kernel) -> Prediction:
    return predict("plain", **_shape(design), start=start)


@RECURSIONS.register("batchnorm")
def _batchnorm(design: Design, start: Kernel) -> Prediction:
    order = design.get("order", "norm-act-weight")
    return predict("batchnorm", **_shape(design), order=order, start=start)


@RECURSIONS.register("rescale")
def _rescale(design: Design, start: Kernel) -> Prediction:
    init = "he"
    if design.get("bias", True):
        init = "centered_he" if design.get("gain") == "he" else "centered_preserving"
    shape, c = _shape(design), design.get("c")
    c = shape["depth"] - 1 if c == "official" else c
    return predict("rescale", **shape, c=c, init=init, start=start)


@RECURSIONS.register("batchnorm-last")
def _batchnorm_last(design: Design, start: Kernel) -> Prediction:
    return predict("plain", **_shape(design), start=start)


@RECURSIONS.register("fixup")
def _fixup(design: Design, start: Kernel) -> Prediction:
    return predict("fixup", **_shape(design), start=start)


@RECURSIONS.register("skipinit")
def _skipinit(design: Design, start: Kernel) -> Prediction:
    return predict("skipinit", **_shape(design), gain=design.get("gain", 0.0), start=start)


@RECURSIONS.register("rezero")
def _rezero(design: Design, start: Kernel) -> Prediction:
    return predict("rezero", **_shape(design), start=start)


@RECURSIONS.register("scaled-weightnorm")
def _scaled_weightnorm(design: Design, start: Kernel) -> Prediction:
    return predict("weightnorm", **_shape(design), power=design.get("power", 0.5), start=start)


@RECURSIONS.register("unit-scaled")
def _unit_scaled(design: Design, start: Kernel) -> Prediction:
    own = {key: design.get(key, 1.0) for key in ("residual_mult", "attn_ratio")}
    return predict("unit_scaled", **_shape(design), **own, start=start)


@RECURSIONS.register("nf-resnet")
def _nf_resnet(design: Design, start: Kernel) -> Prediction:
    shape = _shape(design)
    own = {"alpha": design.get("alpha", 0.2), "skip_gain": design.get("skip_gain", 1.0)}
    return predict("nf", **{**shape, "depth": [shape["depth"]]}, **own, start=start)


@RECURSIONS.register("mup")
def _mup(design: Design, start: Kernel) -> Prediction:
    shape = _shape(design)
    gain = design.get("branch", 1.0) / math.sqrt(shape["depth"])
    return predict("skipinit", **shape, gain=gain, start=start)


@RECURSIONS.register("groupnorm")
@RECURSIONS.register("layernorm")
def _layernorm(design: Design, start: Kernel) -> Prediction:
    order = design.get("order", "norm-act-weight")
    return predict("layernorm", **_shape(design), order=order, start=start)
