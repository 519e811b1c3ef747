"""Scripts of others, as they are: `vendor.py` at the top of the repository fetched them."""

from __future__ import annotations

import json
from importlib.resources import files

#: The file that draws, and what it is.
PLOTLY = "plotly-cartesian.min.js"
_FACTS, _LICENSE = "plotly.js-cartesian-dist-min.json", "plotly.LICENSE"


def plotly() -> str:
    """Return the text of Plotly's bundle of Cartesian charts, MIT license."""
    return _read(PLOTLY)


def plotly_license() -> str:
    """Return the text of its license."""
    return _read(_LICENSE)


def plotly_version() -> str:
    """Return its version."""
    return str(json.loads(_read(_FACTS))["version"])


def _read(name: str) -> str:
    return (files(__name__) / name).read_text("utf-8")
