"""How a network is named: a name of the zoo, ``module:factory``, or a callable, made a factory."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from sigprop import networks
from sigprop.errors import BadInput, UnknownName, suggestion
from sigprop.inputs.devices import placed, seeded

Factory = Callable[[], nn.Module]


def factory(network: str | Factory, **options: object) -> Factory:
    """Return a callable without arguments that builds the network anew.

    Args:
        network: a name of `networks.names`, an import path ``package.module:function`` (looked up
            from the current folder too), or the callable itself.
        options: of a network of the zoo (depth, width, inputs, ...); others take none.

    Returns:
        A callable that returns a freshly initialized module.

    Raises:
        UnknownName: there is no such network, module or function; the nearest names are offered.
        BadInput: it is neither a string nor a callable, or a callable that needs arguments.

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
        return _without_arguments(network, getattr(network, "__qualname__", "the callable"))
    if ":" in network:
        return _imported(network)
    _ = networks.NETWORKS[network]  # an unknown name is found now, not at the first seed
    return lambda: networks.build(network, **options)  # type: ignore[arg-type]


def design(network: str | Factory, **options: object) -> dict[str, object]:
    """Return what a manifest keeps of a network of the zoo: its name and all its options.

    Args:
        network: as in `factory`.
        options: those that were given; the others are at their defaults.

    Returns:
        A mapping from which theory finds the network's recursion; an empty one for a network that
        is not of the zoo.

    Args:
        network: as `factory` takes it.
        options: of a network of the zoo.

    Returns:
        ``{"network": name, **options}``; empty for a network that is not of the zoo.

    Example:
        >>> design("plain", depth=2)["width"], design("torch.nn:Linear", depth=2)
        (64, {})
    """
    if isinstance(network, str) and network in networks.NETWORKS:
        return {"network": network, **networks.resolve(network, **options)}
    return {}


def initialize(build: Factory, seed: int, device: torch.device | None = None) -> nn.Module:
    """Return a model built from ``seed``, leaving the global random state as it was.

    Weights are drawn where the factory draws them, on the CPU unless it says otherwise, and moved
    afterwards: they do not depend on ``device``.

    Args:
        build: a callable without arguments; an exception in it is the caller's own and not caught.
        seed: of torch's global generators while it runs.
        device: where the model goes; it stays where it was built when not given.

    Returns:
        The model.

    Raises:
        BadInput: what was built is not a module, or cannot be moved to the device.
    """
    with seeded(seed):
        model = build()
    if not isinstance(model, nn.Module):
        raise BadInput(f"the factory returned {type(model).__name__}, not an nn.Module")
    return model if device is None else placed(model, device)


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model, for what would change it.

    Raises:
        BadInput: it cannot be copied.
    """
    try:
        with torch.no_grad():  # else the weights of a scripted part are copied into a graph
            twin = copy.deepcopy(model)
    except Exception as error:
        raise BadInput(
            f"this model cannot be copied ({type(error).__name__}: {error}); pass a callable that "
            "builds it"
        ) from error
    for own, new in zip(model.parameters(), twin.parameters(), strict=True):
        new.requires_grad_(own.requires_grad)
    return twin


def _without_arguments(build: Factory, name: str) -> Factory:
    """Return ``build`` if it can be called without arguments.

    Raises:
        BadInput: it has parameters without a default.
    """
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # written in C, or it hides its signature
        return build
    needed = [
        repr(p.name)
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise BadInput(
            f"the factory {name} needs arguments ({', '.join(needed)}); a factory is called "
            "without any: give them defaults, or wrap it in a function that fills them in"
        )
    return build


def _imported(path: str) -> Factory:
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise BadInput(f"an import path is 'package.module:factory', not {path!r}")
    module = _module(module_name, path)
    found = getattr(module, attribute, None)
    if not callable(found):
        callables = [name for name, value in vars(module).items() if callable(value)]
        raise UnknownName(
            f"module {module_name!r} has no factory {attribute!r}; "
            f"{suggestion(attribute, callables)}"
        )
    build: Factory = found
    return _without_arguments(build, repr(path))


def _module(name: str, path: str) -> object:
    """Import a module, looked up from the current folder first.

    Returns:
        The module.

    Raises:
        UnknownName: there is no such module.
        BadInput: it raises when it is imported.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnknownName(f"cannot import {name!r} of {path!r}: {error}") from error
    except SyntaxError as error:
        where = f"{Path(error.filename or name).name}, line {error.lineno}"
        raise BadInput(f"module {name!r} has a syntax error in {where}: {error.msg}") from error
    finally:
        sys.path.remove(here)
