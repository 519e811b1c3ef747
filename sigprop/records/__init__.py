"""What was recorded: tidy frames and the run directory that keeps them. The only run-file I/O."""

from sigprop.records.frames import (
    MANIFEST,
    SCHEMA,
    SCHEMA_VERSION,
    Records,
    RunWriter,
    atomic_write,
    concat,
    load,
    provenance,
    tidy,
)

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Records",
    "RunWriter",
    "atomic_write",
    "concat",
    "load",
    "provenance",
    "tidy",
]
