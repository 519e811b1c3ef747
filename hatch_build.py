"""Compiles the C library when sigprop is installed; without a compiler the wheel is pure."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "sigprop/signals/native"
SOURCE = "kernels.c"
LIBRARY = "kernels.so"  # on every system: ctypes does not mind


class CompileKernels(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the library into a wheel, or beside the sources of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say in the wheel's tag which platform it is for."""
        folder = Path(self.root, FOLDER)
        editable = version == "editable"
        made = (folder if editable else Path(tempfile.mkdtemp())) / LIBRARY
        failure = compile_kernels(folder, made)
        if failure:
            _say(
                f"sigprop is built without its C library, tensors are read slower: {failure}",
                self.app.display_warning,
            )
            return
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().translate({45: "_", 46: "_"})
        if not editable:
            build_data["force_include"][str(made)] = f"{FOLDER}/{LIBRARY}"


def _say(sentence: str, otherwise: Callable[[str], None]) -> None:
    """Write to the terminal: pip shows nothing of what a build prints, unless it fails."""
    try:
        with Path("/dev/tty").open("w") as terminal:
            terminal.write(f"{sentence}\n")
    except OSError:  # there is none: in a log, or on Windows
        otherwise(sentence)


def compile_kernels(folder: Path, made: Path) -> str:
    """Return why the sources in ``folder`` could not be compiled to ``made``, or ""."""
    made.unlink(missing_ok=True)
    fresh = made.with_name(f"{LIBRARY}.{os.getpid()}")  # never written in place: it may be in use
    compiler = shlex.split(os.environ.get("CC", "cc"))
    # No -ffast-math: NaN and infinity have to be seen.
    flags = ["-O3", "-std=gnu11", "-shared", "-fPIC", "-Wno-psabi"]
    flags.append(f'-DSIGPROP_SOURCES="{_checksum(folder)}"')
    command = [*compiler, *flags, "-o", str(fresh), str(folder / SOURCE), "-lm"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as error:
        return f"{compiler[0]} cannot be run ({error.strerror})"
    except subprocess.CalledProcessError as error:
        return f"{shlex.join(command)} failed: {error.stderr.strip()}"
    fresh.replace(made)
    return ""


def _checksum(folder: Path) -> str:
    """Return the checksum of the sources, by the code that compares it when sigprop is imported."""
    spec = importlib.util.spec_from_file_location("checksum", folder / "checksum.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.sources_checksum(folder))
