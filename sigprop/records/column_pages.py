"""The columns in Markdown, for README and `docs/columns.md`: ``python -m`` writes both anew."""

from __future__ import annotations

from pathlib import Path

from sigprop.records.schema import ROWS, SCHEMA

BEGIN = "<!-- columns: made by `python -m sigprop.records.column_pages` -->"
END = "<!-- end of columns -->"

_HEAD = """# The columns of the records

Made by `python -m sigprop.records.column_pages` from `sigprop/records/schema`; do not edit.

`sigprop.load`, `measure`, `compare` and `Probe.records` return `Records`: one pandas frame per
table below. Means, variances and moments are taken over the finite elements of a tensor x of N
elements, whose channels x_c lie on the axis `channel_dim`. Where a number is not defined there is
NaN, never 0.
"""


def readme_table() -> str:
    """Return the numbers of `signals` and `parameters` with formula and definition, as a table."""
    rows = ["| column | formula | what it is |", "|---|---|---|"]
    for table in ("signals", "parameters"):
        for column in SCHEMA[table].values():
            if column.dtype == "float64" and column.formula:
                cells = f"`{column.name}`", _cell(column.formula), _cell(column.definition)
                rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """Return `docs/columns.md`: every column of every table."""
    return "\n".join([_HEAD, *(_table(table) for table in SCHEMA)])


def updated(readme: str) -> str:
    r"""Return README with its table between the two markers made anew.

    Raises:
        ValueError: there is no such pair of markers in it.

    Example:
        >>> text = updated(f"before\n{BEGIN}\nold\n{END}\nafter\n")
        >>> "old" in text, text.startswith("before"), "| `second_moment` | E[x²] |" in text
        (False, True, True)
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README has no pair of lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{readme_table()}\n{END}{after}"


def write(root: Path) -> None:
    """Write both documents of a checkout.

    Args:
        root: the folder that holds ``README.md`` and ``docs``.
    """
    readme = root / "README.md"
    readme.write_text(updated(readme.read_text("utf-8")), "utf-8")
    (root / "docs").mkdir(exist_ok=True)
    (root / "docs" / "columns.md").write_text(page(), "utf-8")


def _table(name: str) -> str:
    rows = ["| column | type | formula | what it is | unit | where there is none |"]
    rows.append("|---|---|---|---|---|---|")
    for column in SCHEMA[name].values():
        cells = column.definition, column.unit, column.undefined
        formula, (definition, unit, undefined) = _cell(column.formula), map(_cell, cells)
        if column.codes:
            definition += f" One of {', '.join(f'`{code}`' for code in column.codes)}."
        start = f"| `{column.name}` | {column.dtype} | {formula} | {definition} "
        rows.append(f"{start}| {unit} | {undefined} |")
    return f"## `{name}`\n\n{ROWS[name]}\n\n" + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    write(Path(__file__).parents[2])
