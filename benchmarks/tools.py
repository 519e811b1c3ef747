"""What is compared: a tool and how it watches a training; here the bare step and sigprop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

import sigprop
from benchmarks.subjects import Training
from sigprop.signals import QUANTITIES

SIGNAL_NUMBERS = (*QUANTITIES, "dead_fraction", "nonfinite", "skip_branch_correlation")
PARAMETER_NUMBERS = (
    "weight_norm",
    "grad_norm",
    "grad_to_weight",
    "update_to_weight",
    "unit_grad_to_weight_max",
    "angular_update",
    "effective_lr",
)


class Watch(NamedTuple):
    """A training that is watched.

    Attributes:
        step: takes one step, and records it.
        numbers: how many numbers the last step recorded; counted in what the tool kept.
    """

    step: Callable[[], object]
    numbers: Callable[[], int]


Attach = Callable[[Training], AbstractContextManager[Watch]]


@dataclass(frozen=True)
class Tool:
    """One way to watch a training.

    Attributes:
        attach: puts it on a training, and takes it off when the context ends.
        records: which numbers, in the tool's own words.
        passes: of which tensors: forward, backward (gradients of activations), parameters.
        covers: which of sigprop's columns these numbers give.
        package: the distribution it comes from; empty for what is written here.
        baseline: the tool whose step is the bare one.
        against: which way of using sigprop records no less.
        alone: it changes torch for the whole process, and is measured in one of its own.
        compiled: it runs compiled code, which takes a minute to make.
    """

    name: str
    attach: Attach
    records: str
    passes: str
    covers: tuple[str, ...] = ()
    package: str = ""
    baseline: str = "bare"
    against: str = ""
    alone: bool = False
    compiled: bool = False


#: Name -> tool, in the order in which tables show them.
TOOLS: dict[str, Tool] = {}


def tool(name: str, **facts: Any) -> Callable[[Callable[..., Iterator[Watch]]], Attach]:
    """Return a decorator that files a generator function, up to its yield the attaching, as a tool.

    The keywords are the fields of `Tool`.
    """

    def file(watching: Callable[..., Iterator[Watch]]) -> Attach:
        attach = contextmanager(watching)
        TOOLS[name] = Tool(name, attach, **facts)
        return attach

    return file


NOTHING: dict[str, Any] = {"records": "nothing", "passes": ""}


@tool("bare", **NOTHING)
def bare(training: Training) -> Iterator[Watch]:
    yield Watch(training.step, lambda: 0)


@tool("bare, again", **NOTHING)
def bare_again(training: Training) -> Iterator[Watch]:
    # A second copy of the same: how far its ratio is from 1 is what cannot be told apart here.
    yield Watch(training.step, lambda: 0)


def numbers_of(records: sigprop.Records) -> int:
    """Return how many numbers the last recorded step has, undefined ones left out.

    None of them counts where no signal was recorded, the parameters' neither: that is a probe which
    does not see the model, not a cheap one.
    """
    if records.signals.empty:
        return 0
    signals, parameters = (
        frame[frame["step"] == frame["step"].max()][list(columns)]
        for frame, columns in (
            (records.signals, SIGNAL_NUMBERS),
            (records.parameters, PARAMETER_NUMBERS),
        )
    )
    return int(signals.notna().sum().sum() + parameters.notna().sum().sum())


def sigprop_at(
    blocks: Any, every: int | Callable[[int], bool] = 1
) -> Callable[[Training], Iterator[Watch]]:
    def watching(training: Training) -> Iterator[Watch]:
        chosen = blocks(training) if callable(blocks) else blocks
        with sigprop.attach(training.model, training.optimizer, chosen, every) as probe:
            yield Watch(training.step, lambda: numbers_of(probe.records))

    return watching


def last_leaf(training: Training) -> Callable[[str, nn.Module], bool]:
    # A probe taps at least one module; with the smallest what is left is the parameters' cost.
    last = list(training.leaves())[-1]
    return lambda name, module: name == last


def compiled(attach: Attach) -> Callable[[Training], Iterator[Watch]]:
    """Return the tool that watches the same training with its model compiled."""

    def watching(training: Training) -> Iterator[Watch]:
        compiled_model: Any = torch.compile(training.model, fullgraph=True)
        training.model = training.forward = compiled_model
        with attach(training) as watch:
            yield watch

    return watching


EVERYTHING: dict[str, Any] = {
    "records": "all of sigprop's columns",
    "passes": "forward, backward, parameters",
    "covers": (*SIGNAL_NUMBERS, *PARAMETER_NUMBERS),
    "package": "sigprop",
}
COMPILED: dict[str, Any] = {"baseline": "bare, compiled", "compiled": True}

tool("sigprop, off-step", **NOTHING, package="sigprop")(sigprop_at("leaves", lambda step: False))
tool("sigprop, parameters", **EVERYTHING)(sigprop_at(last_leaf))
tool("sigprop, blocks", **EVERYTHING)(blocks := sigprop_at("auto"))
tool("sigprop, leaves", **EVERYTHING)(leaves := sigprop_at("leaves"))
tool("bare, compiled", **NOTHING, compiled=True, baseline="bare, compiled")(compiled(bare))
tool("sigprop, blocks, compiled", **EVERYTHING, **COMPILED)(compiled(contextmanager(blocks)))
tool("sigprop, leaves, compiled", **EVERYTHING, **COMPILED)(compiled(contextmanager(leaves)))
