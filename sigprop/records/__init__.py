"""What was recorded: tidy frames and the run directory that keeps them. The only run-file I/O."""

from sigprop.records.atomic import atomic_write
from sigprop.records.frames import tidy
from sigprop.records.loading import load
from sigprop.records.manifest import MANIFEST, new_manifest
from sigprop.records.records import Records, concat
from sigprop.records.run_writer import RunWriter
from sigprop.records.schema import SCHEMA, SCHEMA_VERSION

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Records",
    "RunWriter",
    "atomic_write",
    "concat",
    "load",
    "new_manifest",
    "tidy",
]
