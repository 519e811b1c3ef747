"""Where numbers are read: block selection, hooks, and the recorder that fetches them."""

from sigprop.capture.hooks.forwards import Forwards, Scope
from sigprop.capture.hooks.install import Hooks, install
from sigprop.capture.model.blocks import Blocks, select
from sigprop.capture.model.channels import ChannelDim
from sigprop.capture.parameters.statistics import ParameterStatistics
from sigprop.capture.recording.recorder import Metric, Recorder

__all__ = [
    "Blocks",
    "ChannelDim",
    "Forwards",
    "Hooks",
    "Metric",
    "ParameterStatistics",
    "Recorder",
    "Scope",
    "install",
    "select",
]
