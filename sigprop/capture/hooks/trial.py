"""Tries once, on two numbers, whether a compiler takes what `compiled` has it trace."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from sigprop.capture.hooks.gradient_operators import WATCH
from sigprop.capture.hooks.graph_buffers import BUFFERS
from sigprop.capture.hooks.tracing import shown
from sigprop.capture.internals import switch_off, switched_off
from sigprop.capture.torch_internals import TRACEABLE, at_trace_time, show, show_graph
from sigprop.signals.columns import COLUMNS

_BUFFERS = ("trial_forward", "trial_backward")


class _Trial:
    """Whether it was made."""

    made = False


def can_trace() -> bool:
    """Return whether our hooks can be traced; where they cannot, there is one warning.

    A compiler that fails here fails on a function of ours, and not on the user's model. Not to be
    called while it compiles: it keeps the modes of functions in one place, and would lose them.
    """
    if TRACEABLE and not _Trial.made:
        _Trial.made = True
        try:
            with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _try()
        except Exception as error:
            switch_off("tracing", error)
        finally:
            for name in _BUFFERS:
                vars(BUFFERS).pop(name, None)
    return TRACEABLE and not switched_off("tracing")


def _try() -> None:
    for name in _BUFFERS:
        setattr(BUFFERS, name, torch.zeros(len(COLUMNS), 2, device="cpu"))
    x = torch.ones(3, 2, device="cpu", requires_grad=True)
    torch.compile(_traced, backend="eager", fullgraph=True)(x).sum().backward()
    read = [getattr(BUFFERS, name)[0].tolist() for name in _BUFFERS]
    if read != [[3.0, 3.0], [3.0, 3.0]]:
        raise RuntimeError(f"a traced function left {read} in its buffers")


def _traced(x: Tensor) -> Tensor:
    show_graph()
    y = x * 2
    show(y)
    if _is_shown():
        torch.ops.sigprop.add_statistics(getattr(BUFFERS, _BUFFERS[0]), y.detach(), -1)
        getattr(torch.ops.sigprop, WATCH["add_statistics"])(getattr(BUFFERS, _BUFFERS[1]), y, -1)
    return y


@at_trace_time
def _is_shown() -> bool:
    return tuple(shown().shape) == (3, 2)
