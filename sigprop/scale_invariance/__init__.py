"""Weights whose length does not matter: which they are, and how training moves them."""

from sigprop.scale_invariance.detection import find
from sigprop.scale_invariance.equilibrium import Equilibrium, equilibrium
from sigprop.scale_invariance.motion import LAWS, MotionResult, verify_motion

__all__ = ["LAWS", "Equilibrium", "MotionResult", "equilibrium", "find", "verify_motion"]
