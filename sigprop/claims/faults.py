"""Faults put into the library on purpose, for as long as a claim is measured.

A claim that measures the library turns red when the library is wrong. A fault exchanges the body of
one function, wherever it was imported to, and puts it back.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import FunctionType
from typing import Any

import numpy as np
from torch import nn

from sigprop.theory import Prediction


def _call_broken(*given: Any, **named: Any) -> Any:
    """Return what the broken function does, a name that its module has meanwhile."""
    return _broken(*given, **named)  # type: ignore[name-defined]  # noqa: F821


Wrong = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclasses.dataclass(frozen=True)
class Fault:
    """One wrong function of the library.

    Attributes:
        target: ``"module:function"`` or ``"module:Class.method"``.
        wrong: the right function -> the wrong one.
    """

    target: str
    wrong: Wrong

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the wrong function in the library within a ``with`` block."""
        owner, name = _resolve(self.target)
        found = getattr(owner, name)
        exchange = _method if inspect.isclass(owner) else _body
        with exchange(owner, name, self.wrong):
            _forget(found)
            yield
        _forget(found)


@contextmanager
def _method(owner: Any, name: str, wrong: Wrong) -> Iterator[None]:
    right = getattr(owner, name)
    setattr(owner, name, wrong(right))
    try:
        yield
    finally:
        setattr(owner, name, right)


@contextmanager
def _body(owner: Any, name: str, wrong: Wrong) -> Iterator[None]:
    """Exchange a function's code, so that whoever imported it by name calls the wrong one too."""
    function = inspect.unwrap(getattr(owner, name))
    assert isinstance(function, FunctionType)
    right = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__
    )
    right.__kwdefaults__ = function.__kwdefaults__
    kept = function.__code__, function.__defaults__, function.__kwdefaults__
    function.__globals__["_broken"] = wrong(right)
    function.__defaults__, function.__kwdefaults__ = None, None
    function.__code__ = _call_broken.__code__
    try:
        yield
    finally:
        function.__code__, function.__defaults__, function.__kwdefaults__ = kept
        del function.__globals__["_broken"]


def _resolve(target: str) -> tuple[Any, str]:
    """Return what has the function as an attribute, a module or a class, and the name there."""
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, name


def _forget(function: Any) -> None:
    """Empty the cache of a function that remembers its values."""
    if hasattr(function, "cache_clear"):
        function.cache_clear()


def times(target: str, factor: float) -> Fault:
    """Return a fault that multiplies what a function returns.

    Args:
        target: as in `Fault`.
        factor: by how much.
    """
    return Fault(target, lambda right: lambda *a, **k: factor * right(*a, **k))


def instead(target: str, other: Callable[..., Any]) -> Fault:
    """Return a fault that calls another function with the same arguments.

    Args:
        target: as in `Fault`.
        other: what is called.
    """
    return Fault(target, lambda right: other)


def changed(target: str, change: Callable[[Any], Any]) -> Fault:
    """Return a fault that changes what a function returns.

    Args:
        target: as in `Fault`.
        change: the right value -> the wrong one.
    """
    return Fault(target, lambda right: lambda *a, **k: change(right(*a, **k)))


