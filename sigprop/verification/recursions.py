"""The recursion of every network of the zoo, given its settings and its first block's input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sigprop.networks.gains import official_gamma
from sigprop.networks.vgg import vgg_stages
from sigprop.registry import Registry
from sigprop.theory import Kernel, Prediction, gaussian
from sigprop.theory.branch import gain_squared
from sigprop.theory.chain import Chain
from sigprop.theory.nf_stack import NFStack
from sigprop.theory.skeleton import Shape, predict_stack
from sigprop.verification.settings import NoTheory, Settings, design_of, placed, skeleton_of
from sigprop.verification.treatments import TREATMENTS

Recursion = Callable[[Settings, Kernel], Prediction]

#: Network of the zoo -> its recursion, given settings and the kernel of the first block's input.
RECURSIONS: Registry[Recursion] = Registry("recursion")


def _residual(name: str, settings: Settings, start: Kernel) -> Prediction:
    skeleton = skeleton_of(settings)
    treatment = TREATMENTS[name](settings, skeleton)
    batch = placed(settings, start, bordered=treatment.weights != "delta")
    return predict_stack(skeleton, treatment, batch)


for _name in TREATMENTS:
    RECURSIONS.register(_name)(partial(_residual, _name))


@RECURSIONS.register("nf-resnet")
def _nf_resnet(settings: Settings, start: Kernel) -> Prediction:
    design = design_of(settings)
    plan, before = [], design.width
    for index, width in enumerate(design.widths()):
        stride = 1 if width == before else 2
        if design.block == "bottleneck":
            inner = width // design.bottleneck
            shapes = [Shape(before, inner, 1), Shape(inner, inner, 3, stride)]
            shapes.append(Shape(inner, width, 1))
        else:
            shapes = [Shape(before, width, 3, stride)]
            shapes += [Shape(width, width)] * (design.branch_layers - 1)
        shortcut = Shape(before, width, 1, stride) if stride > 1 or not index else None
        plan.append((shapes, shortcut))
        before = width
    return _nf_stack(settings).predict(plan, placed(settings, start))


@RECURSIONS.register("nfnet")
def _nfnet(settings: Settings, start: Kernel) -> Prediction:
    if settings["variant"] is not None:
        raise NoTheory(
            f"theory has no recursion for the stem and stages of variant={settings['variant']!r}; "
            "it has one without a variant"
        )
    design = design_of(settings)
    plan, before = [], design.width
    for index, width in enumerate(design.widths()):
        inner = max(1, width // 2)
        stride = 1 if width == before or not index else 2
        shapes = [Shape(before, inner, 1), Shape(inner, inner, 3, stride)]
        shapes += [Shape(inner, inner), Shape(inner, width, 1)]
        new = not index or width != before
        plan.append((shapes, Shape(before, width, 1, stride) if new else None))
        before = width
    return _nf_stack(settings).predict(plan, placed(settings, start))


def _nf_stack(settings: Settings) -> NFStack:
    design = design_of(settings)
    exact = settings["gamma"] == "exact"
    f = design.activation
    return NFStack(
        f,
        gaussian.gamma(f) if exact else official_gamma(f),
        settings["alpha"],
        settings["skip_gain"],
        settings["act_first"],
        pool_shortcut=settings["network"] == "nfnet",
        excite=settings.get("squeeze_excite", 0.0),
        drop=settings["stochastic_depth"],
        convolutional=design.architecture == "resnet",
        circular=design.padding == "circular",
    )


@RECURSIONS.register("vgg")
def _vgg(settings: Settings, start: Kernel) -> Prediction:
    design = design_of(settings)
    centered, f = settings["bias"] == "before", design.activation
    preserving = centered and settings["init"] == "preserving"
    made = Chain(
        f,
        gain_squared(f, "preserving" if preserving else "he"),
        fan_out=settings["init"] == "fan_out",
        centered=centered,
        circular=design.padding == "circular",
    )
    stages = vgg_stages(design, settings["plan"])
    plan, before, side = [], stages[0][0], min(design.inputs[1:])
    for number, stage in enumerate(stages):
        pools = number > 0 and side > 1  # small images run out of pixels to pool
        side //= 1 + pools
        for width in stage[1:] if number == 0 else stage:
            plan.append((Shape(before, width), pools))
            before, pools = width, False
    return made.predict(plan, placed(settings, start), pooled_head=side > 1)
