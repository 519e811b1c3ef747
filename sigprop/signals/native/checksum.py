"""The checksum of the C sources: compiled into the library, compared when it is opened.

The build hook imports this file by itself, so it imports nothing of sigprop.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def sources_checksum(folder: Path) -> str:
    """Return a checksum over the names and texts of the C files in a folder; "" without any."""
    sources = sorted((*folder.glob("*.c"), *folder.glob("*.h")), key=lambda path: path.name)
    if not sources:
        return ""
    digest = hashlib.sha256()
    for path in sources:
        # Line ends may be the checkout's own.
        text = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(path.name.encode() + b"\0" + text + b"\0")
    return digest.hexdigest()[:16]