def with_argument(target: str, position: int, change: Callable[[Any], Any]) -> Fault:
    """Return a fault that changes one positional argument on its way in.

    Args:
        target: as in `Fault`.
        position: of the argument, from 0.
        change: the right argument -> the wrong one.
    """

    def wrong(right: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            arguments = list(given)
            if position < len(arguments):  # its default is left alone
                arguments[position] = change(arguments[position])
            return right(*arguments, **named)

        return call

    return Fault(target, wrong)


_MOMENTS = ("second_moment", "channel_variance", "mean_shift")


def _larger(prediction: Prediction) -> Prediction:
    """Return a prediction that is 10 % too large everywhere but at its start."""
    own = {name: getattr(prediction, name) for name in _MOMENTS}
    return dataclasses.replace(
        prediction, **{name: np.append(v[:1], 1.1 * v[1:]) for name, v in own.items()}
    )


def _faster(prediction: Prediction) -> Prediction:
    """Return a prediction that grows by 10 % more at every block."""
    own = {name: getattr(prediction, name) for name in _MOMENTS}
    return dataclasses.replace(
        prediction, **{name: v * 1.1 ** np.arange(len(v)) for name, v in own.items()}
    )


#: theory.predict is 10 % too large, in all or in every block.
THEORY = changed("sigprop.theory.families:predict", _larger)
THEORY_GROWTH = changed("sigprop.theory.families:predict", _faster)
#: The same of what `verify` predicts a network of the zoo by.
STACK_GROWTH = changed("sigprop.theory.skeleton:predict_stack", _faster)
#: Every weight of the zoo is 5 % too large, its variance 10 %.
WEIGHTS = with_argument("sigprop.networks.weights:initialize", 1, lambda gain: 1.1**0.5 * gain)
#: RescaleNet's skip keeps everything.
NO_ALPHA = changed(
    "sigprop.networks.rescale:coefficients", lambda found: ([1.0] * len(found[0]), found[1])
)
#: RescaleNet's branch is 10 % too large.
BETA = changed(
    "sigprop.networks.rescale:coefficients", lambda found: (found[0], [1.1 * b for b in found[1]])
)
#: A constant factor in a network is 10 % too large.
SCALE = changed("sigprop.networks.layers:Scale.forward", lambda x: 1.1 * x)
#: The gain of a ReLU's weight is 1.
NO_GAIN = instead("sigprop.networks.gains:he_gain", lambda activation: 1.0)
#: Biases in front of weights stay at 0.
NO_CENTERING = Fault("sigprop.networks.first_batch:BiasBefore.forward", lambda right: _no_centering)
#: Standardized weights are left as they are, or 10 % too large.
NOT_STANDARDIZED = instead(
    "sigprop.networks.weights:Standardized.forward", lambda self, weight: weight
)
STANDARDIZED = changed("sigprop.networks.weights:Standardized.forward", lambda w: 1.1 * w)
#: Rows of unit norm are 10 % too long.
ROWS = changed("sigprop.networks.weights:UnitRows.forward", lambda w: 1.1 * w)


def _no_centering(self: Any, x: Any) -> Any:
    return x + self.bias


def _with_recipe(change: Callable[[Any], Mapping[str, Any]]) -> Fault:
    """Return a fault of what one residual branch is built from."""

    def wrong(right: Callable[..., Any]) -> Callable[..., Any]:
        def build(design: Any, recipe: Any, *more: Any) -> Any:
            return right(design, dataclasses.replace(recipe, **change(recipe)), *more)

        return build

    return Fault("sigprop.networks.residual:_branch", wrong)


#: The reparametrized RescaleNet has 1/6 for 1/4 in the exponent of two weights a branch.
EXPONENT = _with_recipe(
    lambda recipe: {"weight_scale": lambda k: recipe.weight_scale(k) ** (2 / 3)}
)
#: What should start at 0 starts at 0.1: a weight, or a learned factor.
WEIGHT_NOT_ZERO = with_argument("sigprop.networks.weights:initialize", 1, lambda gain: gain or 0.1)
FACTOR_NOT_ZERO = with_argument(
    "sigprop.networks.layers:Multiplier.__init__", 1, lambda start: start or 0.1
)
#: No gradient passes the branches of a residual network.
DETACHED = Fault(
    "sigprop.networks.residual:ResidualBlock.forward",
    lambda right: lambda self, x: self.after(self.add(self.skip(x), self.branch(x.detach()))),
)
#: A branch leans on the skip that it is added to.
CORRELATED = Fault(
    "sigprop.networks.residual:ResidualBlock.forward",
    lambda right: lambda self, x: self.after(self.add(self.skip(x), self.branch(x) + 0.1 * x)),
)
#: γ of standardized weights is He's gain.
GAMMA = instead("sigprop.networks.gains:centered_gain", lambda activation: 2.0**0.5)
#: Adaptive clipping does nothing, or clips at 1.1 λ.
NO_CLIPPING = instead("sigprop.networks.agc:clip_adaptively", lambda *given, **named: None)
CLIPPING = Fault(
    "sigprop.networks.agc:clip_adaptively",
    lambda right: (
        lambda parameters, clipping=0.01, eps=1e-3: right(parameters, 1.1 * clipping, eps)
    ),
)
#: Batch normalization leaves what it reads as it is.
NO_NORM = Fault(
    "sigprop.networks.norms:batch_norm", lambda right: lambda channels, dims: nn.Identity()
)
#: What weight normalization sets its gain to makes outputs 10 % too large.
AFFINE = changed("sigprop.networks.first_batch:Affine.forward", lambda x: 1.1 * x)
