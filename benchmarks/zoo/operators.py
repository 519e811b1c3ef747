"""Lets torchvision be imported beside a build of PyTorch that its compiled operators are not for.

None of the architectures here calls them; only their names must exist.
"""

from __future__ import annotations

import torch

_NAMES = ("nms", "qnms")
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def declare() -> None:
    """Declare the operators that torchvision describes when it is imported, where they are not."""
    for name in _NAMES:
        try:
            getattr(torch.ops.torchvision, name)
        except AttributeError:
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
