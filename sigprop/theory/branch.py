"""How one chain of operations changes the kernel of a batch, and the gradient's on the way back.

Wide layers (n -> inf), independent weights in each layer, gradients independent of activations:
the usual mean-field assumptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sigprop.errors import BadInput
from sigprop.theory import gaussian
from sigprop.theory.activations import Activation, activation
from sigprop.theory.arguments import number, one_of, positive, whole
from sigprop.theory.kernel import Gradient, Kernel


@dataclass(frozen=True)
class Branch:
    """A chain of operations on a residual branch (or a whole layer of a plain net).

    Args:
        ops: in order, names of ``OPS``: ``act``; ``weight`` (zero-mean weights of variance
            gain_squared / fan_in); ``standardized`` (the same with every row's mean removed);
            ``zero`` (a weight layer that starts at 0); ``center`` (a bias that removes the batch
            mean, a constant for the gradient); ``batchnorm``; ``layernorm``; ``scale``.
        activation: name or Activation.
        gain_squared: fan_in times the variance of a weight.
        factor: what ``scale`` multiplies by.

    Raises:
        UnknownName: an unknown operation or activation.
        BadInput: no operation, a gain of 0 or less.

    Example:
        >>> out = Branch(("act", "weight"), "relu", 2.0).forward(Kernel())[-1]
        >>> out.second_moment, round(out.correlation, 6)
        (1.0, 0.31831)
    """

    ops: tuple[str, ...]
    activation: str | Activation = "relu"
    gain_squared: float = 2.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        for op in self.ops:
            one_of("operation", op, OPS)
        if not self.ops:
            raise BadInput("a branch needs at least one operation; got none")
        activation(self.activation)
        positive("gain_squared", self.gain_squared)
        number("factor", self.factor)

    def forward(self, kernel: Kernel) -> list[Kernel]:
        """Return the kernel before each operation and after the last: len(ops) + 1 of them.

        Raises:
            BadInput: an activation meets values that are not Gaussian, or a norm meets variance 0.
        """
        states = [kernel]
        for op in self.ops:
            states.append(_FORWARD[op](self, states[-1]))
        return states

    def backward(self, states: Sequence[Kernel], gradient: Gradient) -> Gradient:
        """Return the gradient's kernel at the branch's input, given that at its output.

        Args:
            states: what ``forward`` returned.
            gradient: at the output.

        Returns:
            The gradient's kernel at the input.
        """
        for op, state in zip(reversed(self.ops), reversed(states[:-1]), strict=True):
            gradient = _BACKWARD[op](self, state, gradient)
        return gradient


def _act(branch: Branch, x: Kernel) -> Kernel:
    if not x.gaussian or x.mean != 0:
        raise BadInput("an activation needs Gaussian input of mean 0: put a weight layer before it")
    f, q = branch.activation, x.second_moment
    both = gaussian.covariance(f, q, x.correlation)
    return Kernel(gaussian.second_moment(f, q), both, gaussian.mean(f, q), x.samples, False)


def _act_back(branch: Branch, x: Kernel, g: Gradient) -> Gradient:
    f, q = branch.activation, x.second_moment
    return Gradient(
        g.second_moment * gaussian.slope_second_moment(f, q),
        g.covariance * gaussian.slope_covariance(f, q, x.correlation),
    )


def _weight(branch: Branch, x: Kernel) -> Kernel:
    g2 = branch.gain_squared
    return Kernel(g2 * x.second_moment, g2 * x.covariance, 0.0, x.samples)


def _standardized(branch: Branch, x: Kernel) -> Kernel:
    g2, common = branch.gain_squared, x.mean * x.mean
    return Kernel(g2 * (x.second_moment - common), g2 * (x.covariance - common), 0.0, x.samples)


def _weight_back(branch: Branch, x: Kernel, g: Gradient) -> Gradient:
    return g.scaled(branch.gain_squared)


def _zero(branch: Branch, x: Kernel) -> Kernel:
    return Kernel(0.0, 0.0, 0.0, x.samples)


def _spread(x: Kernel, what: str) -> float:
    found = x.channel_variance if what == "batchnorm" else x.second_moment - x.mean * x.mean
    if found <= 0:
        raise BadInput(f"{what} needs a variance above 0; got {found!r}")
    return found


def _batchnorm(branch: Branch, x: Kernel) -> Kernel:
    return x.centered().scaled(1 / math.sqrt(_spread(x, "batchnorm")))


def _batchnorm_back(branch: Branch, x: Kernel, g: Gradient) -> Gradient:
    # (I - 11'/N - yy'/N) / sigma; the terms of order 1/N are left out (normalized.py)
    return Gradient((g.second_moment - g.covariance) / _spread(x, "batchnorm"))


def _layernorm(branch: Branch, x: Kernel) -> Kernel:
    spread, common = _spread(x, "layernorm"), x.mean * x.mean
    return replace(x, second_moment=1.0, covariance=(x.covariance - common) / spread, mean=0.0)


def _layernorm_back(branch: Branch, x: Kernel, g: Gradient) -> Gradient:
    return g.scaled(1 / _spread(x, "layernorm"))


_FORWARD: dict[str, Callable[[Branch, Kernel], Kernel]] = {
    "act": _act,
    "weight": _weight,
    "standardized": _standardized,
    "zero": _zero,
    "center": lambda branch, x: x.centered(),
    "batchnorm": _batchnorm,
    "layernorm": _layernorm,
    "scale": lambda branch, x: x.scaled(branch.factor),
}
_BACKWARD: dict[str, Callable[[Branch, Kernel, Gradient], Gradient]] = {
    "act": _act_back,
    "weight": _weight_back,
    "standardized": _weight_back,
    "zero": lambda branch, x, g: Gradient(0.0),
    "center": lambda branch, x, g: g,
    "batchnorm": _batchnorm_back,
    "layernorm": _layernorm_back,
    "scale": lambda branch, x, g: g.scaled(branch.factor**2),
}
OPS: tuple[str, ...] = tuple(_FORWARD)
_CENTERINGS = {"none": ("weight",), "batch": ("center", "weight"), "weights": ("standardized",)}


def gain_squared(which: str | Activation, gain: str | float = "he") -> float:
    """Return the squared gain called ``"he"``, ``"preserving"`` or ``"one"``, or a number squared.

    ``he`` is 1/E f^2 (2 for ReLU); ``preserving`` is 1/Var f, what keeps the variance of a centered
    signal: 2/(1 - 1/pi) for ReLU (2.933884).

    Args:
        which: the activation, by name or as an `Activation`.
        gain: ``"he"``, ``"preserving"``, ``"one"``, or the gain itself as a number.

    Returns:
        fan_in times the variance of a weight.

    Raises:
        UnknownName: no such gain or activation.
        BadInput: a number of 0 or less.

    Example:
        >>> round(gain_squared("relu", "preserving"), 6)
        2.933884
    """
    if not isinstance(gain, str):
        return positive("gain", gain) ** 2
    one_of("gain", gain, ("he", "preserving", "one"))
    f = activation(which)
    if gain == "one":
        return 1.0
    return 1 / (gaussian.second_moment(f) if gain == "he" else gaussian.variance(f))


def weight_branch(
    layers: int = 2,
    activation: str | Activation = "relu",
    *,
    gain: str | float = "he",
    centering: str = "none",
    first: str = "act",
) -> Branch:
    """Return a branch of ``layers`` weight layers without normalization.

    Args:
        layers: m, the weight layers.
        activation: between them.
        gain: see ``gain_squared``.
        centering: ``"none"``; ``"batch"``, a bias of minus the batch mean before each matmul
            (Shao et al. 2020); ``"weights"``, standardized rows (Brock et al. 2021).
        first: ``"act"`` for x -> W2 f(W1 f(x)); ``"weight"`` for x -> W2 f(W1 x).

    Raises:
        UnknownName: no such activation, gain, centering or first operation.
        BadInput: no weight layer, a gain of 0 or less.

    Example:
        >>> weight_branch(2, centering="batch").ops
        ('act', 'center', 'weight', 'act', 'center', 'weight')
    """
    whole("layers", layers, 1)
    one_of("first operation", first, ("act", "weight"))
    matmul = _CENTERINGS[one_of("centering", centering, _CENTERINGS)]
    ops = ("act", *matmul) * layers
    return Branch(ops if first == "act" else ops[1:], activation, gain_squared(activation, gain))
