"""What the singular values of every weight of a ResNet-50 cost, and how exact they are.

`error` is the largest deviation of any singular value from `numpy.linalg.svd` in float64, over the
weight's largest; weightwatcher calls that routine itself. It reads a 3x3 kernel as nine matrices
instead of one, which is another spectrum and less work; linear layers of the flattened kernels make
it compute the same one. Its `analyze` also fits a power law to each spectrum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import sigprop
from benchmarks.measure import interleave, ratios
from benchmarks.overhead import reason
from sigprop.signals import singular_values
from sigprop.signals.spectra import weight_matrix

Spectra = list[Tensor]
Way = Callable[[], Spectra | None]

#: What all ways are compared with.
OURS = "sigprop: singular_values"


def resnet50_layers() -> Iterator[nn.Module]:
    """Yield the layers with weights of He et al. 2016, Table 1."""
    yield nn.Conv2d(3, 64, 7, bias=False)
    width = 64
    for inner, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            yield nn.Conv2d(width, inner, 1, bias=False)
            yield nn.Conv2d(inner, inner, 3, bias=False)
            yield nn.Conv2d(inner, 4 * inner, 1, bias=False)
            if block == 0:
                yield nn.Conv2d(width, 4 * inner, 1, bias=False)
            width = 4 * inner
    yield nn.Linear(width, 1000)


def weights_of(model: nn.Sequential) -> Spectra:
    return [layer.get_parameter("weight").detach() for layer in model]


def ways(model: nn.Sequential) -> dict[str, Way]:
    """Return what can be timed; those that give the spectra of whole kernels return them."""
    weights = weights_of(model)
    matrices, flat = [weight_matrix(weight) for weight in weights], flattened(model)

    def probed() -> None:
        with sigprop.attach(model) as probe:
            probe.record_spectra()

    def svdvals(dtype: torch.dtype) -> Spectra:
        return [torch.linalg.svdvals(matrix.to(dtype)) for matrix in matrices]

    def slices() -> None:
        watched_spectra(model)

    def analysis() -> None:
        watcher(model).analyze(model=model)

    return {
        OURS: lambda: [singular_values(weight) for weight in weights],
        "sigprop: Probe.record_spectra": probed,
        "torch.linalg.svdvals, float64": lambda: svdvals(torch.float64),
        "torch.linalg.svdvals, float32": lambda: svdvals(torch.float32),
        "weightwatcher: spectra": lambda: watched_spectra(flat),
        "weightwatcher: spectra of 3x3 slices": slices,
        "weightwatcher: analyze, 3x3 slices": analysis,
    }


@cache  # to make one is no part of what is timed
def watcher(model: nn.Module) -> Any:
    from weightwatcher import WeightWatcher

    return WeightWatcher(model=model)


def watched_spectra(model: nn.Module) -> Spectra:
    """Return weightwatcher's spectra, in descending order."""
    from weightwatcher.weightwatcher import DEFAULT_PARAMS

    settings = DEFAULT_PARAMS.copy()
    layers = watcher(model).make_layer_iterator(model=model, params=settings)
    squares = [watcher(model).apply_esd(layer, settings).evals for layer in layers]
    return [torch.from_numpy(np.sort(np.sqrt(found))[::-1].copy()) for found in squares]


def flattened(model: nn.Sequential) -> nn.Sequential:
    """Return linear layers that share the model's weights, as matrices."""
    layers = [nn.Linear(1, 1, bias=False) for _ in model]
    for layer, weight in zip(layers, weights_of(model), strict=True):
        layer.weight = nn.Parameter(weight_matrix(weight))
        layer.out_features, layer.in_features = layer.weight.shape
    return nn.Sequential(*layers)


def error(spectra: Spectra, exact: list[np.ndarray]) -> float:
    pairs = zip(spectra, exact, strict=True)
    return max(float(np.abs(s.double().numpy() - e).max() / e[0]) for s, e in pairs)


def main(quick: bool = False) -> pd.DataFrame:
    """Return a row a way: its processor time, the ratio to sigprop's, and its error.

    Quick, of the first stage of blocks, once. A way that fails stays in the table with its reason.
    """
    torch.manual_seed(0)
    model = nn.Sequential(*islice(resnet50_layers(), 11 if quick else None))
    exact = [
        np.linalg.svd(weight_matrix(weight).double().numpy(), compute_uv=False)
        for weight in weights_of(model)
    ]
    errors: dict[str, float] = {}
    failed: dict[str, str] = {}
    found = ways(model)
    for name, way in found.items():
        try:
            spectra = way()
        except Exception as failure:
            failed[name] = reason(failure)
        else:
            if spectra is not None:
                errors[name] = error(spectra, exact)
    running = {name: way for name, way in found.items() if name not in failed}
    times = interleave(running, 1 if quick else 5)
    table = ratios(times, dict.fromkeys(running, OURS)).rename(columns={"tool": "way"})
    table = table.set_index("way").reindex(list(found)).rename_axis("way").reset_index()
    table["error"] = table["way"].map(errors)
    table["status"] = [failed.get(name, "measured") for name in found]
    table.insert(0, "layers", len(model))
    table.insert(1, "weights", sum(weight.numel() for weight in weights_of(model)))
    table.insert(2, "singular values", sum(map(len, exact)))
    return table
