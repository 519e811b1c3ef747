"""The submodules of a user's model, each with its parent, and what was changed in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from sigprop.errors import BadInput
from sigprop.networks.layers import Add
from sigprop.networks.weights import Weighted


@dataclass(frozen=True)
class Change:
    """One thing that surgery did, or left as it was.

    Attributes:
        name: of the module.
        what: in words.
        done: False where nothing was changed, and ``what`` says why.

    Example:
        >>> print(Change("layer1.0.conv1", "weight standardized, gamma 1.71286"))
        layer1.0.conv1: weight standardized, gamma 1.71286
    """

    name: str
    what: str
    done: bool = True

    def __str__(self) -> str:
        return f"{self.name}: {self.what}" if self.done else f"{self.name}: unchanged, {self.what}"


@dataclass(frozen=True)
class Submodule:
    """A module inside a model: under which parent, by which key.

    Attributes:
        name: from the root.
        parent: the module that holds it.
        key: its name there.
        module: itself.
    """

    name: str
    parent: nn.Module
    key: str
    module: nn.Module

    @property
    def layer(self) -> Weighted:
        """The module as a layer with a weight."""
        assert isinstance(self.module, nn.Conv2d | nn.Linear)
        return self.module

    def replace_by(self, module: nn.Module) -> None:
        """Register another module in the parent under the same key."""
        setattr(self.parent, self.key, module)


def submodules(model: nn.Module) -> list[Submodule]:
    """Return every module below the model once, in the order of assignment, depth first.

    Raises:
        BadInput: an addition or a layer with a weight is registered twice.
    """
    found: list[Submodule] = []
    _walk(model, "", found, {})
    return found


def _walk(parent: nn.Module, prefix: str, found: list[Submodule], seen: dict[int, str]) -> None:
    # named_children() hides a second mention
    for key, module in parent.named_modules(remove_duplicate=False):
        if not key or "." in key:  # the parent itself, and what lies deeper
            continue
        name = f"{prefix}.{key}" if prefix else key
        if id(module) in seen:
            if isinstance(module, Add | nn.Conv2d | nn.Linear):
                raise BadInput(
                    f"{name!r} and {seen[id(module)]!r} are one module in two places; "
                    "what suits one does not suit the other: give each its own"
                )
            continue
        seen[id(module)] = name
        found.append(Submodule(name, parent, key, module))
        _walk(module, name, found, seen)


def weighted_layers(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[Submodule]:
    """Return the submodules that are layers of the given kinds.

    Subclasses are passed over: the projection inside nn.MultiheadAttention is never called.

    Args:
        model: the model, left as it is.
        kinds: classes of layers, such as ``(nn.Conv2d, nn.Linear)``.

    Returns:
        One `Submodule` per layer, in the order of assignment.

    Raises:
        BadInput: there is none, or one is lazy, parametrized, or registered twice.
    """
    words = " or ".join(kind.__name__ for kind in kinds)
    if isinstance(model, kinds):
        raise BadInput(f"the model is one {words} itself; wrap it in nn.Sequential first")
    near = [submodule for submodule in submodules(model) if isinstance(submodule.module, kinds)]
    for submodule in near:
        if isinstance(submodule.module, LazyModuleMixin):
            raise BadInput(f"{submodule.name!r} is lazy: send one batch through the model first")
        if parametrize.is_parametrized(submodule.module):
            raise BadInput(f"{submodule.name!r} is parametrized already; remove that first")
    found = [submodule for submodule in near if type(submodule.module) in kinds]
    if not found:
        raise BadInput(f"the model has no {words} layer of its own")
    return found


def run_in_evaluation(model: nn.Module, inputs: Tensor, training: Iterable[nn.Module] = ()) -> None:
    """Run the model once without gradient, in evaluation mode but for ``training``.

    Args:
        model: every module's mode is put back afterwards, also after an exception.
        inputs: the batch.
        training: modules that run in training mode.
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    for module in training:
        module.train()
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for module, flag in flags:
            module.training = flag


def check_batch(inputs: Tensor) -> None:
    """Refuse a batch that statistics cannot be taken from.

    Raises:
        BadInput: it is no tensor, has fewer than 2 samples, or holds NaN or infinity.
    """
    if not isinstance(inputs, Tensor):
        raise BadInput(f"inputs must be one tensor, got {type(inputs).__name__}")
    if inputs.dim() < 2 or len(inputs) < 2:
        raise BadInput(
            f"the first batch has shape {tuple(inputs.shape)}; statistics need at least 2 samples"
        )
    if inputs.is_floating_point() and not torch.isfinite(inputs).all():
        raise BadInput("the first batch holds NaN or infinity")
