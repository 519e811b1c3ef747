"""Experiments: a picture at initialization, networks trained side by side."""
