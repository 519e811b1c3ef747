"""Signal-propagation diagnostics for PyTorch."""
