"""The command line: the only folder that prints. One file per command, joined in `app`."""

from sigprop.cli.app import main

__all__ = ["main"]
