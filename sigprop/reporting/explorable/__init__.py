"""The figures that a reader explores: the data of each, which the page's script draws."""

from sigprop.reporting.explorable import loss as loss
from sigprop.reporting.explorable import maps as maps
from sigprop.reporting.explorable import propagation as propagation
from sigprop.reporting.explorable import spectra as spectra
from sigprop.reporting.explorable.base import EXPLORABLE, page_data

__all__ = ["EXPLORABLE", "page_data"]
