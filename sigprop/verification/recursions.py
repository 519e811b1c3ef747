"""The recursion of every network of the zoo, given its design and its first block's input."""

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
from sigprop.verification.designs import Design, NoTheory, placed, sizes_of, skeleton_of
from sigprop.verification.treatments import TREATMENTS

Recursion = Callable[[Design, Kernel], Prediction]

#: Network of the zoo -> its recursion, given the design and the kernel of the first block's input.
RECURSIONS: Registry[Recursion] = Registry("recursion")


def _residual(name: str, design: Design, start: Kernel) -> Prediction:
    skeleton = skeleton_of(design)
    treatment = TREATMENTS[name](design, skeleton)
    batch = placed(design, start, bordered=treatment.weights != "delta")
    return predict_stack(skeleton, treatment, batch)


for _name in TREATMENTS:
    RECURSIONS.register(_name)(partial(_residual, _name))


@RECURSIONS.register("nf-resnet")
def _nf_resnet(design: Design, start: Kernel) -> Prediction:
    sizes = sizes_of(design)
    plan, before = [], sizes.width
    for index, width in enumerate(sizes.widths()):
        stride = 1 if width == before else 2
        if sizes.block == "bottleneck":
            inner = width // sizes.bottleneck
            shapes = [Shape(before, inner, 1), Shape(inner, inner, 3, stride)]
            shapes.append(Shape(inner, width, 1))
        else:
            shapes = [Shape(before, width, 3, stride)]
            shapes += [Shape(width, width)] * (sizes.branch_layers - 1)
        shortcut = Shape(before, width, 1, stride) if stride > 1 or not index else None
        plan.append((shapes, shortcut))
        before = width
    return _nf_stack(design).predict(plan, placed(design, start))


@RECURSIONS.register("nfnet")
def _nfnet(design: Design, start: Kernel) -> Prediction:
    if design["variant"] is not None:
        raise NoTheory(
            f"theory has no recursion for the stem and stages of variant={design['variant']!r}; "
            "it has one without a variant"
        )
    sizes = sizes_of(design)
    plan, before = [], sizes.width
    for index, width in enumerate(sizes.widths()):
        inner = max(1, width // 2)
        stride = 1 if width == before or not index else 2
        shapes = [Shape(before, inner, 1), Shape(inner, inner, 3, stride)]
        shapes += [Shape(inner, inner), Shape(inner, width, 1)]
        new = not index or width != before
        plan.append((shapes, Shape(before, width, 1, stride) if new else None))
        before = width
    return _nf_stack(design).predict(plan, placed(design, start))


def _nf_stack(design: Design) -> NFStack:
    sizes = sizes_of(design)
    exact = design["gamma"] == "exact"
    f = sizes.activation
    return NFStack(
        f,
        gaussian.gamma(f) if exact else official_gamma(f),
        design["alpha"],
        design["skip_gain"],
        design["act_first"],
        pool_shortcut=design["network"] == "nfnet",
        excite=design.get("squeeze_excite", 0.0),
        drop=design["stochastic_depth"],
        convolutional=sizes.architecture == "resnet",
        circular=sizes.padding == "circular",
    )


@RECURSIONS.register("vgg")
def _vgg(design: Design, start: Kernel) -> Prediction:
    sizes = sizes_of(design)
    centered, f = design["bias"] == "before", sizes.activation
    preserving = centered and design["init"] == "preserving"
    made = Chain(
        f,
        gain_squared(f, "preserving" if preserving else "he"),
        fan_out=design["init"] == "fan_out",
        centered=centered,
        circular=sizes.padding == "circular",
    )
    stages = vgg_stages(sizes, design["plan"])
    plan, before, side = [], stages[0][0], min(sizes.inputs[1:])
    for number, stage in enumerate(stages):
        pools = number > 0 and side > 1  # small images run out of pixels to pool
        side //= 1 + pools
        for width in stage[1:] if number == 0 else stage:
            plan.append((Shape(before, width), pools))
            before, pools = width, False
    return made.predict(plan, placed(design, start), pooled_head=side > 1)
