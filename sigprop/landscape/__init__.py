"""The loss around a training step, as Santurkar et al. 2018 look at it."""

from sigprop.landscape.covariate_shift import covariate_shift
from sigprop.landscape.line import COLUMNS, scan, summary

__all__ = ["COLUMNS", "covariate_shift", "scan", "summary"]
