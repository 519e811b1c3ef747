"""What claims of no network of the zoo are measured on: norms, a convolution, data."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from sigprop.inputs.datasets import resolve

Array = npt.NDArray[np.float64]

#: He's gain² for ReLU.
HE = 2.0


Norm = Callable[[Tensor], Tensor]


def batch_norm(x: Tensor) -> Tensor:
    """Return x with mean 0 and biased variance 1 over the batch; eps as small as torch allows."""
    return functional.batch_norm(x, None, None, training=True, eps=1e-30)


def batch_norm_eps(x: Tensor) -> Tensor:
    """Return the same with the usual eps of 1e-5."""
    return functional.batch_norm(x, None, None, training=True)


def layer_norm(x: Tensor) -> Tensor:
    """Return x with mean 0 and variance 1 over each sample's features; no eps."""
    return functional.layer_norm(x, x.shape[1:], eps=1e-30)


def conv(inputs: int, outputs: int, gain2: float, kernel: int = 3) -> nn.Conv2d:
    """Return a circular convolution without bias and with weights N(0, gain²/fan_in).

    Args:
        inputs: channels read.
        outputs: channels returned.
        gain2: gain².
        kernel: side of the kernel, odd.
    """
    layer = nn.Conv2d(
        inputs, outputs, kernel, padding=kernel // 2, padding_mode="circular", bias=False
    )
    nn.init.normal_(layer.weight, std=math.sqrt(gain2 / (inputs * kernel**2)))
    return layer


def digits(count: int = 256) -> tuple[Tensor, Tensor]:
    """Return the first images (N, 1, 8, 8) and labels of the digits' training split."""
    source = resolve("digits").train
    assert isinstance(source, tuple)
    return source[0][:count].float(), source[1][:count]


def gaussian(generator: torch.Generator, *shape: int, double: bool = False) -> Tensor:
    """Return standard normal numbers.

    Args:
        generator: the stream.
        *shape: of the tensor.
        double: float64; float32 otherwise.
    """
    return torch.randn(
        *shape, generator=generator, dtype=torch.float64 if double else torch.float32
    )
