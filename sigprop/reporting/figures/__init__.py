"""The figures, one function each: importing this package registers them (and loads matplotlib)."""

# The order of registration is the order of the page, so the imports are not sorted.
# isort: off
from sigprop.reporting.figures import forward as forward
from sigprop.reporting.figures import backward as backward
from sigprop.reporting.figures import residual as residual
from sigprop.reporting.figures import heatmaps as heatmaps
from sigprop.reporting.figures import weights as weights
from sigprop.reporting.figures import spectra as spectra
from sigprop.reporting.figures import spectra_training as spectra_training
from sigprop.reporting.figures import loss as loss

# isort: on
from sigprop.reporting.figures.base import (
    FIGURES,
    PREDICTED,
    FigureSpec,
    NothingToDraw,
    Study,
    figure,
)

__all__ = ["FIGURES", "PREDICTED", "FigureSpec", "NothingToDraw", "Study", "figure"]
