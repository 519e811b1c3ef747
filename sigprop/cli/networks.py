"""``sigprop networks``: the networks of the zoo and their options."""

from __future__ import annotations

import inspect

from rich.markup import escape
from rich.table import Table

from sigprop import networks as zoo
from sigprop.cli.console import out


def networks() -> None:
    """List the networks of the zoo and their own options."""
    table = Table("network", "own options", "what it is", box=None, header_style="bold")
    for name in zoo.names():
        own = ", ".join(f"{key}={value}" for key, value in zoo.options(name).items())
        about = (inspect.getdoc(zoo.NETWORKS[name]) or "").split("\n")[0].removeprefix("Return ")
        table.add_row(name, escape(own) or "-", escape(about))
    out.print(table)
