"""What is recorded: taps, accumulated statistics, the state of a forward pass, rows, coverage."""
