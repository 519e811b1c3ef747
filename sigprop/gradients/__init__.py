"""Gradients as Bjorck et al. 2018 look at them: tails, cancellation, noise, and where they end."""

from sigprop.gradients.cancellation import by_channel_and_position, cancellation
from sigprop.gradients.distribution import histogram, tails
from sigprop.gradients.noise import Noise, noise
from sigprop.gradients.stable_rate import (
    activations_until_divergence,
    largest_stable_rate,
    relative_loss,
)

__all__ = [
    "Noise",
    "activations_until_divergence",
    "by_channel_and_position",
    "cancellation",
    "histogram",
    "largest_stable_rate",
    "noise",
    "relative_loss",
    "tails",
]
