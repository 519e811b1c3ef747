"""The same network with circular padding, to see what zeros at the border do to a signal."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from sigprop.inputs.factories import Factory, copied, factory, initialize

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def with_circular_padding(
    model: nn.Module | Factory | str, options: Mapping[str, object] | None, seed: int
) -> nn.Module | Factory | None:
    """Return the same networks with padding that wraps around; None where none puts zeros.

    Args:
        model: a model, of which a copy is changed; or what builds one, with the same weights.
        options: of a network of the zoo.
        seed: with which it is looked whether there are such convolutions.
    """
    if isinstance(model, nn.Module):
        return _changed(copied(model)) if _padded_with_zeros(model) else None
    build = factory(model, **(options or {}))
    if not _padded_with_zeros(initialize(build, seed)):
        return None
    return lambda: _changed(build())


def _changed(model: nn.Module) -> nn.Module:
    for convolution in _padded_with_zeros(model):
        convolution.padding_mode = "circular"
    return model


def _padded_with_zeros(model: nn.Module) -> list[nn.Conv1d | nn.Conv2d | nn.Conv3d]:
    return [
        module
        for module in model.modules()
        if isinstance(module, _CONVOLUTIONS) and module.padding_mode == "zeros" and _pads(module)
    ]


def _pads(convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    padding = convolution.padding
    if isinstance(padding, str):
        return padding == "same" and max(convolution.kernel_size) > 1
    return max(padding) > 0
