"""How it is shown: figures, tables and one HTML page made from records. Never imports torch.

Importing this package loads neither matplotlib nor seaborn nor jinja2; `report` does on first use.
"""

from sigprop.reporting.write import report

__all__ = ["report"]
