"""Where a failure of the probe itself is reported, and the words for it."""

from __future__ import annotations

import traceback
import warnings
from pathlib import Path

from sigprop.errors import ProbeWarning

#: Where a failure of the probe itself is to be reported.
REPORTS = "https://github.com/sigprop/sigprop/issues"


def warn_of_failure(error: BaseException) -> str:
    """Return what the failure was, after a warning that the probe is off."""
    failure = f"{type(error).__name__}: {error}"
    warnings.warn(
        f"the probe failed and is now off; training goes on ({failure}, "
        f"{_whereabouts(error)}). Attach with strict=True to see the whole traceback, and "
        f"please report it: {REPORTS}",
        ProbeWarning,
        stacklevel=3,
    )
    return failure


def _whereabouts(error: BaseException) -> str:
    """Return the line of our own code that the error passed through last."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "sigprop" in f.filename]
    last = ours[-1] if ours else traceback.extract_tb(error.__traceback__)[-1]
    return f"in {last.name}, {Path(last.filename).name}:{last.lineno}"
