"""Layers that residual networks without normalisation are made of. No networks, no initialisers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sigprop.errors import BadInput


class Add(nn.Module):
    """The residual addition, as a module so that a hook sees both operands at once.

    Shapes: ``skip`` and ``branch`` alike (or broadcastable); the result has their shape.

    Attributes:
        ports: the names of the positional operands, for whoever looks at them.

    Example:
        >>> Add()(torch.ones(2), torch.tensor([1.0, 2.0]))
        tensor([2., 3.])
    """

    ports = ("skip", "branch")

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return ``skip + branch``."""
        return skip + branch


class Scale(nn.Module):
    """Multiplication by a constant: y = factor * x, of x's shape.

    Args:
        factor: the constant; neither learned nor stored in the state_dict.

    Example:
        >>> Scale(0.5)
        Scale(factor=0.5)
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = float(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``factor * x``."""
        return self.factor * x

    def extra_repr(self) -> str:
        """Show the factor in the module's repr."""
        return f"factor={self.factor:.6g}"


class Multiplier(nn.Module):
    """A learned scalar: y = m x, of x's shape; m has shape (1,) and starts at 1.

    Source: Shao et al. 2020 (RescaleNet), the multiplier m_k of a residual branch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``m * x``."""
        return self.m * x


class BiasBefore(nn.Module):
    """A bias that is added before a matrix product: y = x + b, b := -mean of the first mini-batch.

    Put right before a weight it makes y = W(x + b), so that every channel enters the weight with
    mean 0 on the batch that initialised it. That batch is the first one seen in training mode, and
    it is already centred in that very forward. In evaluation mode b is used but never initialised.
    The outputs of W have mean 0 too, exactly when each tap of a kernel reads every position:
    zero padding and strides leave a small mean.

    Whether b is initialised is a plain Python bool: a forward tests it without asking the device.
    It is part of the state_dict, so that a restored model does not start again.

    Under data parallelism every rank would see another first batch: send one batch through the
    model before it is wrapped, and the wrapper sends that rank's biases to all others.

    Source: Shao et al. 2020 (RescaleNet), the bias moved in front of the weight.

    Args:
        channels: number of channels C.
        dims: spatial axes that follow the channel axis: 0 for (N, ..., C), where channels are last,
            2 for images (N, C, H, W).

    Raises:
        BadInput: (in forward) the batch that should initialise the bias is empty, holds NaN or
            infinity, or has one value per channel.

    Example:
        >>> layer = BiasBefore(2)
        >>> layer(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        tensor([[-1.,  0.],
                [ 1.,  0.]], grad_fn=<AddBackward0>)
    """

    def __init__(self, channels: int, dims: int = 0) -> None:
        super().__init__()
        self.dims = dims
        self.bias = nn.Parameter(torch.empty(channels, *[1] * dims))
        self.initialised = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the bias to zero and wait for a first mini-batch again."""
        nn.init.zeros_(self.bias)
        self.initialised = False

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + b``; x of shape (N, ..., C), or (N, C, *dims spatial axes)."""
        if self.training and not self.initialised:
            self._initialise(x)
        return x + self.bias

    def _initialise(self, x: Tensor) -> None:
        # detached and in the bias' own precision: under autocast x may have 8 bits of mantissa
        seen = x.detach().to(self.bias.dtype)
        channel_axis = seen.dim() - 1 - self.dims
        others = [axis for axis in range(seen.dim()) if axis != channel_axis]
        channels = self.bias.numel()
        if seen.dim() < self.dims + 1 or seen.shape[channel_axis] != channels:
            raise BadInput(
                f"{self} needs {channels} channels on axis {-1 - self.dims}, "
                f"got a batch of shape {tuple(x.shape)}"
            )
        self._check_count(seen.numel() // channels, tuple(x.shape))
        mean = seen.mean(dim=others)
        if not torch.isfinite(mean).all():
            raise BadInput(
                f"the first training batch holds NaN or infinity (shape {tuple(x.shape)}); "
                "the bias before the weight cannot be set to minus its mean"
            )
        with torch.no_grad():
            # copy_ of a new tensor: an in-place sum on an alias of the bias would leave it at zero
            self.bias.copy_(mean.neg().view_as(self.bias))
        self.initialised = True

    def _check_count(self, count: int, shape: tuple[int, ...]) -> None:
        if count == 0:
            raise BadInput(f"the first training batch is empty (shape {shape})")
        if count == 1:
            raise BadInput(
                f"the first training batch has one value per channel (shape {shape}); minus its "
                "mean as a bias would erase the signal: start with a batch of at least 2 samples"
            )

    def get_extra_state(self) -> Tensor:
        """Return whether the bias is initialised, as a tensor, for the state_dict."""
        return torch.tensor(self.initialised)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over whether the bias is initialised from a state_dict."""
        self.initialised = bool(state)

    def extra_repr(self) -> str:
        """Show the sizes in the module's repr."""
        return f"{self.bias.numel()}, dims={self.dims}"
