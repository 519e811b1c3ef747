"""A range of a model's blocks as a function of its input, and that function's derivative."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sigprop.capture.model.naming import modules
from sigprop.capture.model.nested import tensors
from sigprop.errors import BadInput, UnknownName, suggestion
from sigprop.inputs.calling import first_line
from sigprop.linear_operators import Operator, Stateless, require_deterministic


class _Reached(Exception):
    """The last module of the range has been called: nothing behind it is needed."""


class BlockRange:
    """What lies between the input of one module and the output of another.

    Args:
        model: the model; it is not changed.
        inputs: of the model, one batch.
        start: the first module of the range; the model's own input where it is None.
        stop: the last module of the range; the model's own output where it is None.

    Raises:
        UnknownName: the model has no module of that name.
    """

    def __init__(self, model: nn.Module, inputs: Any, start: str | None, stop: str | None) -> None:
        self._function = Stateless(model)
        self._inputs = inputs
        known = dict(modules(model))
        self._start, self._stop = _module(known, start), _module(known, stop)
        self._names = start or "its input", stop or "its output"
        self.name = f"{start or 'input'} to {stop or 'output'}"
        self.what = f"the Jacobian of {type(self._function.model).__name__} from {self.name}"
        self._entry: Tensor | None = None
        self._exit: Tensor | None = None

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Return the range's input, a leaf that requires a gradient, and its output.

        Raises:
            BadInput: the range has no floating-point input or output, or it is empty.
        """
        self._entry = self._exit = None
        with torch.enable_grad(), ExitStack() as hooks:
            given = self._inputs
            if self._start is None:
                given = self._entering(given)
            else:
                hooks.enter_context(_hooked(self._start, self._on_start))
            if self._stop is not None:
                handle = self._stop.register_forward_hook(self._on_stop)
                hooks.callback(handle.remove)
            try:
                output = self._function(given)
            except _Reached:
                return self._ends()
            self._check_called()
            self._exit = _first(output)
        return self._ends()

    def _ends(self) -> tuple[Tensor, Tensor]:
        if self._entry is not None and self._exit is not None:
            return self._entry, self._exit
        end = self._names[self._entry is not None]
        raise BadInput(f"{self.what} needs a floating-point tensor at {end}; there is none")

    def _on_start(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if self._entry is not None:
            return None  # a later call of the module
        args = self._entering(args)
        if self._entry is None:
            kwargs = self._entering(kwargs)
        return args, kwargs

    def _on_stop(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._entry is None:
            raise BadInput(
                f"the range from {self._names[0]} to {self._names[1]} is empty: {self._names[1]} "
                f"is called before {self._names[0]}; exchange start and stop"
            )
        self._exit = _first(output)
        raise _Reached

    def _check_called(self) -> None:
        for module, name, reached in (
            (self._start, self._names[0], self._entry),
            (self._stop, self._names[1], self._exit),
        ):
            if module is not None and reached is None:
                raise BadInput(f"{name} is not called as a module in the model's forward pass")

    def _entering(self, value: Any) -> Any:
        """Return a nest with a copy of a leaf in place of its first floating-point tensor."""
        if isinstance(value, Tensor):
            if self._entry is not None or not value.is_floating_point():
                return value
            self._entry = value.detach().clone().requires_grad_()
            return self._entry.clone()  # a module may change its input in place
        if isinstance(value, dict):
            return {key: self._entering(part) for key, part in value.items()}
        if type(value) in (tuple, list):
            return type(value)([self._entering(part) for part in value])
        return value

    def derivative(self, batch_statistics: bool) -> Operator:
        """Return the Jacobian of the flattened output with respect to the flattened input.

        The transposed products are backward passes through one graph; the products are backward
        passes through the graph of these, which are linear in what they are given.

        Args:
            batch_statistics: allow normalization by the statistics of the batch.

        Raises:
            BadInput: the range is empty, not deterministic or not differentiable.
        """
        require_deterministic(
            lambda: self.evaluate()[1].detach(),
            self._function,
            self.what,
            batch_statistics=batch_statistics,
        )
        x, y = self.evaluate()
        cotangent = torch.zeros_like(y, requires_grad=True)
        back: Tensor | None = None
        if y.requires_grad:
            with torch.enable_grad(), self._named_errors():
                how = {"create_graph": True, "allow_unused": True}
                back = torch.autograd.grad(y, x, cotangent, **how)[0]
        if back is None:
            raise BadInput(
                f"{self.what} does not exist: no gradient leads from {self._names[1]} back to "
                f"{self._names[0]}; is it detached, rounded or computed outside of torch?"
            )

        def transposed(u: Tensor) -> Tensor:
            return torch.autograd.grad(y, x, u.view_as(y), retain_graph=True)[0].reshape(-1)

        def product(v: Tensor) -> Tensor:
            how = {"retain_graph": True, "allow_unused": True}
            with self._named_errors():
                (found,) = torch.autograd.grad(back, cotangent, v.view_as(x), **how)
            if found is None:
                raise self._not_twice(_own_functions(y))
            return found.reshape(-1)

        return Operator(self.what, (y.numel(), x.numel()), product, transposed, y.dtype, y.device)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Say of a function that autograd cannot differentiate twice what it is part of.

        Yields:
            Nothing.

        Raises:
            BadInput: a function in the range has no second derivative.
        """
        try:
            yield
        except (RuntimeError, NotImplementedError) as error:
            raise self._not_twice(f"a function in it ({first_line(error)})") from error

    def _not_twice(self, guilty: str) -> BadInput:
        return BadInput(
            f"{self.what} cannot be had by its products: {guilty} has no derivative of its "
            "backward; write that in differentiable torch operations, or choose a range that "
            "leaves it out"
        )


def _own_functions(y: Tensor) -> str:
    """Return the names of the functions in a graph that torch did not write."""
    own: Any = torch.autograd.function.BackwardCFunction
    seen: set[Any] = set()
    names: dict[str, None] = {}
    ahead = [y.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, own):
            names[type(node).__name__.removesuffix("Backward")] = None
        ahead += [following for following, _ in node.next_functions]
    return " or ".join(names) or "a function in it"


def _module(known: dict[str, nn.Module], name: str | None) -> nn.Module | None:
    if name is None:
        return None
    if name not in known:
        raise UnknownName(f"the model has no module {name!r}; {suggestion(name, known)}")
    return known[name]


def _first(value: object) -> Tensor | None:
    return next((x for _, x in tensors(value) if x.is_floating_point()), None)


@contextmanager
def _hooked(module: nn.Module, hook: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
