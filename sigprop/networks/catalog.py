"""The zoo's catalog: networks by name, and the options they take. No family is named here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import TypeVar

from torch import nn

from sigprop.errors import BadInput, suggestion
from sigprop.networks.design import Design
from sigprop.registry import Registry

NETWORKS: Registry[Callable[..., nn.Module]] = Registry("network")
#: Networks that have one architecture, whatever is asked for.
_ONLY: dict[str, str] = {}
Network = TypeVar("Network", bound=Callable[..., nn.Module])


def register(name: str, architecture: str | None = None) -> Callable[[Network], Network]:
    """Return a decorator that registers a network under ``name``.

    A network is a callable ``(design, **options) -> nn.Module``: `Design` holds the options that
    all networks share, its own options are keyword arguments with defaults.

    Args:
        name: of the network.
        architecture: the only one that it has, if it has only one.

    Raises:
        BadInput: the name is taken.

    Example:
        >>> @register("linear-classifier")
        ... def linear_classifier(design: Design, bias: bool = True) -> nn.Module:
        ...     return nn.Linear(design.inputs[0], design.classes, bias=bias)
        >>> build("linear-classifier", inputs=4, classes=2, bias=False)
        Linear(in_features=4, out_features=2, bias=False)
        >>> del NETWORKS._entries["linear-classifier"]
    """

    def register_network(network: Network) -> Network:
        """Return the network, which is registered."""
        NETWORKS.register(name)(network)
        if architecture is not None:
            _ONLY[name] = architecture
        return network

    return register_network


def names() -> list[str]:
    """Return the names of all networks, in the order they were registered."""
    return list(NETWORKS)


def options(name: str) -> Mapping[str, object]:
    """Return a network's own options and their defaults.

    Raises:
        UnknownName: no network has that name.
    """
    own = list(inspect.signature(NETWORKS[name]).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in own}


def resolve(name: str, **given: object) -> dict[str, object]:
    """Return every option of a network: those given, and the defaults of all others.

    Args:
        name: one of `names()`.
        given: options of `build`.

    Raises:
        UnknownName: no network has that name.
        BadInput: it has no such option.

    Example:
        >>> design = resolve("skipinit", depth=3)
        >>> design["depth"], design["width"], design["gain"]
        (3, 64, 0.0)
    """
    shared = {field.name: field.default for field in fields(Design)}
    _check_options(name, [option for option in given if option not in shared])
    resolved = {**shared, **options(name), **given}
    resolved["architecture"] = _ONLY.get(name, resolved["architecture"])
    return {**resolved, "inputs": _shape(resolved["inputs"])}


def _shape(inputs: object) -> tuple[int, ...]:
    return (inputs,) if isinstance(inputs, int) else tuple(inputs)  # type: ignore[arg-type]


def build(
    name: str,
    *,
    depth: int = 20,
    width: int = 64,
    architecture: str = "mlp",
    inputs: int | Iterable[int] = (1, 8, 8),
    classes: int = 10,
    order: str = "norm-act-weight",
    branch_layers: int = 2,
    activation: str = "relu",
    stages: int = 1,
    padding: str = "zeros",
    skip: bool = True,
    block: str = "basic",
    bottleneck: int = 4,
    groups: int = 1,
    heads: int = 2,
    **family_options: object,
) -> nn.Module:
    """Build a network by name, freshly initialized from torch's global generator.

    The shared options are explained at `Design`, a network's own ones at its function; `options`
    lists them. Inputs of the network have shape (N, *inputs), its outputs (N, classes).

    Args:
        name: one of `names()`.
        depth: number of residual blocks; layers of a Transformer's encoder.
        width: units, or channels of the first stage.
        architecture: ``"mlp"``, ``"resnet"`` or ``"transformer"``.
        inputs: shape of one sample, or the number of features.
        classes: number of outputs.
        order: ``"norm-act-weight"``, ``"act-norm-weight"`` or ``"weight-norm-act"``.
        branch_layers: weights in a branch.
        activation: ``"relu"``, ``"tanh"``, ``"gelu"``, ``"silu"``, ``"identity"`` and others.
        stages: stages of a ResNet.
        padding: ``"zeros"`` or ``"circular"``.
        skip: False for a network without skip connections.
        block: ``"basic"`` or ``"bottleneck"``, of a ResNet.
        bottleneck: width of a block over that inside its bottleneck.
        groups: of the 3x3 convolutions in branches.
        heads: of attention.
        family_options: the network's own options.

    Returns:
        A module that maps (N, *inputs) to (N, classes).

    Raises:
        UnknownName: no network has that name.
        BadInput: an option is unknown, or its value cannot be used.

    Example:
        >>> import torch
        >>> net = build("rescale", depth=4, width=16, c=4)
        >>> net(torch.randn(8, 1, 8, 8)).shape
        torch.Size([8, 10])
    """
    network = NETWORKS[name]
    _check_options(name, family_options)
    design = Design(
        depth=depth,
        width=width,
        architecture=_ONLY.get(name, architecture),
        inputs=_shape(inputs),
        classes=classes,
        order=order,
        branch_layers=branch_layers,
        activation=activation,
        stages=stages,
        padding=padding,
        skip=skip,
        block=block,
        bottleneck=bottleneck,
        groups=groups,
        heads=heads,
    )
    return network(design, **family_options)


def _check_options(name: str, given: Iterable[str]) -> None:
    own = list(options(name))
    for option in given:
        if option not in own:
            has = f"its own options: {', '.join(own)}" if own else "it has none of its own"
            shared = [field.name for field in fields(Design)]
            raise BadInput(
                f"network {name!r} has no option {option!r} ({has}); "
                f"{suggestion(option, [*own, *shared], most=len(own) + len(shared))}"
            )
