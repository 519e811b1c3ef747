"""The loss of a model on one batch as a function of its parameters. The model is only copied."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sigprop.capture.model.naming import bare
from sigprop.errors import BadInput
from sigprop.inputs.calling import Loss, call, first_line, split_batch
from sigprop.inputs.devices import (
    Device,
    kept_random_state,
    moved,
    normal,
    placed,
    resolve_device,
)
from sigprop.inputs.factories import copied
from sigprop.linear_operators import Flattened, Operator, Stateless, require_deterministic


class Objective:
    """The loss on one batch at any parameter vector; gradients and Hessian products of it.

    A vector has one entry per trainable parameter, in the order of ``named_parameters``; tied
    weights are there once. What a forward pass changes (running statistics, the power iteration of
    spectral normalization) is put back before the next one, so that every evaluation starts alike.
    A layer that is initialized from its first batch is initialized before anything is computed.

    Args:
        model: a copy of it is evaluated, in its own train or eval mode.
        loss: ``(output, targets) -> scalar``.
        batch: ``(inputs, targets)``; inputs are a tensor, tuple or dict.
        device: where to compute, as in `sigprop.measure`.
        double: compute in float64 whatever the type of the weights is.

    Attributes:
        model: the copy that is evaluated, for hooks that read it.
        batch: ``(inputs, targets)``, on the device.
        names: of the trainable parameters.
        start: the parameter vector of the model, shape (n,).
        start_gradient: the gradient there, shape (n,).

    Raises:
        BadInput: the batch is no pair, a weight or the loss is not finite, nothing is trainable,
            the loss is no scalar or does not depend on the parameters, or its gradient
            differs when it is computed again (dropout).

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> objective = Objective(layer, nn.functional.mse_loss, (torch.eye(2), torch.ones(2, 1)))
        >>> objective.names, len(objective.start)
        (['weight'], 2)
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batch: object,
        device: Device = "auto",
        *,
        double: bool = False,
    ) -> None:
        inputs, targets = _pair(batch)
        own = bare(model)  # a compiled graph has no second derivative
        chosen = resolve_device(device, own)
        self.model = placed(copied(own), chosen)
        self._loss = loss
        self.batch = moved((inputs, targets), chosen)
        if double:
            self.model.double()
            self.batch = _in_double(self.batch)
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.names = list(trainable)
        self._parameters = list(trainable.values())
        if not self._parameters:
            raise BadInput("no parameter of this model requires a gradient")
        _check_weights(self.model)
        self._order = Flattened(self._parameters)
        self.start = self._read()
        self._buffers = self._saved_buffers()
        require_deterministic(
            self._gradient_here, Stateless(self.model), "the gradient", batch_statistics=True
        )

    @property
    def size(self) -> int:
        """Number of trainable parameters."""
        return len(self.start)

    def with_batch(self, batch: tuple[Any, Any]) -> Objective:
        """Return the loss on another batch, at the same weights and with the same copy."""
        other = copy.copy(self)
        other.batch = batch
        return other

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Return a vector as one tensor per parameter."""
        return dict(zip(self.names, self._order.tensors(vector), strict=True))

    def value(self, at: Tensor | None = None) -> float:
        """Return the loss.

        Args:
            at: a parameter vector; the model's own when not given.
        """
        with self._at(at), torch.no_grad():
            return float(self._evaluate())

    def gradient(self, at: Tensor | None = None) -> Tensor:
        """Return the gradient of the loss, shape (n,); 0 where the loss does not depend.

        Args:
            at: a parameter vector; the model's own when not given.
        """
        with self._at(at), torch.enable_grad():
            return self._flat(torch.autograd.grad(self._evaluate(), self._parameters, **_UNUSED))

    def hessian(self) -> Operator:
        """Return the Hessian at the model's own parameters, by its products.

        The graph of the gradient is built once and kept while the operator lives; the parameters
        must not be moved meanwhile. One product costs about two gradients (Pearlmutter 1994).

        Raises:
            BadInput: the loss cannot be differentiated twice; by a product too.
        """
        # recurrent layers of cuDNN and fused attention have no second derivative
        plain = torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH)
        with self._at(None), torch.enable_grad(), plain[0], plain[1]:
            loss = self._evaluate()
            first = torch.autograd.grad(loss, self._parameters, create_graph=True, **_UNUSED)
        curved = [g is not None and g.requires_grad for g in first]

        def product(vector: Tensor) -> Tensor:
            slopes = list(compress(first, curved))
            if not slopes:  # a loss that is linear in the parameters
                return torch.zeros_like(self.start)
            along = list(compress(self._order.tensors(vector), curved))
            try:
                second = torch.autograd.grad(
                    slopes, self._parameters, along, retain_graph=True, **_UNUSED
                )
            except RuntimeError as error:
                raise BadInput(_NOT_TWICE.format(reason=first_line(error))) from error
            return self._flat(second)

        shape = (self.size, self.size)
        operator = Operator(
            "the Hessian", shape, product, None, self.start.dtype, self.start.device
        )
        _require_symmetric(operator, loss)
        return operator

    def calling_order(self) -> dict[str, int]:
        """Return the modules that a forward pass calls, by name, in the order of first calls."""
        order: dict[str, int] = {}

        def note(name: str, _: nn.Module, __: tuple[Any, ...]) -> None:
            order.setdefault(name, len(order))

        handles = [
            module.register_forward_pre_hook(partial(note, name))
            for name, module in self.model.named_modules()
        ]
        try:
            self.value()
        finally:
            for handle in handles:
                handle.remove()
        return order

    def _evaluate(self) -> Tensor:
        inputs, targets = self.batch
        output = call(self.model, inputs)
        try:
            loss = self._loss(output, targets)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise BadInput(
                f"the loss cannot be computed from the model's output: {first_line(error)}"
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise BadInput(
                f"the loss must be a scalar, got {found}; reduce it, as with loss(...).mean()"
            )
        return loss.reshape(())

    @contextmanager
    def _at(self, vector: Tensor | None) -> Iterator[None]:
        """Move the copy to a parameter vector; random numbers are put back at the end."""
        with torch.inference_mode(False), kept_random_state(self.start.device):
            self._restore(self.start if vector is None else vector.to(self.start))
            yield

    @torch.no_grad()
    def _restore(self, vector: Tensor) -> None:
        """Write a parameter vector and the saved buffers into the copy."""
        for p, part in zip(self._parameters, self._order.tensors(vector), strict=True):
            p.copy_(part)
        for buffer, saved in self._buffers:
            buffer.copy_(saved)

    def _read(self) -> Tensor:
        return self._order.vector([p.detach() for p in self._parameters])

    def _flat(self, parts: Sequence[Tensor | None]) -> Tensor:
        filled = [
            torch.zeros_like(p) if part is None else part.detach()
            for p, part in zip(self._parameters, parts, strict=True)
        ]
        return self._order.vector(filled)

    def _saved_buffers(self) -> list[tuple[Tensor, Tensor]]:
        return [(buffer, buffer.clone()) for buffer in self.model.buffers()]

    def _gradient_here(self) -> Tensor:
        """Return the gradient at the start, and keep it; the random state is not put back.

        A layer that is set from its first batch has changed its parameters in that pass: they are
        the start from then on.

        Raises:
            BadInput: the loss does not depend on the parameters, or is not finite.
        """
        with torch.inference_mode(False), torch.enable_grad():
            self._restore(self.start)
            loss = self._evaluate()
            if not loss.requires_grad:
                raise BadInput(
                    "the loss does not depend on the parameters: it has no graph back to them; is "
                    "the output detached?"
                )
            value = float(loss.detach())
            if not math.isfinite(value):
                raise BadInput(f"the loss of this batch is {value} at the model's weights")
            parts = torch.autograd.grad(loss, self._parameters, **_UNUSED)
        self.start_gradient = self._flat(parts)
        if not torch.equal(self._read(), self.start):
            self.start, self._buffers = self._read(), self._saved_buffers()
        return self.start_gradient


_NOT_TWICE = (
    "the loss cannot be differentiated twice: {reason}; replace that function by one whose "
    "backward is differentiable, or use sigprop.curvature.critical_sharpness, which needs "
    "forward passes only"
)

#: How far from symmetric a Hessian may be by rounding, relative.
_ASYMMETRY = 1e-3

#: A parameter that the loss does not depend on has no gradient, which is a vector of zeros.
_UNUSED: dict[str, Any] = {"allow_unused": True}


def _pair(batch: object) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        found = type(batch).__name__
        size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise BadInput(f"a batch is a pair (inputs, targets), not {found}{size}")
    return split_batch(*batch)


def _in_double(value: Any) -> Any:
    """Return a nest of tensors with floating-point ones in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _in_double(part) for key, part in value.items()}
    return type(value)(map(_in_double, value)) if type(value) in (tuple, list) else value


