"""What a `torch.amp.GradScaler` multiplied the loss of the step in progress by."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprop.capture.torch_internals import scale_of, version_of


class LossScale:
    """The scale of the loss in one step, and whether the scaler went on without a step.

    A scaler that finds a gradient which is not finite leaves the optimizer's step out; its
    ``update()`` then lowers the scale. So the scale is noted when the step begins, and an update
    between two training forwards without a step in between says that the step was left out. The
    device is not waited for before `value` is asked for.

    Args:
        scaler: the scaler; None or a disabled one for a loss that is not scaled.
    """

    def __init__(self, scaler: torch.amp.GradScaler | None) -> None:
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self._noted: Tensor | float | None = None
        self._updates = 0

    def begin(self) -> None:
        """Note the scale of a step that begins."""
        if self._scaler is None:
            return
        scale = scale_of(self._scaler)
        self._updates = 0 if scale is None else version_of(scale)
        self._noted = self._scaler.get_scale() if scale is None else scale.detach().clone()

    def end(self) -> None:
        """Forget the scale: the step is over."""
        self._noted = None

    @property
    def step_skipped(self) -> bool:
        """Whether the scaler was updated since the step in progress began."""
        if self._scaler is None or self._noted is None:
            return False
        scale = scale_of(self._scaler)  # None before the first loss is scaled
        return scale is not None and version_of(scale) != self._updates

    @property
    def value(self) -> float:
        """The scale; 1 without a scaler."""
        if self._scaler is None:
            return 1.0
        return float(self._scaler.get_scale() if self._noted is None else self._noted)
