"""The model and the data that come in: factories, calling conventions, data sets, batching."""
