"""What the singular values of every weight of a ResNet-50 cost, and how exact they are.

Run: python benchmarks/spectra.py [ROUNDS]   (writes reports/benchmarks/spectra.csv)

All ways run interleaved in one process, on one thread; medians of CPU seconds. `error` is the
largest deviation of any singular value from `numpy.linalg.svd` in float64, over the weight's
largest. weightwatcher takes part where it is installed. It reads a 3x3 kernel as nine matrices
instead of one, which is another spectrum and less work; linear layers of the flattened kernels make
it compute the same one. Its `analyze` also fits a power law to each spectrum.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import sigprop
from sigprop.signals import singular_values
from sigprop.signals.spectra import weight_matrix

Spectra = list[Tensor]


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


def ways(model: nn.Sequential) -> dict[str, Callable[[], Spectra | None]]:
    weights = [layer.weight for layer in model]
    matrices = [weight_matrix(weight) for weight in weights]

    def probed() -> None:
        with sigprop.attach(model) as probe:
            probe.record_spectra()

    def svdvals(dtype: torch.dtype) -> Spectra:
        return [torch.linalg.svdvals(matrix.to(dtype)) for matrix in matrices]

    found: dict[str, Callable[[], Spectra | None]] = {
        "sigprop: singular_values": lambda: [singular_values(weight) for weight in weights],
        "sigprop: Probe.record_spectra": probed,
        "torch.linalg.svdvals, float64": lambda: svdvals(torch.float64),
        "torch.linalg.svdvals, float32": lambda: svdvals(torch.float32),
    }
    return found | (weightwatchers(model) if importlib.util.find_spec("weightwatcher") else {})


def weightwatchers(model: nn.Sequential) -> dict[str, Callable[[], Spectra | None]]:
    import weightwatcher

    watcher = weightwatcher.WeightWatcher(model=model)
    settings = weightwatcher.weightwatcher.DEFAULT_PARAMS.copy()

    def spectra(of: nn.Module) -> Spectra:
        layers = watcher.make_layer_iterator(model=of, params=settings)
        squares = [watcher.apply_esd(layer, settings).evals for layer in layers]
        return [torch.from_numpy(np.sort(np.sqrt(found))[::-1].copy()) for found in squares]

    def slices() -> None:
        spectra(model)

    def analysis() -> None:
        watcher.analyze(model=model)

    return {
        "weightwatcher: spectra": lambda: spectra(flattened(model)),
        "weightwatcher: spectra of 3x3 slices": slices,
        "weightwatcher: analyze, 3x3 slices": analysis,
    }


def flattened(model: nn.Sequential) -> nn.Sequential:
    """Return linear layers that share the model's weights, as matrices."""
    layers = [nn.Linear(1, 1, bias=False) for _ in model]
    for layer, original in zip(layers, model, strict=True):
        layer.weight = nn.Parameter(weight_matrix(original.weight))
        layer.out_features, layer.in_features = layer.weight.shape
    return nn.Sequential(*layers)


def error(spectra: Spectra, exact: list[np.ndarray]) -> float:
    pairs = zip(spectra, exact, strict=True)
    return max(float(np.abs(s.double().numpy() - e).max() / e[0]) for s, e in pairs)


def main(rounds: int = 5) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(*resnet50_layers())
    exact = [
        np.linalg.svd(weight_matrix(layer.weight).double().numpy(), compute_uv=False)
        for layer in model
    ]
    seconds: dict[str, list[float]] = {}
    errors: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in ways(model).items():
            start = time.process_time()
            spectra = way()
            seconds.setdefault(name, []).append(time.process_time() - start)
            if isinstance(spectra, list):
                errors[name] = error(spectra, exact)
    table = pd.DataFrame(
        {"way": list(seconds), "seconds": map(statistics.median, seconds.values())}
    )
    table["times singular_values"] = table["seconds"] / table["seconds"].iloc[0]
    table["error"] = table["way"].map(errors)
    weights, values = sum(layer.weight.numel() for layer in model), sum(map(len, exact))
    print(f"{weights:,} weights in {len(model)} layers, {values:,} singular values")
    print(table.to_string(index=False, float_format="{:.3g}".format))
    folder = Path("reports/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "spectra.csv", index=False, float_format="%.4g", lineterminator="\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
