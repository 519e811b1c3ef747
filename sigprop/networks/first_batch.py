"""Layers whose parameters are set from the first mini-batches they see in training mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sigprop.errors import BadInput


class DataDependentLayer(nn.Module):
    """Base of a layer whose parameters are initialized from its first training batches.

    The count of batches seen is a plain Python int: a forward compares it without a device
    synchronization. It is part of the state_dict, so that a restored model does not start again.
    Batches in evaluation mode are not counted.

    Under data parallelism every rank would see another first batch: send one batch through the
    model before it is wrapped, and the wrapper sends that rank's parameters to all others.

    Args:
        channels: number of channels C.
        dims: spatial axes that follow the channel axis: 0 for (N, ..., C), where channels are last,
            2 for images (N, C, H, W).
        batches: how many batches the initialization reads.

    Raises:
        BadInput: ``batches`` is negative; or, in forward, such a batch is empty, holds NaN or
            infinity, or has one value per channel.
    """

    def __init__(self, channels: int, dims: int, batches: int) -> None:
        super().__init__()
        if batches < 0:
            raise BadInput(f"the number of first batches must be at least 0, got {batches!r}")
        self.channels, self.dims, self.batches = channels, dims, batches
        self.seen = 0

    @property
    def initialized(self) -> bool:
        """Whether all the first batches have been seen."""
        return self.seen >= self.batches

    def initialize_if_first(self, x: Tensor) -> None:
        """Initialize the parameters from a training batch that is one of the first.

        Raises:
            BadInput: the batch has other channels, is empty, has one value per channel, or holds
                NaN or infinity.
        """
        if self.training and not self.initialized:
            values = self._checked(x)
            with torch.no_grad():
                self.initialize_from(values)
            self.seen += 1

    def initialize_from(self, values: Tensor) -> None:
        """Set the parameters from a batch, ``values`` of shape (C, samples).

        Raises:
            NotImplementedError: a subclass does not define it.
        """
        raise NotImplementedError

    def _checked(self, x: Tensor) -> Tensor:
        # detached and in the parameters' precision: under autocast x may have 8 bits of mantissa
        seen = x.detach().to(next(self.parameters()).dtype)
        axis = seen.dim() - 1 - self.dims
        if seen.dim() < self.dims + 1 or seen.shape[axis] != self.channels:
            raise BadInput(
                f"{self} needs {self.channels} channels on axis {-1 - self.dims}, "
                f"got a batch of shape {tuple(x.shape)}"
            )
        shape = tuple(x.shape)
        self._check_count(seen.numel() // self.channels, shape)
        if not torch.isfinite(seen).all():
            raise BadInput(
                f"the first training batch holds NaN or infinity (shape {shape}); "
                f"{self} cannot be initialized from it"
            )
        return seen.movedim(axis, 0).flatten(1)

    def _check_count(self, count: int, shape: tuple[int, ...]) -> None:
        if count == 0:
            raise BadInput(f"the first training batch is empty (shape {shape})")
        if count == 1:
            raise BadInput(
                f"the first training batch has one value per channel (shape {shape}), which is its "
                "own mean and has no variance: start with a batch of at least 2 samples"
            )

    def get_extra_state(self) -> Tensor:
        """Return how many first batches were seen, as a tensor, for the state_dict."""
        return torch.tensor(self.seen, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Restore from a state_dict how many first batches were seen."""
        self.seen = int(state)

    def extra_repr(self) -> str:
        """Return the sizes, for the module's repr."""
        more = f", batches={self.batches}" if self.batches != 1 else ""
        return f"{self.channels}, dims={self.dims}{more}"


