"""Operators that put a hook on a tensor's gradient, for graphs that a compiler makes.

Each is made of one call, `register_hook`. A compiler that traces Python meets the operator and not
the hook: its versions differ in what a hook may do, and those before 2.15 lose the attributes of
objects that are older than a hook (of a Transformer's cache of keys and values).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _watch(add: str) -> Callable[[Tensor, Tensor, int], None]:
    """Return what adds the statistics of a tensor's gradient to a buffer, when it comes back."""

    def watch(sums: Tensor, x: Tensor, channel_dim: int) -> None:
        def hook(grad: Tensor) -> None:
            getattr(torch.ops.sigprop, add)(sums, grad.detach(), channel_dim)

        x.register_hook(hook)

    return watch


#: Operator that adds the statistics of a tensor -> the one that does it with its gradient.
WATCH = {
    "add_statistics": "watch_statistics",
    "add_statistics_native": "watch_statistics_native",
}

_LIBRARY = torch.library.Library("sigprop", "FRAGMENT")
for _add, _name in WATCH.items():
    _LIBRARY.define(
        f"{_name}(Tensor(a!) sums, Tensor x, int channel_dim) -> ()",
        tags=(torch.Tag.pt2_compliant_tag,),
    )
    _LIBRARY.impl(_name, _watch(_add), "CompositeImplicitAutograd")
