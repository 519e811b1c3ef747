"""What manifests of schema 1 leave unsaid: the options of the zoo's networks that were not given.

This is history, as it was when schema 2 came, and does not follow the zoo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sigprop.records.schema import SCHEMA_VERSION

#: Options of every network.
SHARED: Mapping[str, object] = {
    "depth": 20,
    "width": 64,
    "architecture": "mlp",
    "inputs": [1, 8, 8],
    "classes": 10,
    "order": "norm-act-weight",
    "branch_layers": 2,
    "activation": "relu",
    "stages": 1,
    "padding": "zeros",
    "skip": True,
    "block": "basic",
    "bottleneck": 4,
    "groups": 1,
    "heads": 2,
}

#: Network -> its own options.
OWN: Mapping[str, Mapping[str, object]] = {
    "plain": {},
    "feedforward": {"init": "he", "sigma_w": None, "sigma_b": 0.0},
    "batchnorm": {},
    "batchnorm-last": {},
    "layernorm": {"post": False},
    "groupnorm": {"per_group": None, "post": False},
    "transformer": {"post": False},
    "rescale": {
        "c": None,
        "multiplier": "scalar",
        "reparametrize": None,
        "bias": True,
        "bias_batches": 1,
        "gain": "preserving",
        "backbone": False,
        "drop": 0.0,
        "drop_head": 0.0,
    },
    "fixup": {},
    "skipinit": {"gain": 0.0},
    "rezero": {},
    "layerscale": {"start": None},
    "weightnorm": {"mean_only": False, "data_dependent": True},
    "scaled-weightnorm": {"power": 0.5, "scaled": True},
    "normprop": {"jacobian": True},
    "nf-resnet": {
        "alpha": 0.2,
        "skip_gain": 1.0,
        "gamma": "exact",
        "act_first": False,
        "stochastic_depth": 0.0,
    },
    "nfnet": {
        "variant": None,
        "alpha": 0.2,
        "skip_gain": 0.0,
        "gamma": "exact",
        "act_first": False,
        "squeeze_excite": 0.5,
        "stochastic_depth": 0.25,
        "group_width": 128,
        "drop_head": 0.0,
    },
    "deepnorm": {},
    "t-fixup": {},
    "mup": {"base_width": 64, "branch": 1.0},
    "unit-scaled": {"residual_mult": 1.0, "attn_ratio": 1.0},
    "vgg": {
        "plan": None,
        "bias": "before",
        "init": "preserving",
        "bias_batches": 1,
        "hidden": 0,
        "drop": 0.0,
    },
    "lstm": {"forget_bias": 1.0, "norm": False},
}


def upgraded_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest as schema 2 has it: designs hold all options of the zoo's networks.

    Example:
        >>> old = {"schema": 1, "designs": {"a": {"network": "skipinit", "depth": 3}}}
        >>> new = upgraded_manifest(old)["designs"]["a"]
        >>> new["depth"], new["width"], new["gain"]
        (3, 64, 0.0)
    """
    if manifest["schema"] == SCHEMA_VERSION:
        return dict(manifest)
    designs = {label: _resolved(found) for label, found in manifest.get("designs", {}).items()}
    return {**manifest, "schema": SCHEMA_VERSION, "designs": designs}


def _resolved(design: Mapping[str, Any]) -> dict[str, Any]:
    own = OWN.get(str(design.get("network")))
    return dict(design) if own is None else {**SHARED, **own, **design}
