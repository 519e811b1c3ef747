"""Hooks that one would write by hand: no package, the numbers in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from benchmarks.subjects import Training
from benchmarks.tools import Watch, tool

Number = Callable[[Tensor], Tensor]


def others(x: Tensor) -> list[int]:
    """Return the axes over which a channel spreads: all but 1 of an image, all but the last."""
    channel = 1 if x.ndim == 4 else x.ndim - 1
    return [axis for axis in range(x.ndim) if axis != channel]


def kurtosis(x: Tensor) -> Tensor:
    """Return E[(x-μ)⁴]/σ⁴ over the layer."""
    square = (x - x.mean()).square()
    return square.square().mean() / square.mean().square()


#: The numbers that sigprop takes from one tensor, each written down as its definition.
NUMBERS: Mapping[str, Number] = {
    "mean": lambda x: x.mean(),
    "second_moment": lambda x: x.square().mean(),
    "channel_variance": lambda x: x.var(others(x), correction=0).mean(),
    "mean_shift": lambda x: x.mean(others(x)).square().mean(),
    "kurtosis": kurtosis,
    "zero_fraction": lambda x: (x == 0).float().mean(),
    "max_abs": lambda x: x.abs().amax(),
    "nonfinite": lambda x: (~x.isfinite()).sum().float(),
}


def all_numbers(x: Tensor) -> list[Tensor]:
    """Return the same numbers, sharing what they have in common, as a careful hand would."""
    variance, mean = torch.var_mean(x, others(x), correction=0)
    center = mean.mean()
    square = (x - center).square()
    return [
        center,
        x.square().mean(),
        variance.mean(),
        mean.square().mean(),
        square.square().mean() / square.mean().square(),
        (x == 0).float().mean(),
        x.abs().amax(),
        (~x.isfinite()).sum().float(),
    ]


def on_leaves(
    training: Training, look: Callable[[Tensor], None], backward: bool
) -> list[RemovableHandle]:
    """Hook every leaf: ``look`` sees its output and, if asked, the gradient of it."""

    def hook(_: object, __: object, out: Tensor) -> None:
        look(out.detach())
        if backward and out.requires_grad:
            out.register_hook(lambda grad: look(grad))

    return [leaf.register_forward_hook(hook) for leaf in training.leaves().values()]


def by_hand(
    numbers: Callable[[Tensor], list[Tensor]], backward: bool
) -> Callable[[Training], Iterator[Watch]]:
    def watching(training: Training) -> Iterator[Watch]:
        kept: list[float] = []

        def look(x: Tensor) -> None:
            kept.extend(number.item() for number in numbers(x))

        def step() -> None:
            kept.clear()
            training.step()

        handles = on_leaves(training, look, backward)
        yield Watch(step, lambda: len(kept))
        for handle in handles:
            handle.remove()

    return watching


def naive_numbers(x: Tensor) -> list[Tensor]:
    axes = [axis for axis in range(x.ndim) if axis != 1]
    variance, mean = torch.var_mean(x, axes)
    dead = (x > 0).flatten(1).any(0).float().mean()
    return [variance.mean(), mean.square().mean(), (x == 0).float().mean(), dead]


def propagation_numbers(x: Tensor) -> list[Tensor]:
    axes = others(x)
    return [x.mean(axes).square().mean(), x.var(axes).mean()]


tool(
    "hook by hand, naive",
    records="channel variance, squared channel mean, zero and dead fraction",
    passes="forward, backward",
    covers=("channel_variance", "mean_shift", "zero_fraction", "dead_fraction"),
    against="sigprop, leaves",
)(by_hand(naive_numbers, backward=True))
tool(
    "hook by hand, equal numbers",
    records="sigprop's numbers of one tensor, in plain torch",
    passes="forward, backward",
    covers=tuple(NUMBERS),
    against="sigprop, leaves",
)(by_hand(all_numbers, backward=True))
tool(
    "hook in timm's manner",
    records="average squared channel mean, average channel variance (timm's two SPP numbers)",
    passes="forward",
    covers=("mean_shift", "channel_variance"),
    against="sigprop, leaves",
)(by_hand(propagation_numbers, backward=False))
