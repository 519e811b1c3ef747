"""Signal-propagation diagnostics for PyTorch: how activations and gradients travel, and why not."""

from sigprop import torch_version  # noqa: F401 - first: it refuses a torch that is too old

# isort: split
from importlib import import_module
from typing import TYPE_CHECKING

from sigprop import networks, spectra
from sigprop.diagnosis.diagnose import assert_healthy, diagnose
from sigprop.diagnosis.finding import Finding, Findings
from sigprop.errors import BadInput, ProbeWarning, RunError, SigpropError, UnknownName
from sigprop.experiments.compare import compare
from sigprop.experiments.measure import measure
from sigprop.experiments.sweep import SweepResult, sweep
from sigprop.experiments.training import Plan, Progress
from sigprop.inputs.datasets import Data
from sigprop.probing.check import Check, check
from sigprop.probing.probe import Probe, attach
from sigprop.records import Records, concat, load
from sigprop.reporting import report
from sigprop.verification.verify import assert_preserved, verify

if TYPE_CHECKING:
    from sigprop import curvature, gradients, landscape, plots, scale_invariance
    from sigprop.verification.laws import Law
    from sigprop.verification.result import Result

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped by use, not by letter
    # attach a probe
    "attach",
    "Probe",
    # before training: what a probe will see
    "check",
    "Check",
    # a picture at initialization
    "measure",
    # networks side by side, during training
    "compare",
    "Plan",
    "Progress",
    "Data",
    # a function over a grid
    "sweep",
    "SweepResult",
    # do the laws hold
    "verify",
    "assert_preserved",
    "Law",
    "Result",
    # what was seen
    "Records",
    "load",
    "concat",
    # what is wrong, where, why, and what to do
    "diagnose",
    "Finding",
    "Findings",
    "assert_healthy",
    # how it is shown
    "report",
    "plots",
    # instruments on a model, a loss and a batch
    "curvature",
    "landscape",
    "gradients",
    "scale_invariance",
    # the networks to compare with
    "networks",
    # singular values of weights, convolutions, Jacobians, products, activations
    "spectra",
    # what goes wrong
    "SigpropError",
    "BadInput",
    "UnknownName",
    "RunError",
    "ProbeWarning",
]


_IMPORTED_LATER = ("curvature", "landscape", "gradients", "scale_invariance", "plots")


def __getattr__(name: str) -> object:
    """Return what needs pandas, SciPy or matplotlib, which are imported when it is first asked for.

    Raises:
        AttributeError: there is no such name.
    """
    if name in _IMPORTED_LATER:
        return import_module(f"sigprop.{name}")
    if name == "Result":
        from sigprop.verification.result import Result

        return Result
    if name == "Law":
        from sigprop.verification.laws import Law

        return Law
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
