"""A model as a function of its tensors: calling it changes nothing of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from sigprop.capture.model.naming import bare
from sigprop.inputs.calling import call


class Stateless:
    """A model as a function of its parameters and inputs.

    Every call has its own copy of the buffers, so that the running statistics of a BatchNorm stay
    as they are; attention is computed in the form that has second derivatives.

    Args:
        model: the model, or what wraps it for data parallelism or compilation.

    Attributes:
        model: the bare model.
        changed: names of the buffers that any call so far would have changed.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> Stateless(layer)(torch.ones(1, 2), {"weight": torch.tensor([[3.0, 4.0]])})
        tensor([[7.]])
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = bare(model)
        self.changed: set[str] = set()

    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters, detached: they share memory with the model's own."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def __call__(self, inputs: Any, parameters: Mapping[str, Tensor] | None = None) -> Any:
        """Return the model's output.

        Args:
            inputs: a tensor, a tuple of arguments or a dict of them.
            parameters: name -> tensor, in place of the model's own; those that are absent are
                the model's own, without a gradient.

        Raises:
            BadInput: the model does not take these inputs.
        """
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        tensors = {**self.parameters(), **buffers, **(parameters or {})}

        try:
            with sdpa_kernel(SDPBackend.MATH):
                return call(_Bound(self.model, tensors), inputs)
        finally:
            for name, own in self.model.named_buffers():
                if not torch.equal(buffers[name], own):
                    self.changed.add(name)


class _Bound:
    """A model with other tensors in place of its own, called as the model is."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self._model, self._tensors = model, dict(tensors)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self._model, self._tensors, args, kwargs)
