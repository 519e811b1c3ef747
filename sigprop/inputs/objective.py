"""The loss of a model on one batch as a function of its parameters. The model is only copied."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sigprop.errors import BadInput
from sigprop.inputs.calling import Loss, call, first_line, split_batch
from sigprop.inputs.devices import Device, kept_random_state, moved, placed, resolve_device
from sigprop.inputs.factories import copied

Product = Callable[[Tensor], Tensor]


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

    Raises:
        BadInput: the batch is no pair, a weight or the loss is not finite, nothing is trainable,
            the loss is no scalar, does not depend on the parameters, or differs when it is
            computed again.

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
        bare = getattr(model, "_orig_mod", model)  # a compiled graph has no second derivative
        chosen = resolve_device("cpu" if double and device == "auto" else device, bare)
        self.model = placed(copied(bare), chosen)
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
        self.start = self._read()
        self._state = self._other_state()
        self._initialize_from_the_batch()
        self._check()

    @property
    def shapes(self) -> list[torch.Size]:
        """Shapes of the trainable parameters."""
        return [p.shape for p in self._parameters]

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
        parts = vector.split([p.numel() for p in self._parameters])
        shaped = [part.view(p.shape) for part, p in zip(parts, self._parameters, strict=True)]
        return dict(zip(self.names, shaped, strict=True))

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

    def hessian_product(self, at: Tensor | None = None) -> Product:
        """Return the function v -> H v; the graph is built once and kept while it lives.

        Args:
            at: a parameter vector; the model's own when not given.

        Raises:
            BadInput: the loss cannot be differentiated twice.
        """
        # recurrent layers of cuDNN and fused attention have no second derivative
        plain = torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH)
        with self._at(at), torch.enable_grad(), plain[0], plain[1]:
            loss = self._evaluate()
            first = torch.autograd.grad(loss, self._parameters, create_graph=True, **_UNUSED)
        slopes = [g for g in first if g is not None and g.requires_grad]

        def product(vector: Tensor) -> Tensor:
            parts = self.split(vector.to(self.start))
            along = [
                part
                for part, g in zip(parts.values(), first, strict=True)
                if g is not None and g.requires_grad
            ]
            if not slopes:  # a loss that is linear in the parameters
                return torch.zeros_like(self.start)
            try:
                second = torch.autograd.grad(
                    slopes, self._parameters, along, retain_graph=True, **_UNUSED
                )
            except RuntimeError as error:
                raise _not_twice(error) from error
            return self._flat(second)

        return product

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
        """Write a parameter vector and the saved state into the copy; random numbers are kept."""
        with torch.inference_mode(False), kept_random_state(self.start.device):
            with torch.no_grad():
                for p, part in zip(
                    self._parameters,
                    self.split(self.start if vector is None else vector.to(self.start)).values(),
                    strict=True,
                ):
                    p.copy_(part)
                for buffer, saved in self._state:
                    buffer.copy_(saved)
            yield

    def _read(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self._parameters])

    def _flat(self, parts: Sequence[Tensor | None]) -> Tensor:
        return torch.cat(
            [
                (torch.zeros_like(p) if part is None else part.detach()).reshape(-1)
                for p, part in zip(self._parameters, parts, strict=True)
            ]
        )

    def _other_state(self) -> list[tuple[Tensor, Tensor]]:
        return [(buffer, buffer.clone()) for buffer in self.model.buffers()]

    def _initialize_from_the_batch(self) -> None:
        """Let layers that set their parameters from the first batch do so, once."""
        with self._at(None), torch.no_grad():
            self._evaluate()
            if not torch.equal(self._read(), self.start):
                self.start, self._state = self._read(), self._other_state()

    def _check(self) -> None:
        values = []
        with torch.inference_mode(False), kept_random_state(self.start.device):
            for _ in range(2):  # without putting the generator back: dropout draws another mask
                with torch.no_grad():
                    for buffer, saved in self._state:
                        buffer.copy_(saved)
                with torch.enable_grad():
                    loss = self._evaluate()
                values.append(float(loss.detach()))
        if not loss.requires_grad:
            raise BadInput(
                "the loss does not depend on the parameters: it has no graph back to them; is the "
                "output detached?"
            )
        if not math.isfinite(values[0]):
            raise BadInput(f"the loss of this batch is {values[0]} at the model's weights")
        if abs(values[1] - values[0]) > 100 * torch.finfo(self.start.dtype).eps * abs(values[0]):
            raise BadInput(
                f"the loss of the same batch differs when it is computed again ({values[0]:.6g}, "
                f"then {values[1]:.6g}); {_random_layers(self.model)}"
            )


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


def _random_layers(model: nn.Module) -> str:
    drops = [
        name
        for name, module in model.named_modules()
        if module.training and "Drop" in type(module).__name__ and getattr(module, "p", 1)
    ]
    if drops:
        return f"{', '.join(map(repr, drops[:3]))} drops at random: model.eval() switches it off"
    return "something in the model is random: switch it off, or give a model in evaluation mode"


def _not_twice(error: RuntimeError) -> BadInput:
    return BadInput(
        f"the loss cannot be differentiated twice: {first_line(error)}; replace that function by "
        "one whose backward is differentiable, or use sigprop.curvature.critical_sharpness, which "
        "needs forward passes only"
    )
