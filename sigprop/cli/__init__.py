"""The command line: the only folder that prints."""

from sigprop.cli.commands import main

__all__ = ["main"]