class BiasBefore(DataDependentLayer):
    """A bias that is added before a matrix product: y = x + b, b := -mean of the first mini-batch.

    Put right before a weight it makes y = W(x + b), so that every channel enters the weight with
    mean 0 on the batch that initialized it. That batch is the first one seen in training mode, and
    it is already centered in that very forward. In evaluation mode b is used but never initialized.
    The outputs of W have mean 0 too, exactly when each tap of a kernel reads every position:
    zero padding and strides leave a small mean.

    With ``batches`` = n, b is minus the running mean of the first n batches' means. (The authors'
    code has n = 8, counts batches in evaluation too and shrinks the bias meanwhile; this does not.)

    Source: Shao et al. 2020 (RescaleNet), the bias moved in front of the weight.

    Args:
        channels: number of channels C.
        dims: spatial axes after the channel axis.
        batches: how many first batches to average over.

    Raises:
        BadInput: (in forward) as for `DataDependentLayer`.

    Example:
        >>> layer = BiasBefore(2)
        >>> layer(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        tensor([[-1.,  0.],
                [ 1.,  0.]], grad_fn=<AddBackward0>)
    """

    def __init__(self, channels: int, dims: int = 0, batches: int = 1) -> None:
        super().__init__(channels, dims, batches)
        self.bias = nn.Parameter(torch.empty(channels, *[1] * dims))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the bias to zero; the next training mini-batch initializes it again."""
        nn.init.zeros_(self.bias)
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x + b``; x of shape (N, ..., C), or (N, C, *dims spatial axes)."""
        self.initialize_if_first(x)
        return x + self.bias

    def initialize_from(self, values: Tensor) -> None:
        """Move the bias towards minus the batch mean: all the way first, then 1/2, 1/3, ..."""
        mean = values.mean(dim=1).view_as(self.bias)
        # not a sum on an alias of the bias, which would leave it at zero as in a public port
        self.bias.copy_(torch.lerp(self.bias, -mean, 1 / (self.seen + 1)))


class Affine(DataDependentLayer):
    """A learned gain and bias per channel: y = g t + b, of t's shape.

    Behind a weight with rows of unit norm, t = v.x/‖v‖, this is weight normalization. With
    ``data_dependent``, the first training batch sets g = 1/std[t] and b = -mean[t]/std[t], so that
    y has mean 0 and variance 1 on it (population variance; a constant channel is refused).

    Source: Salimans & Kingma 2016, eqs. 2 and 6.

    Args:
        channels: number of channels C.
        dims: spatial axes after the channel axis.
        gain: g at the start.
        bias: whether there is a b; without, a data-dependent start sets g only.
        data_dependent: see above.

    Raises:
        BadInput: (in forward) as for `DataDependentLayer`, or a channel is constant.

    Example:
        >>> layer = Affine(1, data_dependent=True)
        >>> layer(torch.tensor([[2.0], [6.0]])).flatten().tolist()
        [-1.0, 1.0]
    """

    def __init__(
        self,
        channels: int,
        dims: int = 0,
        gain: float = 1.0,
        bias: bool = True,
        data_dependent: bool = False,
    ) -> None:
        super().__init__(channels, dims, int(data_dependent))
        shape = (channels, *[1] * dims)
        self.gain = nn.Parameter(torch.full(shape, float(gain)))
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None

    def forward(self, t: Tensor) -> Tensor:
        """Return ``g * t + b``; t of shape (N, ..., C), or (N, C, *dims spatial axes)."""
        self.initialize_if_first(t)
        scaled = t * self.gain
        return scaled if self.bias is None else scaled + self.bias

    def initialize_from(self, values: Tensor) -> None:
        """Set g = 1/std and b = -mean/std of the batch, ``values`` of shape (C, samples).

        Raises:
            BadInput: a channel is constant over the batch.
        """
        std, mean = torch.std_mean(values, dim=1, correction=0)
        if not (std > 0).all():
            raise BadInput(
                f"{int((std == 0).sum())} of {self.channels} channels are constant over the first "
                "training batch; a gain of 1/std does not exist for them"
            )
        self.gain.copy_((1 / std).view_as(self.gain))
        if self.bias is not None:
            self.bias.copy_((-mean / std).view_as(self.bias))
