"""Other packages' ways to watch a training, each used as its documentation says.

Each adapter records every step. Where a package lets its user name the numbers, a second tool
asks it for sigprop's: these are marked "equal numbers".
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.handwritten import NUMBERS, Number, all_numbers
from benchmarks.subjects import Training
from benchmarks.tools import Watch, tool

LEAVES = "sigprop, leaves"
NORM: Mapping[str, Number] = {"norm": lambda x: x.norm()}
EQUAL: dict[str, Any] = {
    "records": "sigprop's numbers of one tensor",
    "covers": tuple(NUMBERS),
    "against": LEAVES,
}


def module_monitor(
    training: Training, activations: Mapping[str, Number], parameters: Mapping[str, Number]
) -> Iterator[Watch]:
    from torch_module_monitor import ModuleMonitor

    monitor = ModuleMonitor(monitor_step_fn=lambda step: True)
    monitor.set_module(training.model)
    for name, number in activations.items():
        monitor.add_activation_metric(name, number)
    for name, number in parameters.items():
        monitor.add_parameter_metric(name, number)
        monitor.add_gradient_metric(name, number)
    steps = iter(range(10**9))

    def ready() -> None:
        monitor.monitor_parameters()
        monitor.monitor_gradients()

    def step() -> None:
        monitor.begin_step(next(steps))
        training.step(ready)
        monitor.end_step()

    yield Watch(step, lambda: len(monitor.get_step_metrics()))
    monitor.activation_hooks.remove_all_hooks()


@tool(
    "torch-module-monitor",
    records="mean of activations, norm of parameters and gradients (its README's example)",
    passes="forward, parameters",
    covers=("mean", "weight_norm", "grad_norm"),
    package="torch-module-monitor",
    against=LEAVES,
)
def module_monitor_as_documented(training: Training) -> Iterator[Watch]:
    yield from module_monitor(training, {"mean": lambda x: x.mean()}, NORM)


@tool(
    "torch-module-monitor, equal numbers",
    **EQUAL,
    passes="forward, parameters",
    package="torch-module-monitor",
)
def module_monitor_equal(training: Training) -> Iterator[Watch]:
    yield from module_monitor(training, NUMBERS, NORM)


@tool(
    "torchmortem",
    records="of outputs mean, std, share near 0 and near ±1; of their gradients norm, mean, max, "
    "zeros; of weights norm, update, ratio; without its SVD of every 50th step",
    passes="forward, backward, parameters",
    covers=("mean", "second_moment", "max_abs", "zero_fraction", "weight_norm", "update_to_weight"),
    package="torchmortem",
    against=LEAVES,
)
def torchmortem(training: Training) -> Iterator[Watch]:
    from torchmortem import Autopsy, SamplingConfig

    sampling = SamplingConfig(default_interval=1, expensive_interval=10**9)
    autopsy = Autopsy(training.model, training.optimizer, sampling)

    def step() -> None:
        training.step()
        autopsy.step()

    def numbers() -> int:
        states = [collector.state() for collector in autopsy._collectors]
        return sum(series[-1].size for s in states for series in s.series.values() if series.size)

    with autopsy:
        yield Watch(step, numbers)


@tool(
    "wandb.watch, offline",
    records="histograms of 64 bins",
    passes="parameters",
    package="wandb",
    against="sigprop, parameters",
)
def wandb_watch(training: Training) -> Iterator[Watch]:
    import wandb

    bins, steps = 64, iter(range(10**9))
    with tempfile.TemporaryDirectory() as folder:
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        with wandb.init(project="b", mode="offline", dir=folder, settings=settings) as run:
            run.watch(training.model, log="all", log_freq=1)
            watched = [p for p in training.model.parameters() if p.requires_grad]

            def step() -> None:
                training.step()
                run.log({"step": next(steps)})

            yield Watch(step, lambda: 2 * bins * sum(p.grad is not None for p in watched))
            run.unwatch(training.model)


@tool(
    "delve",
    records="covariance of the outputs of convolutions and linear layers; of a sequence its last "
    "position",
    passes="forward",
    package="delve",
    against=LEAVES,
)
def delve(training: Training) -> Iterator[Watch]:
    from delve import SaturationTracker

    logging.getLogger("delve.logger").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        device = str(training.inputs.device)
        tracker = SaturationTracker(
            folder, save_to="csv", modules=training.model, device=device, nosave=True
        )
        covariances = tracker.logs["train-covariance-matrix"]
        yield Watch(training.step, lambda: sum(c._cov_mtx.numel() for c in covariances.values()))
        tracker.close()
        for leaf in training.leaves().values():  # it has no way to take its hooks off
            leaf._forward_hooks.clear()


@tool(
    "fastai ActivationStats",
    records="mean, std, share ≤ 0.05 of the outputs of layers with parameters",
    passes="forward",
    covers=("mean", "second_moment"),
    package="fastai",
    against=LEAVES,
)
def fastai(training: Training) -> Iterator[Watch]:
    from fastai.callback.hook import ActivationStats

    stats = ActivationStats(modules=[m for m in training.leaves().values() if [*m.parameters()]])
    # What a callback asks of its Learner, without the Learner's own loop.
    stats.learn = SimpleNamespace(model=training.model, training=True, train_iter=0)
    stats.before_fit()

    def step() -> None:
        training.step()
        stats.after_batch()

    yield Watch(step, lambda: sum(len(layer) for layer in stats.stats[-1] if layer))
    stats.after_fit()


def torchlens(training: Training, numbers: Number) -> Iterator[Watch]:
    import torchlens

    last: Any = None

    def forward(x: Tensor) -> Tensor:
        nonlocal last
        out, last = torchlens.record(
            training.model,
            x,
            default_op=True,
            activation_transform=lambda value: numbers(value.float()),  # masks are Booleans
            save_raw_activations=False,
            return_output=True,
        )
        return out

    training.forward = forward
    yield Watch(training.step, lambda: sum(r.transformed_ram_payload.numel() for r in last.records))


@tool(
    "torchlens",
    records="mean, std of every operation's output (a transform of its record)",
    passes="forward",
    covers=("mean", "second_moment"),
    package="torchlens",
    against=LEAVES,
    alone=True,
)
def torchlens_as_documented(training: Training) -> Iterator[Watch]:
    yield from torchlens(training, lambda x: torch.stack([x.mean(), x.std()]))


@tool("torchlens, equal numbers", **EQUAL, passes="forward", package="torchlens", alone=True)
def torchlens_equal(training: Training) -> Iterator[Watch]:
    yield from torchlens(training, lambda x: torch.stack(all_numbers(x)))


INSPECT = """
every layer:
  enabled: True
  layers:
    layer_name_regex_pattern: .*
  LogTensorStats:
    enabled: True
    tensors: [activation, gradient, weight]
    stats: [min, max, mean, std, l1_norm, l2_norm]
