"""Signal-propagation diagnostics for PyTorch: how activations and gradients travel, and why not."""

from sigprop import networks
from sigprop.check import check
from sigprop.compare import compare
from sigprop.errors import BadInput, ProbeWarning, RunError, SigpropError, UnknownName
from sigprop.measure import measure
from sigprop.probe import Probe, attach
from sigprop.records import Records, load
from sigprop.report import report
from sigprop.verify import assert_preserved, verify

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped by use, not by letter
    # attach a probe
    "attach",
    "Probe",
    # before training: what a probe will see
    "check",
    # a picture at initialisation
    "measure",
    # networks side by side, during training
    "compare",
    # do the laws hold
    "verify",
    "assert_preserved",
    # what was seen
    "Records",
    "load",
    # how it is shown
    "report",
    # the networks to compare with
    "networks",
    # what goes wrong
    "SigpropError",
    "BadInput",
    "UnknownName",
    "RunError",
    "ProbeWarning",
]
