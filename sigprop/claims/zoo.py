"""The zoo's own networks, measured as a user measures them: with `sigprop.measure`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sigprop.claims.claim import Trial
from sigprop.experiments.measure import measure
from sigprop.inputs.factories import initialize
from sigprop.networks.catalog import build
from sigprop.records import Records
from sigprop.records.queries import own_rows

Array = npt.NDArray[np.float64]

MOMENTS = ("second_moment", "channel_variance", "mean_shift")


def net(network: str, seed: int, **options: Any) -> nn.Module:
    """Return one network of the zoo, drawn from a seed.

    Args:
        network: its name.
        seed: of its weights.
        options: of the zoo.
    """
    return initialize(lambda: build(network, **options), seed)


def inputs(seed: int, samples: int, shape: int | tuple[int, ...]) -> Tensor:
    """Return standard normal inputs.

    Args:
        seed: of the draw.
        samples: how many.
        shape: of one of them.
    """
    sizes = (shape,) if isinstance(shape, int) else shape
    return torch.randn(samples, *sizes, generator=torch.Generator().manual_seed(seed))


def measured(
    trial: Trial, network: str, seeds: tuple[int, int], samples: int, **options: Any
) -> list[Records]:
    """Measure freshly initialized networks, each on a batch of its own.

    Args:
        trial: with which seeds.
        network: a name of the zoo.
        seeds: how many, in a full and in a quick trial.
        samples: in a batch.
        options: of the zoo; ``inputs`` is the shape of a sample.

    Returns:
        One `Records` per seed.
    """
    return [
        measure(
            network,
            inputs(seed + 500_000, samples, options["inputs"]),  # not the stream of the weights
            seeds=[seed],
            spectra=False,
            options=options,
            device=trial.device,
        )
        for seed in trial.seeds(*seeds)
    ]


def forward(records: Records) -> Array:
    """Return second moment, channel variance and mean shift at x_0..x_L, shape (L + 1, 3)."""
    rows = _blocks(records, "forward")
    ends = [rows[rows["port"] == "in"].iloc[:1], rows[rows["port"] == "out"]]
    return np.vstack([end[list(MOMENTS)].to_numpy(dtype=np.float64) for end in ends])


def backward(records: Records) -> Array:
    """Return the second moment of the gradient at x_0..x_L, shape (L + 1,)."""
    rows = _blocks(records, "backward")
    ends = [rows[rows["port"] == "in"].iloc[:1], rows[rows["port"] == "out"]]
    return np.concatenate([end["second_moment"].to_numpy(dtype=np.float64) for end in ends])


def trajectories(
    trial: Trial, network: str, seeds: tuple[int, int], samples: int, **options: Any
) -> Array:
    """Return `forward` of each of several networks, shape (seeds, L + 1, 3).

    Args:
        trial: with which seeds.
        network: a name of the zoo.
        seeds: how many, in a full and in a quick trial.
        samples: in a batch.
        options: of the zoo.
    """
    return np.stack([forward(r) for r in measured(trial, network, seeds, samples, **options)])


def _blocks(records: Records, direction: str) -> Any:
    rows = own_rows(records.signals)
    return rows[rows["direction"] == direction].sort_values("block", kind="stable")