def _check_weights(model: nn.Module) -> None:
    for name, x in model.named_parameters():
        if x.dtype in (torch.float16, torch.bfloat16) and x.requires_grad:
            raise BadInput(
                f"parameter {name!r} is {x.dtype}, too coarse for differences of losses and "
                "gradients; give a copy in float32: copy.deepcopy(model).float()"
            )
        bad = int((~torch.isfinite(x)).sum())
        if bad:
            raise BadInput(f"parameter {name!r} holds {bad} non-finite values of {x.numel()}")


def _require_symmetric(hessian: Operator, loss: Tensor) -> None:
    """Refuse second derivatives that are incomplete, which shows as a map that is not symmetric.

    A function whose backward is not differentiable is left out in silence where no error lies on
    the way to a parameter. For a symmetric H, v^T H (H v) is ‖H v‖².

    Raises:
        BadInput: it is not symmetric.
    """
    v = normal((hessian.shape[0],), seed=0).to(loss)
    image = hessian.product(v)
    squared, across = float(image @ image), float(v @ hessian.product(image))
    if abs(across - squared) > _ASYMMETRY * squared:
        own = ", ".join(sorted(_own_functions(loss))) or "a function of the model"
        reason = f"the backward of {own} has no derivative, and the Hessian lacks its part"
        raise BadInput(_NOT_TWICE.format(reason=reason))


def _own_functions(loss: Tensor) -> set[str]:
    """Return the names of the user's own autograd functions behind a loss."""
    found, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind: type[object] = type(node)
        if issubclass(kind, torch.autograd.function.BackwardCFunction):  # of a Python function
            found.add(kind.__name__.removesuffix("Backward"))
        waiting += [following for following, _ in node.next_functions]
    return found
