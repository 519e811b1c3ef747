"""The figures, one function each: importing this package registers them (and loads matplotlib)."""

# The order of registration is the order of the page, so the imports are not sorted.
# isort: off
from sigprop.report.figures import forward as forward
from sigprop.report.figures import backward as backward
from sigprop.report.figures import residual as residual
from sigprop.report.figures import heatmaps as heatmaps
from sigprop.report.figures import weights as weights
from sigprop.report.figures import spectra as spectra
from sigprop.report.figures import loss as loss

# isort: on
from sigprop.report.figures.base import FIGURES, FigureSpec, NothingToDraw, Study, figure

__all__ = ["FIGURES", "FigureSpec", "NothingToDraw", "Study", "figure"]
