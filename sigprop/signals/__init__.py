"""What a number is: pure reductions, tensor in, numbers out. No modules, no hooks, no I/O."""

from sigprop.signals.activity import Activity, DeadUnits
from sigprop.signals.correlation import Products
from sigprop.signals.moments import Moments
from sigprop.signals.pooled import QUANTITIES, Pooled
from sigprop.signals.signal import Signal, measure_signal
from sigprop.signals.spectra import singular_values

__all__ = [
    "QUANTITIES",
    "Activity",
    "DeadUnits",
    "Moments",
    "Pooled",
    "Products",
    "Signal",
    "measure_signal",
    "singular_values",
]
