"""Calls back around the outermost step of an optimizer, where its gradients are what it uses."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from sigprop.errors import BadInput

Closure = Callable[..., Any]


def torch_optimizer(optimizer: object) -> Optimizer | None:
    """Return the `torch.optim.Optimizer` behind a wrapper such as Accelerate's or Lightning's.

    Such a wrapper keeps it in its attribute ``optimizer`` and takes no hooks itself.

    Args:
        optimizer: an optimizer, a wrapper of one, or None, which is returned as it is.

    Raises:
        BadInput: there is none.

    Example:
        >>> from types import SimpleNamespace
        >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
        >>> torch_optimizer(SimpleNamespace(optimizer=sgd)) is sgd
        True
    """
    seen: list[object] = []
    found = optimizer
    while found is not None and not any(found is other for other in seen):
        seen.append(found)
        if isinstance(found, Optimizer) and _takes_hooks(found):
            return found
        found = getattr(found, "optimizer", None)
    if optimizer is None:
        return None
    raise BadInput(
        "optimizer is a torch.optim.Optimizer, or wraps one in its attribute `optimizer`, not "
        f"{type(optimizer).__name__}"
    )


def _takes_hooks(optimizer: Optimizer) -> bool:
    """Return whether an optimizer calls hooks: a wrapper derived from `Optimizer` may not."""
    try:
        optimizer.register_step_pre_hook(lambda *_: None).remove()
    except AttributeError:
        return False
    return True


def parameters_of(optimizer: Optimizer) -> Iterable[torch.Tensor]:
    """Return every parameter that an optimizer updates."""
    return (p for group in optimizer.param_groups for p in group["params"])


class OptimizerHooks:
    """Two hooks on an optimizer, which call back once for each outermost ``step()``.

    A subclass whose ``step`` calls that of its base runs the hooks of both: the inner ones are
    ignored.

    Args:
        optimizer: the optimizer.
        begins: called with the optimizer and whether a closure will compute the gradients.
            Returns whether to call ``ready``.
        ready: called with the same when the gradients are those that the optimizer uses: before
            ``step`` runs, or, where a closure computes them, after the closure's first call.
        ended: called after ``step`` ran.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        begins: Callable[[Optimizer, bool], bool],
        ready: Callable[[Optimizer, bool], None],
        ended: Callable[[], None],
    ) -> None:
        self._begins, self._ready, self._ended = begins, ready, ended
        self._depth = 0
        self._optimizer = weakref.ref(optimizer)
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def remove(self) -> None:
        """Take both hooks off."""
        for handle in self._handles:
            handle.remove()

    @property
    def running(self) -> bool:
        """Whether a ``step`` of the optimizer is running; one that it wraps steps inside of it."""
        optimizer = self._optimizer()
        return self._depth > 0 and optimizer is not None and _running_steps(optimizer) > 0

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # The count alone is wrong after a step that raised: its post-hook never ran.
        if self._depth and _running_steps(optimizer) > 1:
            self._depth += 1
            return None
        self._depth = 1
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            if self._begins(optimizer, False):
                self._ready(optimizer, False)
            return None
        if not self._begins(optimizer, True):
            return None
        watched = _then_once(closure, lambda: self._ready(optimizer, True))
        if "closure" in kwargs:
            return args, {**kwargs, "closure": watched}
        return (args[0], watched, *args[2:]), kwargs

    def _after(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._ended()


def _then_once(closure: Closure, act: Callable[[], None]) -> Closure:
    """Return a closure that does what ``closure`` does and, after its first call, ``act``."""
    waiting = True

    def closure_then_read(*args: Any, **kwargs: Any) -> Any:
        nonlocal waiting
        loss = closure(*args, **kwargs)
        if waiting:
            waiting = False
            act()
        return loss

    return closure_then_read


def _running_steps(optimizer: Optimizer) -> int:
    """Return how many calls of an optimizer's ``step`` are on this thread's stack."""
    code: CodeType | None = getattr(type(optimizer).step, "__code__", None)
    count = 0
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and code is not None:
        if frame.f_code is code and frame.f_locals.get("self") is optimizer:
            count += 1
        frame = frame.f_back
    return count


class StepsOfOthers:
    """A hook on every optimizer of the process: called after each step of any of them.

    Args:
        stepped: a bound method, called with the optimizer; it is held weakly.
    """

    _unused: ClassVar[list[RemovableHandle]] = []

    def __init__(self, stepped: Callable[[Optimizer], None]) -> None:
        while self._unused:
            self._unused.pop().remove()
        self._stepped = weakref.WeakMethod(stepped)
        self._handle = register_optimizer_step_post_hook(self._after)

    def remove(self) -> None:
        """Take the hook off."""
        self._handle.remove()

    def _after(self, optimizer: Optimizer, *_: object) -> None:
        stepped = self._stepped()
        if stepped is not None:
            stepped(optimizer)
        elif self._handle not in self._unused:
            # The probe is gone. PyTorch goes through its hooks at this moment: none may be taken
            # off before the next is put on.
            self._unused.append(self._handle)
