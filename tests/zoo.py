"""What the tests of the zoo share: float64 networks, inputs, and plain loops over blocks."""

from __future__ import annotations

import torch

from sigprop.networks import build


def gaussian(seed, *shape):
    """Return standard normal float64 values of their own stream."""
    generator = torch.Generator().manual_seed(20_000 + seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(name, seed=0, **options):
    """Return a network of the zoo in float64, initialized from a seed."""
    torch.manual_seed(seed)
    return build(name, **options).double()


def second(x):
    """Return the second moment."""
    return x.square().mean().item()


def per_channel(x):
    """Return the values of each channel, shape (C, samples)."""
    return x.movedim(1, 0).flatten(1)


def channel_variance(x):
    """Return the mean over channels of the biased variance."""
    return per_channel(x).var(dim=1, correction=0).mean().item()


def mean_shift(x):
    """Return the mean over channels of the squared mean."""
    return per_channel(x).mean(dim=1).square().mean().item()


@torch.no_grad()
def trunk(net, inputs, of=second):
    """Return a number of x_0, ..., x_L."""
    x = net.stem(inputs)
    seen = [of(x)]
    for block in net.blocks:
        x = block(x)
        seen.append(of(x))
    return seen
