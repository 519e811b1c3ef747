"""Signal-propagation diagnostics for PyTorch: how activations and gradients travel, and why not."""

from sigprop import torch_version  # noqa: F401 - first: it refuses a torch that is too old

# isort: split
from sigprop import networks
from sigprop.errors import BadInput, ProbeWarning, RunError, SigpropError, UnknownName
from sigprop.experiments.compare import compare
from sigprop.experiments.measure import measure
from sigprop.probing.check import check
from sigprop.probing.probe import Probe, attach
from sigprop.records import Records, load
from sigprop.reporting import report
from sigprop.verification.verify import assert_preserved, verify

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped by use, not by letter
    # attach a probe
    "attach",
    "Probe",
    # before training: what a probe will see
    "check",
    # a picture at initialization
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
