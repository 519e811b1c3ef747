"""What theory predicts of recorded networks: the bridge from settings to a recursion."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sigprop.errors import BadInput
from sigprop.records import Records
from sigprop.records.queries import at_first_step, by_block
from sigprop.theory import Kernel, Prediction
from sigprop.theory.arguments import NotFinite
from sigprop.verification.recursions import RECURSIONS
from sigprop.verification.settings import NoTheory, Settings

__all__ = ["RECURSIONS", "NoTheory", "predictions", "recursion_of", "start_kernel"]

_FORWARD = ("second_moment", "channel_variance", "mean_shift")


def recursion_of(settings: Settings, start: Kernel) -> Prediction:
    """Return what theory predicts of a network: its recursion over blocks.

    Args:
        settings: ``"network"``, a name of the zoo, and all its options, as `networks.resolve` gives
            them and a run's manifest keeps them.
        start: second-order statistics of the first block's input.

    Raises:
        NoTheory: a part of it has no theory; the message says which.
        BadInput: the settings lack an option.

    Example:
        >>> from sigprop.networks import resolve
        >>> settings = {"network": "plain", **resolve("plain", depth=3)}
        >>> recursion_of(settings, Kernel()).second_moment.tolist()
        [1.0, 2.0, 4.0, 8.0]
    """
    name = str(settings.get("network", ""))
    if name not in RECURSIONS:
        raise NoTheory(f"theory has no recursion for {name or 'a network that is not of the zoo'}")
    try:
        return RECURSIONS[name](settings, start)
    except KeyError as error:
        raise BadInput(
            f"these settings of {name!r} do not say {error.args[0]!r}; sigprop.networks.resolve "
            "gives all options"
        ) from None


def predictions(records: Records) -> pd.DataFrame:
    """Return predicted values for every recorded network that has a recursion.

    The recursion starts from the measured second moment and mean shift of the first block's
    input, and, backward, from the measured gradient at the last block's output.

    Returns:
        Columns ``network, block, direction, quantity, value``, one row per block output.
    """
    designs = records.manifest.get("designs", {})
    found = [_network(records, label, settings) for label, settings in designs.items()]
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


def _network(records: Records, label: str, settings: Settings) -> pd.DataFrame:
    signals = records.signals[records.signals["network"] == label]
    start = start_kernel(signals)
    if start is None:
        return pd.DataFrame()
    try:
        with np.errstate(all="ignore"):
            predicted = recursion_of(settings, start)
    except (NoTheory, NotFinite, OverflowError):
        return pd.DataFrame()
    if not np.isfinite(predicted.second_moment).all():  # doubling 1100 times leaves float64
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
