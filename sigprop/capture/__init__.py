"""Where numbers are read: block selection, hooks, and the recorder that fetches them."""

from sigprop.capture.blocks import Blocks, select
from sigprop.capture.channels import ChannelDim
from sigprop.capture.install import Hooks, Scope, Session, install
from sigprop.capture.parameters import ParameterReadings
from sigprop.capture.recorder import Metric, Recorder

__all__ = [
    "Blocks",
    "ChannelDim",
    "Hooks",
    "Metric",
    "ParameterReadings",
    "Recorder",
    "Scope",
    "Session",
    "install",
    "select",
]
