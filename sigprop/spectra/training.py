"""Spectra of weights and of their updates while a model trains."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.errors import BadInput
from sigprop.spectra.of_weights import largest_values, matrices
from sigprop.spectra.rows import Columns, frame, spectrum

if TYPE_CHECKING:
    import pandas as pd

    from sigprop.records import Records


class WeightWatch:
    """Records the singular values of every weight matrix, and of its update, at scheduled steps.

    At such a step the weights are kept before the optimizer changes them; afterwards the spectra of
    the weights before, and of the difference (``operator="update"``), are recorded. With k, the
    iteration for a large weight begins at the singular vectors of the step before, which takes
    fewer products. The optimizer's step itself is not changed.

    Args:
        model: the model; a reference to it is kept until `close`.
        optimizer: at whose steps to record.
        every: record every n-th step, or the steps for which a callable returns true.
        k: only the k largest values of each matrix; all where it is None.
        network: the name in the records.
        seed: the seed that the model was initialized from, for the records.
        step: the number of the first step, where training resumes.

    Raises:
        BadInput: the model has no weight with two axes or more, or an argument does not fit.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with WeightWatch(net, optimizer, every=2) as watch:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         net(torch.ones(4, 3)).square().mean().backward()
        ...         optimizer.step()
        >>> rows = watch.frame()
        >>> sorted(set(rows["step"])), sorted(set(rows["operator"]))
        ([0, 2], ['matrix', 'update'])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        every: int | Callable[[int], bool] = 1,
        k: int | None = None,
        *,
        network: str = "model",
        seed: int = 0,
        step: int = 0,
    ) -> None:
        if not callable(every) and (not isinstance(every, int) or every < 1):
            raise BadInput(f"every is a number of steps from 1 or a callable, not {every!r}")
        if k is not None and (not isinstance(k, int) or k < 1):
            raise BadInput(f"k is a whole number from 1, not {k!r}")
        if not dict(matrices(model)):
            raise BadInput(f"this {type(model).__name__} has no weight with two axes or more")
        self._model, self._every, self._k = model, every, k
        self._origin = {"network": network, "seed": seed}
        self.step = step
        self._before: dict[str, Tensor] = {}
        self._starts: dict[tuple[str, str], np.ndarray] = {}
        self._found: list[Columns] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._step_begins),
            optimizer.register_step_post_hook(self._step_ended),
        ]

    def _due(self) -> bool:
        if callable(self._every):
            return bool(self._every(self.step))
        return self.step % self._every == 0

    def _step_begins(self, *_: Any) -> None:
        if self._due():
            self._before = {name: weight.clone() for name, weight in matrices(self._model)}

    def _step_ended(self, *_: Any) -> None:
        for name, weight in matrices(self._model):
            if name in self._before:
                before = self._before[name]
                self._record(name, "matrix", before)
                self._record(name, "update", weight.to(torch.float64) - before.to(torch.float64))
        self._before = {}
        self.step += 1

    def _record(self, name: str, operator: str, matrix: Tensor) -> None:
        size = min(matrix.shape[0], matrix.shape[1:].numel())
        if bool(matrix.isfinite().all()):
            found = largest_values(name, matrix, self._k, self._starts.get((name, operator)))
            values = found.values
            if found.vectors.size:
                self._starts[name, operator] = found.start
        else:  # training has diverged: that is seen, not refused
            values = np.full(size, np.nan)[: self._k]
        columns = spectrum(name, operator, values, size=size)
        self._found.append({**self._origin, "step": self.step, **columns})

    def frame(self) -> pd.DataFrame:
        """Return what was recorded so far, a `spectra` frame."""
        return frame(self._found)

    def records(self) -> Records:
        """Return what was recorded so far as records, for `sigprop.report`."""
        from sigprop.records import Records, new_manifest

        origin = self._origin
        manifest = new_manifest(networks=[origin["network"]], seeds=[origin["seed"]])
        return Records(spectra=self.frame(), manifest=manifest)

    def close(self) -> None:
        """Take the hooks off the optimizer; what was recorded stays."""
        for hook in self._hooks:
            hook.remove()
        self._before = {}

    def __enter__(self) -> WeightWatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
