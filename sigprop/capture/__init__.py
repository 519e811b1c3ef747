"""Where numbers are read: block selection, hooks, and the recorder that fetches them."""

from sigprop.capture.hooks.install import ForwardContext, Hooks, Scope, install
from sigprop.capture.model.blocks import Blocks, select
from sigprop.capture.model.channels import ChannelDim
from sigprop.capture.parameters.statistics import ParameterStatistics
from sigprop.capture.recording.recorder import Metric, Recorder

__all__ = [
    "Blocks",
    "ChannelDim",
    "ForwardContext",
    "Hooks",
    "Metric",
    "ParameterStatistics",
    "Recorder",
    "Scope",
    "install",
    "select",
]
