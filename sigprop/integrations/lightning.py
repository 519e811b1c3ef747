"""Lightning: a callback that attaches a probe while a model is fitted."""

from __future__ import annotations

from typing import Any

from sigprop.errors import BadInput
from sigprop.integrations.grouped import by_step, package
from sigprop.probing.probe import Probe, attach
from sigprop.records import Records, concat


def lightning_callback(log_every: int = 0, **options: Any) -> Any:
    """Return a Lightning callback that has a probe on the module while it is fitted.

    Args:
        log_every: give the trainer's loggers the recorded numbers after every so many steps, under
            the keys of `sigprop.integrations.grouped.by_step`; 0 for never.
        **options: of `sigprop.attach`; ``directory`` instead of ``log_every``. A step ends at the
            optimizer's step, of the first one where there are several.

    Returns:
        A `lightning.pytorch.Callback` with attributes ``probe`` (None before training starts) and
        ``records``.

    Raises:
        BadInput: the package ``lightning`` is not installed, or both ``log_every`` and
            ``directory`` are given.
    """
    base: Any = package("lightning.pytorch", "lightning").Callback
    if log_every and options.get("directory") is not None:
        raise BadInput(
            "log_every gives loggers the rows that wait in memory, and directory= writes them to "
            "disk; give one of them"
        )

    class ProbeCallback(base):  # type: ignore[misc]
        """A probe on a module while it is fitted; made by `lightning_callback`."""

        def __init__(self) -> None:
            self.probe: Probe | None = None
            self._logged: list[Records] = []

        @property
        def records(self) -> Records:
            """Everything recorded so far."""
            if self.probe is None:
                return Records()
            return concat([*self._logged, self.probe.records])

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            given = {"step": trainer.global_step, "scaler": scaler, **options}
            self.probe = attach(pl_module, trainer.optimizers[0], **given)

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if log_every and trainer.global_step % log_every == 0:
                self._log(trainer)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self._stop(None)
            if log_every:
                self._log(trainer)

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self._stop(exception)

        def _log(self, trainer: Any) -> None:
            if self.probe is None:
                return
            new = self.probe.drain()
            self._logged.append(new)
            for _, _, step, numbers in by_step(new):
                for logger in trainer.loggers:
                    logger.log_metrics(numbers, step=step)

        def _stop(self, error: BaseException | None) -> None:
            if self.probe is not None:
                self.probe.__exit__(None if error is None else type(error), error, None)

    return ProbeCallback()