"""


@tool(
    "nvdlfw-inspect",
    records="min, max, mean, std, L1 and L2 norm (LogTensorStats, called from hooks by hand)",
    passes="forward, backward, parameters",
    covers=("mean", "second_moment", "max_abs", "weight_norm"),
    package="nvdlfw-inspect",
    against=LEAVES,
)
def nvdlfw_inspect(training: Training) -> Iterator[Watch]:
    import nvdlfw_inspect.api as inspect
    from nvdlfw_inspect.logging import BaseLogger, MetricLogger

    kept: list[float] = []

    class Kept(BaseLogger):  # type: ignore[misc]
        def log_scalar(self, name: str, value: Tensor, iteration: int, **_: object) -> None:
            kept.append(float(value))

    def log(name: str, kind: str, tensor: Tensor) -> None:
        inspect.log_tensor_stats(name, tensor=tensor, tensor_name=kind, skip_reduction=True)

    def hook(name: str, _: object, __: object, out: Tensor) -> None:
        log(name, "activation", out.detach())
        if out.requires_grad:
            out.register_hook(lambda grad: log(name, "gradient", grad))

    def step() -> None:
        kept.clear()
        training.step()
        for name, parameter in training.model.named_parameters():
            log(name, "weight", parameter.detach())
        inspect.step()

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        config.write_text(INSPECT)
        os.environ["NVDLFW_INSPECT_LOG_LEVEL"] = "ERROR"
        inspect.initialize(str(config), log_dir=folder, statistics_logger=Kept())
        handles = [
            leaf.register_forward_hook(partial(hook, name))
            for name, leaf in training.leaves().items()
        ]
        yield Watch(step, lambda: len(kept))
        for handle in handles:
            handle.remove()
        inspect.end_debug()
        MetricLogger.enabled_loggers.clear()
        logging.getLogger("nvdlfw_inspect").handlers.clear()


def coordinate_check(training: Training, numbers: Mapping[str, Number]) -> Iterator[Watch]:
    from mup.coord_check import _record_coords

    records: list[dict[str, object]] = []
    # The hook of mup's `get_coord_data`, without its own loop; it fails at a module that returns
    # anything but tensors, which leaves do not.
    handles = [
        leaf.register_forward_hook(_record_coords(records, 1, name, 1, output_fdict=numbers))
        for name, leaf in training.leaves().items()
    ]

    def step() -> None:
        records.clear()
        training.step()

    yield Watch(step, lambda: len(records) * len(numbers))
    for handle in handles:
        handle.remove()


@tool(
    "mup coordinate check",
    records="mean |x|",
    passes="forward",
    package="mup",
    against=LEAVES,
)
def coordinate_check_as_documented(training: Training) -> Iterator[Watch]:
    yield from coordinate_check(training, {"l1": lambda x: x.abs().mean()})


@tool("mup coordinate check, equal numbers", **EQUAL, passes="forward", package="mup")
def coordinate_check_equal(training: Training) -> Iterator[Watch]:
    yield from coordinate_check(training, NUMBERS)
