"""Where numbers are read: block selection, hooks, and the recorder that they share."""

from sigprop.capture.hooks.call_tree import trace_calls
from sigprop.capture.hooks.install import Installation
from sigprop.capture.hooks.scope import Scope
from sigprop.capture.model.blocks import Blocks, choose, select
from sigprop.capture.model.channels import ChannelDim
from sigprop.capture.parameters.statistics import ParameterStatistics
from sigprop.capture.recording.own_metrics import Metric
from sigprop.capture.recording.recorder import Recorder
from sigprop.capture.recording.rows import RowBuilder

__all__ = [
    "Blocks",
    "ChannelDim",
    "Installation",
    "Metric",
    "ParameterStatistics",
    "Recorder",
    "RowBuilder",
    "Scope",
    "choose",
    "select",
    "trace_calls",
]
