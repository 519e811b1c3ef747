"""Cases of training on many ranks, each of which one process can do with the whole batch.

Run by test_distributed.py under torchrun: python rank_cases.py FILE CASE [CASE ...]
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.fsdp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sigprop
from sigprop.capture.distributed import group, merging
from sigprop.errors import BadInput

#: Where each rank's part of the twelve samples ends, by the number of ranks.
ENDS = {1: [0, 12], 2: [0, 5, 12], 3: [0, 3, 8, 12]}
STEPS = 4


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


class Network(nn.Module):
    """Three residual blocks, and a part that only the later samples go through."""

    def __init__(self, sometimes: bool = False) -> None:
        super().__init__()
        self.sometimes = sometimes
        self.stem, self.blocks = nn.Linear(6, 8), nn.ModuleList(Block() for _ in range(3))
        self.extra = Block() if sometimes else nn.Identity()
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, plain: int = 0) -> Tensor:
        """Apply the network, ``extra`` to all but the first ``plain`` samples."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        if self.sometimes and plain < len(x):
            x = torch.cat([x[:plain], self.extra(x[plain:])])
        return self.head(x)


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        wrap: of `WRAPPERS`.
        dtype: of weights and data.
        options: of `attach`, by rank.
        optimizer: whether attach is given it.
        micro: micro-batches in a step; ``no_sync`` for all but the last where it is given.
        evaluate: an evaluation follows each forward pass.
        sometimes: a block runs on the last rank only.
        compiled: the blocks are compiled.
    """

    wrap: str = "ddp"
    dtype: torch.dtype = torch.float64
    options: Callable[[int], dict[str, Any]] = field(default=lambda rank: {})
    optimizer: bool = True
    micro: int = 1
    no_sync: bool = False
    evaluate: bool = False
    sometimes: bool = False
    compiled: bool = False


def ddp(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model, find_unused_parameters=getattr(model, "sometimes", False))


def fsdp2(model: Network) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for part in (model.stem, *model.blocks, model.head, model):
        fully_shard(part)
    return model


def fsdp1(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


WRAPPERS: dict[str, Callable[[Any], nn.Module]] = {"ddp": ddp, "fsdp2": fsdp2, "fsdp1": fsdp1}


def mean_abs(x: Tensor) -> Tensor:
    return x.abs().mean()


CASES = {
    "ddp": Case(),
    "ddp float32": Case(dtype=torch.float32),
    "ddp, inner model probed": Case("ddp-inner"),
    "ddp, probed before it is wrapped": Case("ddp-before"),
    "ddp, no optimizer": Case(optimizer=False),
    "ddp, no optimizer, probed before it is wrapped": Case("ddp-before", optimizer=False),
    "ddp, micro-batches": Case(micro=2),
    "ddp, micro-batches without sync": Case(micro=2, no_sync=True),
    "ddp, evaluation between": Case(evaluate=True),
    "ddp, a block on one rank": Case(sometimes=True),
    "ddp, compiled blocks": Case(compiled=True),
    "ddp, own metric": Case(options=lambda rank: {"metrics": {"mean_abs": mean_abs}}),
    "ddp, every second step": Case(options=lambda rank: {"every": 2}),
    "ddp, the first rank's steps": Case(
        options=lambda rank: {"every": (lambda step: step in (1, 3)) if rank == 0 else bool}
    ),
    "ddp, leaves": Case(options=lambda rank: {"blocks": "leaves"}),
    "ddp, summed loss": Case(options=lambda rank: {"grad_scale": 0.25}),
    "fsdp2": Case("fsdp2"),
    "fsdp2, micro-batches": Case("fsdp2", micro=2),
    "fsdp1": Case("fsdp1"),
}  # fmt: skip
if not hasattr(torch.distributed.fsdp, "fully_shard"):  # torch 2.5 has it for CUDA only
    CASES = {name: case for name, case in CASES.items() if case.wrap != "fsdp2"}


def train(
    case: Case, probe: bool = True, rank: int = 0, size: int = 1, plain: int = 0
) -> dict[str, Any]:
    """Return what a rank recorded in a few steps of training, and its weights.

    Args:
        case: how to train.
        probe: whether a probe is attached.
        rank: this one.
        size: how many there are.
        plain: of one process, how many samples do not go through what runs on the last rank only.
    """
    torch.manual_seed(0)
    model = Network(case.sometimes).to(case.dtype)
    x, y = torch.randn(12, 6, dtype=case.dtype), torch.randn(12, 2, dtype=case.dtype)
    start, end = ENDS[size][rank], ENDS[size][rank + 1]
    if size > 1:
        plain = max(0, ENDS[size][-2] - start)
    if case.compiled:
        for block in model.blocks:
            block.compile(backend="aot_eager")
    wrap, _, where = case.wrap.partition("-")
    wrapped: nn.Module = WRAPPERS[wrap](model) if size > 1 and where != "before" else model
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        if probe:
            given = optimizer if case.optimizer else None
            probed = model if where else wrapped
            recorded = sigprop.attach(probed, given, strict=True, **case.options(rank))
            stack.enter_context(recorded)
        if size > 1 and where == "before":
            wrapped = WRAPPERS[wrap](model)
        for _ in range(STEPS):
            optimizer.zero_grad()
            for micro in range(case.micro):
                part = range(start, end)[micro :: case.micro]
                last = micro == case.micro - 1
                quiet = size > 1 and case.no_sync and not last
                with wrapped.no_sync() if quiet else contextlib.nullcontext():  # type: ignore[operator]
                    out = wrapped(x[list(part)], *([plain] if case.sometimes else []))
                    loss = (out - y[list(part)]).square().sum() / 24
                    (loss * size).backward()  # the mean over ranks is that over the whole batch
            if case.evaluate:
                with torch.no_grad():
                    wrapped.eval()(x[start:end])
                wrapped.train()
            optimizer.step()
            if probe and not case.optimizer:
                recorded.step()
        if probe:
            records = recorded.records
            found = {"signals": records.signals, "parameters": records.parameters}
            found["manifest"] = {key: records.manifest[key] for key in ("ranks", "grad_scale")}
            found["traffic"] = recorded.traffic
    found["weights"] = [part.detach().clone() for part in map(local, wrapped.parameters())]
    return found


def local(x: Tensor) -> Tensor:
    return x.to_local() if hasattr(x, "to_local") else x


# --- what goes wrong -----------------------------------------------------------------------------


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Have ranks wait for seconds only."""
    kept = group.JOIN, group.MERGE
    group.JOIN, group.MERGE = timedelta(seconds=3), timedelta(seconds=5)
    try:
        yield
    finally:
        group.JOIN, group.MERGE = kept


