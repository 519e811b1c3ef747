"""Singular values of a convolution as the map of whole images that it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from sigprop.errors import BadInput
from sigprop.linear_operators import Operator, largest_singular_values
from sigprop.linear_operators.extremes import check_count
from sigprop.linear_operators.operator import DENSE_LIMIT
from sigprop.spectra.of_weights import check_finite
from sigprop.spectra.rows import frame, spectrum

if TYPE_CHECKING:
    import pandas as pd

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_ANY = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


def convolution(
    module: nn.Module, input_shape: Sequence[int], k: int | None = None, *, name: str = ""
) -> pd.DataFrame:
    """Return the singular values of a convolution, its bias left out, on images of one size.

    With circular padding they are exact by the Fourier transform, one small decomposition for each
    frequency (Sedghi, Gupta & Long 2019), for any dilation and groups, and for a stride that
    divides the image; likewise for a kernel of one pixel without padding. With any other padding
    the map is written out where it is small, and its k largest values are found from its products
    with images where it is large. A transposed convolution is taken as it is.

    The values of the flattened kernel, which `sigprop.spectra.weights` returns, are those of no
    convolution: σ_max here is at most √(kh·kw) times the largest of them.

    Args:
        module: a ``nn.Conv1d``, ``Conv2d``, ``Conv3d`` or a transposed one.
        input_shape: of one image: (channels, height, width), without the axis of samples.
        k: only the k largest.
        name: the name in the frame; the module's class by default.

    Returns:
        A `spectra` frame with ``operator="conv"``.

    Raises:
        BadInput: the module is no convolution, the shape does not fit it, a weight is not finite,
            there are fewer than k values, or the map is too large to be written out and no k is
            given.

    Example:
        >>> layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
        >>> _ = nn.init.constant_(layer.weight, 1 / 9)  # a mean of 9 pixels keeps a constant image
        >>> round(float(convolution(layer, (1, 6, 6))["singular_value"].max()), 6)
        1.0
    """
    _check(module, input_shape)
    label = name or type(module).__name__
    check_finite(f"{label}.weight", module.weight)  # type: ignore[arg-type]
    strides = _circular_strides(module, input_shape[1:])
    if strides is not None and isinstance(module, Convolution):
        values = _by_fourier(module, tuple(input_shape[1:]), strides)
        size = len(values)
    else:
        operator = _operator(module, tuple(input_shape), label)
        size = min(operator.shape)
        values = _values(operator, k)
    if k is not None:
        check_count(k, size, label)
    return frame([spectrum(label, "conv", values[:k], size=size)])


def _check(module: nn.Module, input_shape: Sequence[int]) -> None:
    if not isinstance(module, _ANY) or isinstance(module.weight, nn.UninitializedParameter):
        raise BadInput(
            f"{type(module).__name__} is no convolution with weights; pass a nn.Conv1d, Conv2d, "
            "Conv3d or a transposed one"
        )
    axes = len(module.kernel_size)
    if len(input_shape) != axes + 1 or input_shape[0] != module.in_channels or min(input_shape) < 1:
        raise BadInput(
            f"{type(module).__name__} takes images of ({module.in_channels} channels, "
            f"{axes} axes), not of shape {tuple(input_shape)}"
        )


# --- by the Fourier transform ---------------------------------------------------------------------


def _circular_strides(module: nn.Module, sides: Sequence[int]) -> tuple[int, ...] | None:
    """Return the strides of a convolution that is circular on images of this size, else None."""
    if not isinstance(module, Convolution):
        return None
    strides: list[int] = []
    for axis, side in enumerate(sides):
        extent = module.dilation[axis] * (module.kernel_size[axis] - 1)
        if isinstance(module.padding, str):
            padding = extent if module.padding == "same" else 0
        else:
            padding = 2 * int(module.padding[axis])
        stride = module.stride[axis]
        outputs = (side + padding - extent - 1) // stride + 1
        wraps = module.padding_mode == "circular" or (padding == 0 and extent == 0)
        if not wraps or outputs * stride != side:
            return None
        strides.append(stride)
    return tuple(strides)


def _by_fourier(
    module: Convolution, sides: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    """Return all singular values, largest first.

    A stride s keeps one of s positions, and so adds up the s input frequencies that look alike
    there: each output frequency has a block of out/groups by in/groups·s. The kernel is real, so
    that a frequency and its negative have the same values, and half of them are enough.
    """
    kernel = module.weight.detach().to("cpu", torch.float64)
    for axis, side in enumerate(sides):  # onto the circle: taps a whole turn apart add up
        places = torch.arange(kernel.shape[axis + 2]) * module.dilation[axis] % side
        shape = list(kernel.shape)
        shape[axis + 2] = side
        kernel = torch.zeros(shape, dtype=kernel.dtype).index_add_(axis + 2, places, kernel)
    symbol = torch.fft.fftn(kernel, dim=list(range(2, kernel.ndim)))
    groups, out, into = module.groups, kernel.shape[0] // module.groups, kernel.shape[1]
    split = [n for pair in zip(strides, sides, strict=True) for n in (pair[0], pair[1] // pair[0])]
    blocks = symbol.reshape(groups, out, into, *split)
    alike = list(range(3, blocks.ndim, 2))  # axes of the frequencies that are added up
    kept = list(range(4, blocks.ndim, 2))
    blocks = blocks.permute(*kept, 0, 1, 2, *alike) / math.sqrt(math.prod(strides))
    blocks = blocks.reshape(*(blocks.shape[: len(kept)]), groups, out, -1).movedim(len(kept) - 1, 0)
    last = blocks.shape[0]
    half = torch.linalg.svdvals(blocks[: last // 2 + 1]).flatten(1)
    mirrored = half[1 : (last + 1) // 2]  # all but 0 and, of an even number, the middle
    values = torch.cat([half.flatten(), mirrored.flatten()])
    return values.sort(descending=True)[0].numpy()


# --- by its products with images ------------------------------------------------------------------


def _operator(module: nn.Module, shape: tuple[int, ...], label: str) -> Operator:
    """Return the map in float64, on flattened images."""
    tensors = {name: p.detach().double() for name, p in module.named_parameters()}
    if "bias" in tensors:
        tensors["bias"] = torch.zeros_like(tensors["bias"])
    device = tensors["weight"].device

    def act(images: Tensor) -> Tensor:
        try:
            return functional_call(module, tensors, (images,))
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise BadInput(f"{label} does not take images of shape {shape}: {reason}") from error

    with torch.enable_grad():
        image = torch.zeros(1, *shape, dtype=torch.float64, device=device, requires_grad=True)
        output = act(image)

    def product(v: Tensor) -> Tensor:
        with torch.no_grad():
            return act(v.view(-1, *shape)).reshape(-1)

    def transposed(u: Tensor) -> Tensor:
        found = torch.autograd.grad(output, image, u.view_as(output), retain_graph=True)
        return found[0].reshape(-1)

    size = (output.numel(), image.numel())
    return Operator(label, size, product, transposed, torch.float64, device)


def _values(operator: Operator, k: int | None) -> np.ndarray:
    rows, columns = operator.shape
    small = rows * columns <= DENSE_LIMIT // 16  # decomposed faster than iterated
    if k is not None and not small and k < min(rows, columns):
        return largest_singular_values(operator, k).values
    return torch.linalg.svdvals(operator.dense()).cpu().numpy()
