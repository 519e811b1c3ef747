"""What a probe costs: the time of a training step with it, over the bare step.

Run: python benchmarks/overhead.py [ROUNDS]   (writes reports/benchmarks/overhead.csv)

All variants run interleaved in one process, on one thread; medians of CPU time, so that other work
on the machine disturbs little. `naive` is the hook that many write by hand: per-channel var_mean,
zero fraction and dead fraction of every leaf, forward and backward, fetched at once.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import sigprop

SUBJECTS = {
    "ResNet-20, batch 64 of 3x32x32": (
        {"architecture": "resnet", "depth": 9, "width": 16, "stages": 3, "inputs": (3, 32, 32)},
        (64, 3, 32, 32),
    ),
    "MLP, 20 blocks of 256, batch 256": ({"depth": 20, "width": 256, "inputs": 256}, (256, 256)),
}


def naive(model: nn.Module) -> None:
    def look(x: Tensor) -> None:
        dims = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(x, dims)
        numbers = [variance.mean(), mean.square().mean(), (x == 0).float().mean()]
        [number.item() for number in [*numbers, (x > 0).flatten(1).any(0).float().mean()]]

    def hook(_: nn.Module, __: object, out: Tensor) -> None:
        look(out.detach())
        if out.requires_grad:
            out.register_hook(lambda grad: look(grad))

    for module in model.modules():
        if not any(module.children()):
            module.register_forward_hook(hook)


def step_of(options: dict[str, object], shape: tuple[int, ...], kind: str) -> Callable[[], None]:
    torch.manual_seed(0)
    model = sigprop.networks.build("batchnorm", **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(shape), torch.randint(0, 10, shape[:1])
    if kind == "naive":
        naive(model)
    elif kind == "off-step":
        sigprop.attach(model, optimizer, blocks="leaves", every=10**9)
    elif kind != "bare":
        sigprop.attach(model, optimizer, blocks={"blocks": "auto"}.get(kind, kind))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    step()  # the one step that an off-step probe records
    return step


def main(rounds: int = 15) -> None:
    torch.set_num_threads(1)
    rows = []
    for subject, (options, shape) in SUBJECTS.items():
        kinds = ("bare", "off-step", "blocks", "leaves", "naive")
        steps = {kind: step_of(options, shape, kind) for kind in kinds}
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, step in steps.items():
                start = time.process_time()
                step()
                seconds[kind].append(time.process_time() - start)
        medians = {kind: statistics.median(times) for kind, times in seconds.items()}
        ratios = {kind: medians[kind] / medians["bare"] for kind in kinds}
        rows.append({"subject": subject, "bare ms": 1e3 * medians["bare"], **ratios})
    table = pd.DataFrame(rows).drop(columns="bare")
    print(table.to_string(index=False, float_format="{:.3f}".format))
    folder = Path("reports/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "overhead.csv", index=False, float_format="%.4g", lineterminator="\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
