"""The report's figures one at a time, as matplotlib figures: to change and to save elsewhere."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sigprop.records import Records
from sigprop.reporting.figures import FIGURES, Study
from sigprop.verification.predictions import predictions as predictions_of

__all__ = [
    "branch_to_skip",
    "gradient_propagation",
    "gradient_to_weight",
    "loss_curves",
    "signal_propagation",
    "spectra",
    "spectra_training",
    "training_heatmaps",
]


def signal_propagation(records: Records, predictions: pd.DataFrame | None = None) -> Figure:
    """Draw the moments of block outputs and their dead units, by block, at the first step.

    Args:
        records: what was seen.
        predictions: theory to draw over it, as for `sigprop.report`.

    Returns:
        The figure; ``figure.axes`` are its panels.

    Raises:
        SigpropError: the records hold no outputs of blocks.
    """
    return _drawn("signal_propagation", records, predictions)


def gradient_propagation(records: Records, predictions: pd.DataFrame | None = None) -> Figure:
    """Draw the moments of gradients at block outputs, by block, at the first step.

    Args:
        records: what was seen.
        predictions: theory to draw over it, as for `sigprop.report`.

    Returns:
        The figure; ``figure.axes`` are its panels.

    Raises:
        SigpropError: the records hold no gradients at outputs of blocks.
    """
    return _drawn("gradient_propagation", records, predictions)


def branch_to_skip(records: Records) -> Figure:
    """Draw the ratio and the correlation of residual branch and skip, by block.

    Args:
        records: what was seen.

    Returns:
        The figure; ``figure.axes`` are its panels.

    Raises:
        SigpropError: the records hold no residual additions.
    """
    return _drawn("branch_to_skip", records)


def training_heatmaps(records: Records) -> Figure:
    """Draw second moment, gradient-to-weight and dead units by block and step.

    Args:
        records: what was seen.

    Returns:
        The figure; ``figure.axes`` are its panels and color bars.

    Raises:
        SigpropError: the records hold fewer than two steps.
    """
    return _drawn("training_heatmaps", records)


def gradient_to_weight(records: Records) -> Figure:
    """Draw gradient and update over the weight, by block, at the first and the last step.

    Args:
        records: what was seen.

    Returns:
        The figure; ``figure.axes`` are its panels.

    Raises:
        SigpropError: the records hold no gradients of block weights.
    """
    return _drawn("gradient_to_weight", records)


def spectra(records: Records) -> Figure:
    """Draw the sorted singular values of every weight, at the first and the last step.

    Args:
        records: what was seen.

    Returns:
        The figure; ``figure.axes`` are its panels and a color bar.

    Raises:
        SigpropError: the records hold no singular values.
    """
    return _drawn("spectra", records)


def spectra_training(records: Records) -> Figure:
    """Draw spectral norms of weights and updates, and updates' stable ranks, by weight and step.

    Args:
        records: what was seen.

    Returns:
        The figure; ``figure.axes`` are its panels and color bars.

    Raises:
        SigpropError: the records hold spectra of fewer than two steps.
    """
    return _drawn("spectra_training", records)


def loss_curves(records: Records) -> Figure:
    """Draw loss and accuracy by step, and where training diverged.

    Args:
        records: what was seen.

    Returns:
        The figure; ``figure.axes`` are its two panels.

    Raises:
        SigpropError: the records hold neither losses nor accuracies.
    """
    return _drawn("loss_curves", records)


def _drawn(name: str, records: Records, predictions: pd.DataFrame | None = None) -> Figure:
    theory = predictions_of(records) if predictions is None else predictions
    return FIGURES[name](Study(records, theory))
