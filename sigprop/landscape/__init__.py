"""The loss around a training step, as Santurkar et al. 2018 look at it."""

from sigprop.landscape.covariate_shift import covariate_shift
from sigprop.landscape.line import scan, summary

__all__ = ["covariate_shift", "scan", "summary"]
