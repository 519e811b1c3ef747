"""The tensors of a model: which modules are blocks, their names, channel axes, nested values."""
