"""A user's loss as a function of the parameters, and the step an optimizer would take on it."""

from sigprop.objectives.objective import Objective
from sigprop.objectives.updates import next_update

__all__ = ["Objective", "next_update"]
