"""Which axis of a tensor holds its channels, and whether a rectifier made it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sigprop.capture.torch_internals import BATCH_NORMALIZATIONS, CONVOLUTIONS

ChannelDim = int | Mapping[str, int] | None

#: (channel axis, number of channels) of what was made last.
Maker = tuple[int, int]

# Axis of the channels in what a module makes, and the attribute that says how many there are.
_MAKERS: tuple[tuple[tuple[type[nn.Module], ...], int, str], ...] = (
    (CONVOLUTIONS, 1, "out_channels"),
    (BATCH_NORMALIZATIONS, 1, "num_features"),
    ((nn.GroupNorm,), 1, "num_channels"),
    ((nn.Linear,), -1, "out_features"),
    ((nn.Embedding,), -1, "embedding_dim"),
    ((nn.MultiheadAttention,), -1, "embed_dim"),
    ((nn.RNNBase,), -1, "hidden_size"),
)
_RECTIFYING_NODES = ("ReluBackward", "ThresholdBackward")


def made_by(module: nn.Module) -> Maker | None:
    """Return (channel axis, channels) of what a module makes, or None if it only passes it on."""
    if isinstance(module, nn.LayerNorm):
        return -1, int(module.normalized_shape[-1])
    for kinds, axis, attribute in _MAKERS:
        if isinstance(module, kinds):
            return axis, int(getattr(module, attribute))
    return None


def channel_axis(x: Tensor, maker: Maker | None) -> int:
    """Return the channel axis of ``x``, given the last module that made channels.

    A tensor that no longer has the maker's channels on the maker's axis (a permutation came
    between) is searched for them on axis 1, then on the last.

    Args:
        x: of any shape.
        maker: the axis and the number of the channels that were made last, if any were.
    """
    if x.ndim < 2:
        return -1
    axes = (maker[0], 1, -1) if maker else ()
    for axis in axes:
        if maker and x.shape[axis] == maker[1]:
            return axis
    return -1 if x.ndim in (2, 3) else 1


def is_rectified(x: Tensor) -> bool:
    """Return whether autograd says that a rectifier made ``x`` (also a functional one)."""
    return x.grad_fn is not None and x.grad_fn.name().startswith(_RECTIFYING_NODES)
