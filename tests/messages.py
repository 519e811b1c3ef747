"""Errors are compared by their whole message, so that no part of it can go wrong unseen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refusal(kind: type[Exception], message: str) -> Iterator[None]:
    """Expect an error of a kind, with this message and no other."""
    with pytest.raises(kind) as caught:
        yield
    assert str(caught.value) == message
