"""What a page runs and what it is given, compressed: text in base64, which cannot end a script."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache

from sigprop.reporting import vendor


def compressed(text: str) -> str:
    r"""Return text as the page's script unpacks it: UTF-8, then gzip, then base64.

    Args:
        text: any; the same text gives the same bytes.

    Example:
        >>> gzip.decompress(base64.b64decode(compressed("σ")))
        b'\xcf\x83'
    """
    return base64.b64encode(gzip.compress(text.encode("utf-8"), 9, mtime=0)).decode("ascii")


def json_text(value: object) -> str:
    """Return a value as compact JSON.

    Args:
        value: of dicts, lists, strings, finite numbers, booleans and None.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@cache
def plotly_compressed() -> str:
    """Return Plotly's bundle: 0.7 MB instead of 1.5."""
    return compressed(vendor.plotly())
