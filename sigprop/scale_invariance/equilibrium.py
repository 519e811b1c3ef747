"""Where weight decay and steps balance: angle per step and length of scale-invariant weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from sigprop.errors import BadInput


@dataclass(frozen=True)
class Equilibrium:
    """What training with weight decay settles at, for a scale-invariant weight.

    Attributes:
        angle: root mean square of the angle between the weight before and after a step, radians.
        steps: time constant of the approach: 1/(2 eta lambda), or that of Adam's second moment,
            1/(1 - beta_2), where it is longer.
        norm_power: p of norm^p = `norm_factor` * drive.
        norm_factor: see `norm_power`; ``drive`` is ‖g‖²‖w‖² for SGD, and the number of elements
            for Adam.
    """

    angle: float
    steps: float
    norm_power: int
    norm_factor: float

    def norm(self, drive: float) -> float:
        """Return the length that the weight settles at.

        Args:
            drive: ‖g‖²‖w‖², the squared gradient on the unit sphere, for SGD; the number of
                elements for Adam and AdamW.
        """
        return float((self.norm_factor * drive) ** (1 / self.norm_power))


def equilibrium(optimizer: torch.optim.Optimizer, group: int = 0) -> Equilibrium:
    """Return where a scale-invariant weight settles under an optimizer with weight decay.

    Gradients of different steps are taken as uncorrelated, and orthogonal to the weight, which
    scale invariance makes them. With eta the rate and lambda the decay:

    =====================  ==============================================  ========================
    optimizer              angle per step                                  length
    =====================  ==============================================  ========================
    SGD                    √(2 eta lambda)                                 (eta G²/(2 lambda))^(1/4)
    SGD with momentum a    √(2 eta lambda/(1 + a))                         (eta G²/(2 lambda
                                                                           (1 - a)))^(1/4)
    AdamW                  √(2 eta lambda (1 - beta_1)/(1 + beta_1))       (eta C/(2 lambda))^(1/2)
    =====================  ==============================================  ========================

    with G = ‖g‖‖w‖ and C the number of elements.

    Args:
        optimizer: `torch.optim.SGD` or `AdamW`, with weight decay.
        group: of its parameters.

    Returns:
        Angle, length, and the steps it takes.

    Raises:
        BadInput: another class of optimizer, no weight decay or rate, Nesterov momentum or
            dampening.

    Source: van Laarhoven 2017, section 3 (SGD); Kosson, Messmer & Jaggi 2023, table 1.

    Example:
        >>> weights = [torch.nn.Parameter(torch.ones(10))]
        >>> found = equilibrium(torch.optim.SGD(weights, lr=0.01, weight_decay=0.1))
        >>> round(found.angle, 5), round(found.norm(1.0), 4)
        (0.04472, 0.4729)
    """
    settings = optimizer.param_groups[group]
    rate, decay = float(settings["lr"]), float(settings["weight_decay"])
    if not rate > 0 or not decay > 0:
        raise BadInput(
            "an equilibrium needs a learning rate and weight decay above 0, got "
            f"lr={rate:g}, weight_decay={decay:g}"
        )
    product = 2 * rate * decay
    if type(optimizer) is torch.optim.SGD and _plain(settings):
        momentum = float(settings["momentum"])
        factor = rate / (2 * decay * (1 - momentum))
        return Equilibrium(math.sqrt(product / (1 + momentum)), 1 / product, 4, factor)
    if type(optimizer) is torch.optim.AdamW:
        beta = float(settings["betas"][0])
        angle = math.sqrt(product * (1 - beta) / (1 + beta))
        steps = max(1 / product, 1 / (1 - float(settings["betas"][1])))
        return Equilibrium(angle, steps, 2, rate / (2 * decay))
    raise BadInput(
        f"no equilibrium is known for {type(optimizer).__name__} with these settings; there is one "
        "for SGD, SGD with plain momentum, and AdamW"
    )


def _plain(settings: dict[str, Any]) -> bool:
    return not settings["nesterov"] and settings["dampening"] == 0
