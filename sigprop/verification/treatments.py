"""What each network of the zoo does to its stack, read off its settings."""

from __future__ import annotations

import math
from collections.abc import Callable

from sigprop.networks.fixup import layer_scale_start
from sigprop.networks.norms import group_size
from sigprop.networks.rescale import depth_constant
from sigprop.registry import Registry
from sigprop.theory import gaussian
from sigprop.theory.branch import gain_squared
from sigprop.theory.families import fixup_scale, unit_scaled_shares
from sigprop.theory.operations import Scale, Shift
from sigprop.theory.residual import coefficients
from sigprop.theory.skeleton import Skeleton, Treatment, batch_statistics, centering
from sigprop.theory.transformers import deepnorm_treatment, t_fixup_treatment
from sigprop.verification.settings import Settings

#: Network of the zoo -> what it does, given its settings and the skeleton that this makes.
TREATMENTS: Registry[Callable[[Settings, Skeleton], Treatment]] = Registry("treatment")


def _he(skeleton: Skeleton) -> float:
    return gain_squared(skeleton.activation)


@TREATMENTS.register("plain")
def _plain(settings: Settings, skeleton: Skeleton) -> Treatment:
    return Treatment(_he(skeleton))


@TREATMENTS.register("feedforward")
def _feedforward(settings: Settings, skeleton: Skeleton) -> Treatment:
    sigma, init = settings["sigma_w"], settings["init"]
    gain = 1.0 if init == "xavier" else _he(skeleton)
    weights = {"xavier": "xavier", "orthogonal": "delta"}.get(init, "fan_in")
    return Treatment(
        gain if sigma is None else sigma**2, weights=weights, bias=settings["sigma_b"] ** 2
    )


@TREATMENTS.register("batchnorm")
def _batchnorm(settings: Settings, skeleton: Skeleton) -> Treatment:
    return Treatment(_he(skeleton), norm="batchnorm")


@TREATMENTS.register("batchnorm-last")
def _batchnorm_last(settings: Settings, skeleton: Skeleton) -> Treatment:
    return Treatment(_he(skeleton), final_norm="batchnorm")


@TREATMENTS.register("transformer")
@TREATMENTS.register("layernorm")
def _layernorm(settings: Settings, skeleton: Skeleton) -> Treatment:
    return Treatment(_he(skeleton), norm="layernorm", post_norm=settings["post"])


@TREATMENTS.register("groupnorm")
def _groupnorm(settings: Settings, skeleton: Skeleton) -> Treatment:
    size = settings["per_group"]
    return _grouped(skeleton, lambda width: group_size(width, size), settings["post"])


@TREATMENTS.register("instancenorm")
def _instancenorm(settings: Settings, skeleton: Skeleton) -> Treatment:
    return _grouped(skeleton, lambda width: 1, settings["post"])


def _grouped(skeleton: Skeleton, size: Callable[[int], float], post: bool) -> Treatment:
    return Treatment(_he(skeleton), norm="groupnorm", per_group=size, post_norm=post)


@TREATMENTS.register("rescale")
def _rescale(settings: Settings, skeleton: Skeleton) -> Treatment:
    depth = len(skeleton.widths)
    made = coefficients(depth, depth_constant(settings["c"], depth))
    centered = settings["bias"]
    kind = "preserving" if centered and settings["gain"] == "preserving" else "he"
    return Treatment(
        gain_squared(skeleton.activation, kind),
        before_weight=centering() if centered else (),
        skip=lambda k: float(made.alpha[k - 1]),
        scale=lambda k: float(made.beta[k - 1]),
        drop=settings["drop"],
    )


@TREATMENTS.register("fixup")
def _fixup(settings: Settings, skeleton: Skeleton) -> Treatment:
    layers = 2 if skeleton.kind == "transformer" else skeleton.layers
    scale = fixup_scale(len(skeleton.widths), layers)
    return Treatment(
        _he(skeleton), weight_scale=lambda k: scale, last_weight_scale=0.0, zero_head=True
    )


def _scaled(skeleton: Skeleton, scale: float) -> Treatment:
    return Treatment(_he(skeleton), scale=lambda k: scale)


@TREATMENTS.register("skipinit")
def _skipinit(settings: Settings, skeleton: Skeleton) -> Treatment:
    return _scaled(skeleton, settings["gain"])


@TREATMENTS.register("rezero")
def _rezero(settings: Settings, skeleton: Skeleton) -> Treatment:
    return _scaled(skeleton, 0.0)


@TREATMENTS.register("layerscale")
def _layerscale(settings: Settings, skeleton: Skeleton) -> Treatment:
    start = layer_scale_start(settings["depth"], settings["start"])
    return Treatment(_he(skeleton), norm="layernorm", scale=lambda k: start)


@TREATMENTS.register("weightnorm")
def _weightnorm(settings: Settings, skeleton: Skeleton) -> Treatment:
    return Treatment(
        1.0, weights="rows", after_weight=batch_statistics(mean_only=settings["mean_only"])
    )


@TREATMENTS.register("scaled-weightnorm")
def _scaled_weightnorm(settings: Settings, skeleton: Skeleton) -> Treatment:
    scale = len(skeleton.widths) ** -settings["power"]
    weights, gain = ("fan_out", _he(skeleton)) if settings["scaled"] else ("rows", 1.0)
    return Treatment(gain, weights=weights, scale=lambda k: scale)


@TREATMENTS.register("normprop")
def _normprop(settings: Settings, skeleton: Skeleton) -> Treatment:
    f = skeleton.activation
    mean, variance = gaussian.mean(f), gaussian.variance(f)
    gain = variance / gaussian.slope_second_moment(f) if settings["jacobian"] else 1.0
    return Treatment(gain, weights="rows", after_act=(Shift(mean), Scale(1 / math.sqrt(variance))))


@TREATMENTS.register("deepnorm")
def _deepnorm(settings: Settings, skeleton: Skeleton) -> Treatment:
    return deepnorm_treatment(max(1, len(skeleton.widths) // 2))


@TREATMENTS.register("t-fixup")
def _t_fixup(settings: Settings, skeleton: Skeleton) -> Treatment:
    return t_fixup_treatment(settings["depth"])


@TREATMENTS.register("mup")
def _mup(settings: Settings, skeleton: Skeleton) -> Treatment:
    scale = settings["branch"] / math.sqrt(len(skeleton.widths))
    return Treatment(_he(skeleton), scale=lambda k: scale, scale_exponent=1.0)


@TREATMENTS.register("unit-scaled")
def _unit_scaled(settings: Settings, skeleton: Skeleton) -> Treatment:
    shares = unit_scaled_shares(
        len(skeleton.widths), settings["residual_mult"], settings["attn_ratio"]
    )
    return Treatment(
        _he(skeleton),
        skip=lambda k: (1 - shares[k - 1]) ** 0.5,
        scale=lambda k: shares[k - 1] ** 0.5,
    )
