"""What a probe must get right: definitions of the numbers, and tensors that change after a hook."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.claims.claim import Trial, claim
from sigprop.claims.comparison import Comparison, at_most
from sigprop.claims.subjects import gaussian
from sigprop.experiments.measure import measure
from sigprop.inputs.factories import initialize
from sigprop.signals import measure_signal

Reader = Callable[[Tensor, int], tuple[float, float, float]]


def ours(x: Tensor, channel_dim: int) -> tuple[float, float, float]:
    """Return second moment, channel variance and mean shift as the probe reads them.

    Args:
        x: a tensor.
        channel_dim: its channel axis.

    Returns:
        Three numbers.
    """
    found = measure_signal(x, channel_dim).number
    return found("second_moment"), found("channel_variance"), found("mean_shift")


def _loops(x: Tensor, channel_dim: int) -> tuple[float, float, float]:
    """Return the same from plain loops over channels in float64."""
    channels = np.moveaxis(x.numpy().astype(np.float64), channel_dim, 0)
    means = [c.sum() / c.size for c in channels]
    spreads = [((c - m) ** 2).sum() / c.size for c, m in zip(channels, means, strict=True)]
    squares = [(c**2).sum() / c.size for c in channels]
    return float(np.mean(squares)), float(np.mean(spreads)), float(np.mean(np.square(means)))


def _unbiased(x: Tensor, channel_dim: int) -> tuple[float, float, float]:
    second, spread, shift = ours(x, channel_dim)
    samples = x.numel() / x.shape[channel_dim]
    return second, spread * samples / (samples - 1), shift


def _square_of_values(x: Tensor, channel_dim: int) -> tuple[float, float, float]:
    second, spread, _ = ours(x, channel_dim)
    return second, spread, second


@claim(
    "spp-definitions",
    "second moment = biased channel variance + squared channel mean",
    source="Brock et al. 2021a, section 3; nfnets/base.py",
    conditions="images (NCHW), channels last, and matrices, with a mean of 3; float32 against"
    " float64 loops",
    statement="mean x² = mean_c var_c + mean_c mean_c²",
    tags=["exact"],
    saboteurs={
        "unbiased for biased variance": {"reader": _unbiased},
        "mean of squares for squared mean": {"reader": _square_of_values},
        "channel axis mistaken": {"reader": lambda x, axis: ours(x, 0)},
    },
)
def spp_definitions(trial: Trial, reader: Reader = ours) -> list[Comparison]:
    """Compare with loops, and add up.

    Args:
        trial: seeds and sizes.
        reader: computes the three numbers of a tensor, given its channel axis.

    Returns:
        One comparison per number.
    """
    generator = torch.Generator().manual_seed(trial.base)
    shapes = {"NCHW": ((8, 6, 5, 4), 1), "channels last": ((8, 7, 6), 2), "matrix": ((16, 6), 1)}
    comparisons = []
    for name, (shape, axis) in shapes.items():
        scale = torch.linspace(0.5, 3, 6).view([6 if i == axis else 1 for i in range(len(shape))])
        x = gaussian(generator, *shape) * scale + 3 * scale.flip(axis)
        second, spread, shift = reader(x, axis)
        off = np.abs(np.subtract((second, spread, shift), _loops(x, axis))) / second
        reason = "float32 rounding"
        comparisons += [
            at_most(f"{name}: largest deviation from loops", 1e-6, float(off.max()), reason),
            at_most(
                f"{name}: identity, relative", 1e-6, abs(spread + shift - second) / second, reason
            ),
        ]
    return comparisons


class _InPlace(nn.Module):
    """Linear, ReLU, and an addition; each in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.act = nn.ReLU(inplace=in_place)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.act(self.first(x)))
        if self.in_place:
            out += x
            return out
        return out + x


def recorded(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Return what the probe records: second moments by module, port and pass.

    Args:
        model: what is probed.
        x: its input.

    Returns:
        ``"name port direction"`` to second moment.
    """
    rows = measure(model, x, blocks="leaves", spectra=False, device=x.device).signals
    keys = zip(rows["name"], rows["port"], rows["direction"], strict=True)
    return {" ".join(key): value for key, value in zip(keys, rows["second_moment"], strict=True)}


def _kept(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Return what a hook sees that keeps tensors and reads them at the end."""
    kept: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda m, args, out, name=name: kept.update({name: out}))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return {name: float(out.square().mean()) for name, out in kept.items()}


@claim(
    "in-place-operations",
    "operations in place do not change what was recorded before them",
    source="measured; torch issues 61519 and 95617",
    conditions="Linear-ReLU-Linear plus skip, with ReLU(inplace=True) and out += x, against the"
    " same net out of place; float32",
    statement="all recorded numbers are equal",
    tags=["exact"],
    saboteurs={"tensors kept by a hook": {"recorder": _kept}},
)
def in_place(
    trial: Trial, recorder: Callable[[nn.Module, Tensor], dict[str, float]] = recorded
) -> list[Comparison]:
    """Record the same net twice.

    Args:
        trial: seeds and sizes.
        recorder: returns second moments of a model by tap.

    Returns:
        One comparison per number.
    """
    x = gaussian(torch.Generator().manual_seed(trial.base), 64, 16)
    nets = [initialize(partial(_InPlace, in_place), trial.base) for in_place in (True, False)]
    seen = [recorder(net, x) for net in nets]
    shared = sorted(set(seen[0]) & set(seen[1]))
    off = max(abs(seen[0][key] / seen[1][key] - 1) for key in shared)
    missing = len(set(seen[1]) - set(seen[0]))
    return [
        at_most("largest relative difference", 1e-6, off, "float32 rounding"),
        at_most("numbers missing in place", 0.0, missing, "a count"),
    ]
