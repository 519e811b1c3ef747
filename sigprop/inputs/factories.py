"""How a network is named: a name of the zoo, ``module:factory``, or a callable, made a factory."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from sigprop import networks
from sigprop.errors import BadInput, UnknownName, suggestion

Factory = Callable[[], nn.Module]


def factory(network: str | Factory, **options: object) -> Factory:
    """Return a callable without arguments that builds the network anew.

    Args:
        network: a name of `networks.names`, an import path ``package.module:function`` (looked up
            from the current folder too), or the callable itself.
        options: of a network of the zoo (depth, width, inputs, ...); others take none.

    Raises:
        UnknownName: there is no such network, module or function; the nearest names are offered.
        BadInput: it is neither a string nor a callable.

    Example:
        >>> net = factory("plain", depth=2, width=8)()
        >>> len(net.blocks)
        2
    """
    if not isinstance(network, str):
        if isinstance(network, nn.Module) or not callable(network):
            raise BadInput(
                "a network is a name, 'module:factory' or a callable that builds one anew, not "
                f"{type(network).__name__}"
            )
        return network
    if ":" in network:
        return _imported(network)
    _ = networks.NETWORKS[network]  # an unknown name is told now, not at the first seed
    return lambda: networks.build(network, **options)  # type: ignore[arg-type]


def design(network: str | Factory, **options: object) -> dict[str, object]:
    """Return what a manifest keeps of a network of the zoo: its name and all its options.

    Args:
        network: as in `factory`.
        options: those that were given; the others are at their defaults.

    Returns:
        A mapping from which theory finds the network's recursion; an empty one for a network that
        is not of the zoo.

    Example:
        >>> design("plain", depth=2)["width"], design("torch.nn:Linear", depth=2)
        (64, {})
    """
    if isinstance(network, str) and network in networks.NETWORKS:
        return {"network": network, **networks.resolve(network, **options)}
    return {}


def initialize(build: Factory, seed: int) -> nn.Module:
    """Return a model built from ``seed``, leaving the global random state as it was.

    Raises:
        BadInput: what was built is not a module.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build()
    if not isinstance(model, nn.Module):
        raise BadInput(f"the factory returned {type(model).__name__}, not an nn.Module")
    return model


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model, for what would change it.

    Raises:
        BadInput: it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise BadInput(
            f"this model cannot be copied ({type(error).__name__}: {error}); pass a callable that "
            "builds it"
        ) from error


def _imported(path: str) -> Factory:
    module_name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UnknownName(f"cannot import {module_name!r} of {path!r}: {error}") from error
    finally:
        sys.path.remove(here)
    found = getattr(module, attribute, None)
    if not callable(found):
        callables = [name for name, value in vars(module).items() if callable(value)]
        raise UnknownName(
            f"module {module_name!r} has no factory {attribute!r}; "
            f"{suggestion(attribute, callables)}"
        )
    build: Factory = found
    return build
