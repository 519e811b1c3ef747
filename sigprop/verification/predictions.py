"""What theory predicts of recorded networks: the one bridge from a design to its recursion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sigprop.errors import BadInput
from sigprop.records import Records
from sigprop.records.queries import at_first_step, by_block
from sigprop.registry import Registry
from sigprop.theory import Kernel, Prediction, predict
from sigprop.theory.arguments import NotFinite

Design = Mapping[str, Any]
Recursion = Callable[[Design, Kernel], Prediction]

#: Network of the zoo -> its recursion, given the design and the kernel of the first block's input.
RECURSIONS: Registry[Recursion] = Registry("recursion")

#: Options on which the recursions depend -> the values they cover.
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
    """Return what theory predicts of a network's second moments, or None where it has nothing.

    There is no recursion of networks that are not of the zoo, of an activation after the addition
    (the trunk is then not Gaussian), of stages (strided shortcuts), and of zero padding.

    Args:
        design: ``"network"``, a name of the zoo, and all its options, as `networks.resolve` gives
            them and a run's manifest keeps them.
        start: second-order statistics of the first block's input.

    Raises:
        BadInput: the design lacks an option.

    Example:
        >>> from sigprop.networks import resolve
        >>> design = {"network": "plain", **resolve("plain", depth=3)}
        >>> recursion_of(design, Kernel()).second_moment.tolist()
        [1.0, 2.0, 4.0, 8.0]
    """
    name = design.get("network")
    if name not in RECURSIONS:
        return None
    try:
        return RECURSIONS[str(name)](design, start) if _covered(design) else None
    except KeyError as error:
        raise BadInput(
            f"this design of {name!r} does not say its {error.args[0]!r}; sigprop.networks.resolve "
            "gives all options"
        ) from None


def _covered(design: Design) -> bool:
    covered = all(design[name] in values for name, values in _COVERED.items() if name in design)
    bordered = design["architecture"] == "resnet" and design["padding"] != "circular"
    return covered and not bordered


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
    try:
        with np.errstate(over="ignore"):
            predicted = recursion_of(design, start) if start is not None else None
    except NotFinite:  # doubling 1100 times leaves float64: the recursion ends in no number
        return pd.DataFrame()
    if predicted is None:
        return pd.DataFrame()
    forward = {name: getattr(predicted, name)[1:] for name in _FORWARD}
    frames = [_frame(label, "forward", name, values) for name, values in forward.items()]
    back = at_first_step(by_block(signals, "second_moment", "backward"))
    last = back[back["block"] == back["block"].max()]["second_moment"]
    if len(last) and (last > 0).all():
        scale = float(np.exp(np.log(last).mean()))
        with np.errstate(over="ignore"):
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
        "depth": design["depth"],
        "layers": design["branch_layers"],
        "activation": design["activation"],
    }


@RECURSIONS.register("plain")
def _plain(design: Design, start: Kernel) -> Prediction:
    return predict("plain", **_shape(design), start=start)


@RECURSIONS.register("batchnorm")
def _batchnorm(design: Design, start: Kernel) -> Prediction:
    order = design["order"]
    return predict("batchnorm", **_shape(design), order=order, start=start)


@RECURSIONS.register("rescale")
def _rescale(design: Design, start: Kernel) -> Prediction:
    init = "he"
    if design["bias"]:
        init = "centered_he" if design["gain"] == "he" else "centered_preserving"
    shape, c = _shape(design), design["c"]
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
    return predict("skipinit", **_shape(design), gain=design["gain"], start=start)


@RECURSIONS.register("rezero")
def _rezero(design: Design, start: Kernel) -> Prediction:
    return predict("rezero", **_shape(design), start=start)


@RECURSIONS.register("scaled-weightnorm")
def _scaled_weightnorm(design: Design, start: Kernel) -> Prediction:
    return predict("weightnorm", **_shape(design), power=design["power"], start=start)


@RECURSIONS.register("unit-scaled")
def _unit_scaled(design: Design, start: Kernel) -> Prediction:
    own = {key: design[key] for key in ("residual_mult", "attn_ratio")}
    return predict("unit_scaled", **_shape(design), **own, start=start)


@RECURSIONS.register("nf-resnet")
def _nf_resnet(design: Design, start: Kernel) -> Prediction:
    shape = _shape(design)
    own = {"alpha": design["alpha"], "skip_gain": design["skip_gain"]}
    return predict("nf", **{**shape, "depth": [shape["depth"]]}, **own, start=start)


@RECURSIONS.register("mup")
def _mup(design: Design, start: Kernel) -> Prediction:
    shape = _shape(design)
    gain = design["branch"] / math.sqrt(shape["depth"])
    return predict("skipinit", **shape, gain=gain, start=start)


@RECURSIONS.register("groupnorm")
@RECURSIONS.register("layernorm")
def _layernorm(design: Design, start: Kernel) -> Prediction:
    order = design["order"]
    return predict("layernorm", **_shape(design), order=order, start=start)
