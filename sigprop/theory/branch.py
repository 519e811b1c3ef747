"""How one chain of operations changes the kernel of a batch, and the gradient's on the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sigprop.errors import BadInput
from sigprop.theory import gaussian
from sigprop.theory.activations import Activation, activation
from sigprop.theory.arguments import number, one_of, positive, whole
from sigprop.theory.kernel import Gradient, Kernel
from sigprop.theory.operations import (
    Act,
    BatchNorm,
    Center,
    GroupNorm,
    Operation,
    Scale,
    Weight,
    Zero,
)


@dataclass(frozen=True)
class Branch:
    """A chain of operations on a residual branch (or a whole layer of a plain net).

    Args:
        ops: in order, operations or names of ``OPS``: ``act``; ``weight`` (zero-mean weights of
            variance gain_squared / fan_in); ``standardized`` (the same with every row's mean
            removed); ``zero`` (a weight layer that starts at 0); ``center`` (a bias that removes
            the batch mean, a constant for the gradient); ``batchnorm``; ``layernorm``; ``scale``.
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

    ops: tuple[str | Operation, ...]
    activation: str | Activation = "relu"
    gain_squared: float = 2.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        for op in self.ops:
            if isinstance(op, str):
                one_of("operation", op, OPS)
        if not self.ops:
            raise BadInput("a branch needs at least one operation; got none")
        activation(self.activation)
        positive("gain_squared", self.gain_squared)
        number("factor", self.factor)

    @property
    def operations(self) -> list[Operation]:
        """The operations themselves, in order."""
        return [_MADE[op](self) if isinstance(op, str) else op for op in self.ops]

    def forward(self, kernel: Kernel) -> list[Kernel]:
        """Return the kernel before each operation and after the last: len(ops) + 1 of them.

        Raises:
            BadInput: an activation meets values that are not Gaussian, or a norm meets variance 0.
        """
        states = [kernel]
        for operation in self.operations:
            states.append(operation.forward(states[-1]))
        return states

    def backward(self, states: Sequence[Kernel], gradient: Gradient) -> Gradient:
        """Return the gradient's kernel at the branch's input, given that at its output.

        Args:
            states: what ``forward`` returned.
            gradient: at the output.

        Returns:
            The gradient's kernel at the input.
        """
        gradient = gradient.on(states[-1])
        for op, state in zip(reversed(self.operations), reversed(states[:-1]), strict=True):
            gradient = op.backward(state, gradient)
        return gradient


_MADE: Mapping[str, Callable[[Branch], Operation]] = {
    "act": lambda branch: Act(branch.activation),
    "weight": lambda branch: Weight(branch.gain_squared),
    "standardized": lambda branch: Weight(branch.gain_squared, standardized=True),
    "zero": lambda branch: Zero(),
    "center": lambda branch: Center(),
    "batchnorm": lambda branch: BatchNorm(),
    "layernorm": lambda branch: GroupNorm(),
    "scale": lambda branch: Scale(branch.factor),
}
OPS: tuple[str, ...] = tuple(_MADE)
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
