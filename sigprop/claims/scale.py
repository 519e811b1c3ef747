"""Claims that need an accelerator: listed with what would decide them, never counted as passed."""

from __future__ import annotations

from sigprop.claims.claim import CLAIMS, Claim

for _claim in (
    Claim(
        "bjorck-last-layer",
        "BatchNorm in the last layer alone brings about 2/3 of its gain",
        source="Bjorck et al. 2018, section 3.2",
        conditions="110-layer ResNet, CIFAR-10, Xavier start, the highest rate that still trains",
        statement="accuracy gained with one BN before the head over that gained with all",
        tags=("scale", "gpu"),
    ),
    Claim(
        "bjorck-110-layers",
        "kernel gradients cancel a hundredfold with BatchNorm, two- to threefold without",
        source="Bjorck et al. 2018, section 3.3 and table",
        conditions="110-layer ResNet, CIFAR-10; layers 18, 54 and 90",
        statement="Σ|d I|/|Σ d I| = 251.8, 112.8, 40.7 with BN; 1.7, 2.6, 2.1 without (unverified)",
        note="kernel-gradient-cancellation tests the inequality on 18 blocks",
        tags=("scale", "gpu"),
    ),
    Claim(
        "santurkar-vgg",
        "BatchNorm makes loss and gradient along the gradient more predictable",
        source="Santurkar et al. 2018, section 3.1, figure 4",
        conditions="VGG on CIFAR-10, steps up to .4 of the gradient, every few iterations",
        statement="a narrower band of losses, smaller gradient distance and effective smoothness",
        note="effective-smoothness tests the measure where its value is known",
        tags=("scale", "gpu"),
    ),
    Claim(
        "agc-large-batch",
        "adaptive clipping lets an NF-ResNet train at batch 4096, where it diverges without",
        source="Brock et al. 2021b, section 4.2, figure 2",
        conditions="NF-ResNet-50, ImageNet, batch 256 to 4096, lambda .01 ... .16",
        statement="top-1 accuracy matches BatchNorm up to batch 4096 with clipping",
        note="agc tests the clipping itself",
        tags=("scale", "gpu"),
    ),
):
    CLAIMS.register(_claim.name)(_claim)
