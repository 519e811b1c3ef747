"""Weights, gradients and updates around the step of an optimizer."""
