"""Laws: a predicted ratio, per block, of a named quantity after and before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sigprop.errors import BadInput, UnknownName, suggestion
from sigprop.registry import Registry
from sigprop.theory import Prediction

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """What a block should do to a quantity.

    Attributes:
        name: as the user asks for it.
        says: the law in words, for the headline of a result.
        quantity: a column of the signals frame.
        direction: ``"forward"`` (output over input) or ``"backward"`` (input over output).
        ratios: block indices, shape (blocks,), and the network's prediction (None when there is
            none) -> predicted ratios, shape (blocks,).
        ports: where the quantity is compared, the side of the input first: ``"in"``, ``"skip"``,
            ``"branch"`` or ``"out"``.
        needs_prediction: `ratios` cannot do without one.
        cotangent: what is sent back from the output, as in `sigprop.measure`; None for a standard
            normal gradient.
        share: what is compared is 1 + quantity/second moment, which has a ratio where the quantity
            itself is near 0.
        neighbors: what is compared is no quantity's two sides, but a block and the one before it:
            ``"shares"``, of the output's second moment, or ``"parameters"``, the mean squared
            gradient of a weight.
        across_stages: the law is stated across changes of width and resolution too.
        parts: laws that must hold together; the law's own quantity is then the first of them.
    """

    name: str
    says: str
    quantity: str
    direction: str
    ratios: Callable[[Array, Prediction | None], Array]
    ports: tuple[str, str] = ("in", "out")
    needs_prediction: bool = False
    cotangent: str | None = None
    share: bool = False
    neighbors: str = ""
    across_stages: bool = False
    parts: tuple[Law, ...] = ()

    @property
    def follows_gradient(self) -> bool:
        """Whether the law, or a part of it, speaks of gradients."""
        every = (self, *self.parts)
        return any(p.direction == "backward" or p.neighbors == "parameters" for p in every)


def _constant(value: float) -> Callable[[Array, Prediction | None], Array]:
    return lambda blocks, _: np.full(len(blocks), value)


def _predicted(name: str) -> Callable[[Array, Prediction | None], Array]:
    """Return the ratios of a prediction's column, of its share of the second moment for a shift."""

    def ratios(blocks: Array, prediction: Prediction | None) -> Array:
        if prediction is None:
            raise no_prediction()
        trajectory: Array = getattr(prediction, name)
        if len(trajectory) <= int(blocks.max()) + 1:
            raise BadInput(
                f"the prediction has {len(trajectory) - 1} blocks, the network {len(blocks)}"
            )
        if name == "mean_shift":
            trajectory = 1 + trajectory / prediction.second_moment
        with np.errstate(divide="ignore", invalid="ignore"):
            growth = trajectory[1:] / trajectory[:-1]
        if name == "gradient_second_moment":
            growth = 1 / growth
        return np.asarray(growth[blocks.astype(int)])

    return ratios


def _part(name: str, column: str, quantity: str, direction: str = "forward") -> Law:
    says = f"the {name} follows the family's own recursion"
    share = column == "mean_shift"
    ratios = _predicted(column)
    return Law(
        name, says, quantity, direction, ratios, needs_prediction=True, share=share,
        across_stages=True,
    )  # fmt: skip


#: What a recursion speaks of, all of it tested together.
_PARTS = (
    _part("second moment", "second_moment", "second_moment"),
    _part("channel variance", "channel_variance", "channel_variance"),
    _part("mean shift", "mean_shift", "mean_shift"),
    _part("gradient", "gradient_second_moment", "second_moment", "backward"),
)


def no_prediction(reason: str = "theory predicts nothing for this network") -> BadInput:
    """Return the error of a law that needs a prediction where theory has none.

    Args:
        reason: which part has none.
    """
    return BadInput(
        f"{reason}; state the law as a callable 'block -> ratio', or choose 'preserved' or "
        "'doubling'"
    )


#: The laws by name; a user's callable needs no registration.
LAWS: Registry[Law] = Registry("law")
for _law in (
    Law(
        "preserved",
        "the second moment is preserved: E[x_k²] = E[x_{k-1}²]",
        "second_moment",
        "forward",
        _constant(1),
    ),
    Law(
        "preserved:channel_variance",
        "the channel variance is preserved: Var_batch[x_k] = Var_batch[x_{k-1}]",
        "channel_variance",
        "forward",
        _constant(1),
    ),
    Law(
        "gradient-preserved",
        "the gradient's second moment is preserved: E[g_{k-1}²] = E[g_k²]",
        "second_moment",
        "backward",
        _constant(1),
    ),
    Law(
        "jacobian-preserved",
        "the partial Jacobian's norm is preserved: ‖∂h_L/∂h_{k-1}‖_F = ‖∂h_L/∂h_k‖_F",
        "second_moment",
        "backward",
        _constant(1),
        cotangent="rademacher",
    ),
    Law(
        "doubling",
        "the second moment doubles: E[x_k²] = 2 E[x_{k-1}²]",
        "second_moment",
        "forward",
        _constant(2),
    ),
    Law(
        "equal-shares",
        "every block adds the same share of the output's second moment, RescaleNet's 1/(L+c)",
        "second_moment",
        "forward",
        _constant(1),
        neighbors="shares",
    ),
    Law(
        "equal-parameter-gradients",
        "the mean squared gradient of a weight is the same in every block",
        "second_moment",
        "forward",
        _constant(1),
        neighbors="parameters",
    ),
    Law(
        "predicted",
        "second moment, channel variance, mean shift and gradient follow the family's recursion",
        "second_moment",
        "forward",
        _predicted("second_moment"),
        needs_prediction=True,
        parts=_PARTS,
    ),
):
    LAWS.register(_law.name)(_law)


def law_of(law: str | Law | Callable[[int], float]) -> Law:
    """Return a law by name, or make one of a callable ``block -> ratio`` of second moments.

    Args:
        law: a name, a callable that is given a block's number, counted from 0, or a `Law`.

    Raises:
        UnknownName: no law has that name.
        BadInput: it is neither a name nor a callable.

    Example:
        >>> law_of(lambda block: 1 + 1 / (block + 1)).quantity
        'second_moment'
    """
    if isinstance(law, str):
        if law not in LAWS:
            raise UnknownName(f"no law is called {law!r}; {suggestion(law, LAWS)}")
        return LAWS[law]
    if isinstance(law, Law):
        return law
    if not callable(law):
        raise BadInput(f"a law is a name or a callable 'block -> ratio', not {law!r}")

    def ratios(blocks: Array, _: Prediction | None) -> Array:
        """Return what the law gives for each block.

        Raises:
            BadInput: a ratio is not positive.
        """
        predicted = np.array([float(law(int(block))) for block in blocks])
        if not (predicted > 0).all():
            raise BadInput(f"a law gives a positive ratio for every block, not {predicted.min()}")
        return predicted

    return Law(
        "own", "the second moment follows a law of your own", "second_moment", "forward", ratios
    )
