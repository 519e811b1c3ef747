"""Packages that some tests need, and that may be missing or refuse the PyTorch at hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def transformers() -> Any:
    """Return Transformers; skip where it is missing or asks for a newer PyTorch."""
    package = pytest.importorskip("transformers")
    if not package.utils.is_torch_available():
        pytest.skip(
            f"transformers {package.__version__} does not take torch {torch.__version__}",
            allow_module_level=True,
        )
    return package
