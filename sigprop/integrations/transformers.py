"""Transformers: a callback that attaches a probe while a `Trainer` trains."""

from __future__ import annotations

from typing import Any

from sigprop.integrations.grouped import package
from sigprop.probing.probe import Probe, attach
from sigprop.records import Records


def trainer_callback(**options: Any) -> Any:
    """Return a callback of `transformers.Trainer` that has a probe on the model while it trains.

    Args:
        **options: of `sigprop.attach`, ``directory`` among them.

    Returns:
        A `transformers.TrainerCallback` with attributes ``probe`` (None before training starts) and
        ``records``.

    Raises:
        BadInput: the package ``transformers`` is not installed.
    """
    base: Any = package("transformers", "transformers").TrainerCallback

    class ProbeCallback(base):  # type: ignore[misc]
        probe: Probe | None = None

        @property
        def records(self) -> Records:
            return Records() if self.probe is None else self.probe.records

        def on_train_begin(
            self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **_: Any
        ) -> None:
            self.probe = attach(model, optimizer, **{"step": state.global_step, **options})

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.probe is not None:
                self.probe.detach()

    return ProbeCallback()