def trouble(
    options: Callable[[int], dict[str, Any] | None], rank: int, size: int
) -> dict[str, Any]:
    """Return warnings, and the weights of training, where probes of ranks do not fit."""
    torch.manual_seed(0)
    model = Network().double()
    x, y = torch.randn(12, 6).double(), torch.randn(12, 2).double()
    start, end = ENDS[size][rank], ENDS[size][rank + 1]
    wrapped = ddp(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = options(rank)
    found: dict[str, Any] = {"error": "", "rows": 0}
    with warnings.catch_warnings(record=True) as caught, impatient():
        warnings.simplefilter("always")
        probe = None
        if given is not None:
            try:
                probe = sigprop.attach(wrapped, optimizer, **given)
            except BadInput as error:
                found["error"] = str(error)
        dist.barrier()
        for _ in range(STEPS):
            optimizer.zero_grad()
            (wrapped(x[start:end]) - y[start:end]).square().mean().backward()
            optimizer.step()
        if probe is not None:
            found["rows"] = len(probe.records.signals)
            found["steps"] = sorted(set(probe.records.signals["step"]))
            probe.detach()
    found["warnings"] = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    found["weights"] = [p.detach().clone() for p in model.parameters()]
    found["hooks"] = sum(len(m._forward_hooks) for m in model.modules())
    return found


def fails_in_the_middle(rank: int, size: int) -> dict[str, Any]:
    """The merging of the last rank raises after the ranks have met."""
    right = merging.Merger.merge

    def wrong(self: Any, statistics: Any) -> Any:
        raise ValueError("broken on purpose")

    if rank == size - 1:
        merging.Merger.merge = wrong  # type: ignore[method-assign]
    try:
        return trouble(lambda rank: {}, rank, size)
    finally:
        merging.Merger.merge = right  # type: ignore[method-assign]


def fails_before(rank: int, size: int) -> dict[str, Any]:
    """The probe of the last rank fails in a hook of the second step."""
    from sigprop.capture.recording.reader import TensorReader

    right = TensorReader.read
    calls = []

    def wrong(self: Any, *given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > 40:
            raise ValueError("broken on purpose")
        return right(self, *given, **named)

    if rank == size - 1:
        TensorReader.read = wrong  # type: ignore[method-assign]
    try:
        return trouble(lambda rank: {}, rank, size)
    finally:
        TensorReader.read = right  # type: ignore[method-assign]


def measures(rank: int, size: int) -> dict[str, Any]:
    """The first rank measures and checks a model by itself; no other has to do so too."""
    if rank:
        return {}
    torch.manual_seed(0)
    model, x = Network().double(), torch.randn(12, 6).double()
    with warnings.catch_warnings(), impatient():
        warnings.simplefilter("error")
        sigprop.check(model, x)
        return {"rows": len(sigprop.measure(model, x).signals)}


TROUBLES: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "no probe": lambda rank, size: trouble(lambda rank: None, rank, size),
    "one rank only": lambda rank, size: trouble(lambda rank: {} if rank == 0 else None, rank, size),
    "own": lambda rank, size: trouble(lambda rank: {"ranks": "own"} if rank else None, rank, size),
    "other blocks": lambda rank, size: trouble(
        lambda rank: {"blocks": "leaves" if rank else "auto"}, rank, size
    ),
    "overhead": lambda rank, size: trouble(lambda rank: {"overhead": 5.0}, rank, size),
    "streamed": lambda rank, size: trouble(
        lambda rank: {"directory": f"{sys.argv[1]}.run", "flush_every": 3}, rank, size
    ),
    "measures alone": measures,
    "fails before": fails_before,
    "fails in the middle": fails_in_the_middle,
}


def main(file: str, names: list[str]) -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    found: dict[str, Any] = {}
    for name in names:
        if name in TROUBLES:
            found[name] = TROUBLES[name](rank, size)
            continue
        found[name] = train(CASES[name], rank=rank, size=size)
        found[name]["bare"] = train(CASES[name], False, rank, size)["weights"]
    Path(f"{file}.{rank}").write_bytes(pickle.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2:])
