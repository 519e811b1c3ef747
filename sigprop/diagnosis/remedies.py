"""Remedies as Python for the network at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sigprop.diagnosis.subject import Subject


@dataclass(frozen=True)
class Remedy:
    """What to do.

    Attributes:
        words: in one sentence.
        code: in Python; empty where no line of code does it.
    """

    words: str
    code: str = ""


#: Class of an activation -> its name in torch.nn.init.calculate_gain.
_GAINS = {"ReLU": "relu", "Tanh": "tanh", "SELU": "selu", "Sigmoid": "sigmoid"}


def he_initialized(subject: Subject) -> Remedy:
    """Return the initialization that keeps the second moment under the network's activation.

    Args:
        subject: the network.
    """
    known = [gain for kind, gain in _GAINS.items() if kind in subject.types]
    gain = known[0] if known else "relu"
    code = (
        "for layer in model.modules():\n"
        "    if isinstance(layer, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)):\n"
        f'        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="{gain}")\n'
        "        if layer.bias is not None:\n"
        "            torch.nn.init.zeros_(layer.bias)"
    )
    return Remedy("initialize the layers for their activation", code)


def branches_scaled(subject: Subject) -> Remedy:
    """Return the line that scales the last weight of every block by 1/√L.

    Args:
        subject: a residual network.
    """
    last = subject.matrices.drop_duplicates("name").groupby("block", sort=True)["name"].last()
    names = [str(name) for name in last]
    words = "scale each branch by 1/√L, as Fixup and RescaleNet do, or start it at 0"
    if not names:
        return Remedy(words)
    listed = ",\n    ".join(f'"{name}"' for name in names)
    code = (
        f"last = [\n    {listed},\n]\n"
        "with torch.no_grad():\n"
        "    for name in last:\n"
        "        model.get_parameter(name).mul_(len(last) ** -0.5)"
    )
    return Remedy(words, code)


def one_block_scaled(subject: Subject, block: int, log: float) -> Remedy:
    """Return the line that takes one block's own factor out of its last weight.

    Args:
        subject: the network.
        block: its depth index.
        log: logarithm of the factor by which it multiplies the second moment.
    """
    inside = subject.matrices[subject.matrices["block"] == block]
    name = subject.labels.get(block, "")
    words = f"look at {name or f'block {block}'}: its weights, its activation, its input"
    if inside.empty or not math.isfinite(log):
        return Remedy(words)
    weight = inside["name"].iloc[-1]
    code = (
        "with torch.no_grad():\n"
        f'    model.get_parameter("{weight}").mul_({math.exp(max(min(-log / 2, 300), -300)):.3g})'
    )
    return Remedy(f"{words}; or scale its last weight", code)


def slower(factor: float) -> Remedy:
    """Return a smaller learning rate.

    Args:
        factor: by how much smaller.
    """
    code = (
        "for group in optimizer.param_groups:\n"
        f'    group["lr"] /= {factor:.3g}'
    )  # fmt: skip
    return Remedy("lower the learning rate, or warm it up over the first steps", code)
