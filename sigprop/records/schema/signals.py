"""The columns of `signals`: where a tensor was read, and what its elements come to."""

from __future__ import annotations

from sigprop.records.schema.column import MODE, WHERE, Column, table

_LOCATION = (
    Column(
        "block",
        "int64",
        "Depth: the position of the block in the order of first calls, from 0; what lies inside a "
        "block has the block's, what lies outside of every block has a position of its own.",
    ),
    Column(
        "kind",
        "str",
        "What the tensor belongs to: a chosen block (its input, its output, and the operands of "
        "its residual addition), a module chosen with blocks='leaves', or a rectifier, a fused "
        "attention or a residual addition that was found inside or outside of one.",
        codes=("block", "rectifier", "attention", "addition", "leaf"),
    ),
    Column(
        "module",
        "str",
        "The module's own name; of a function, that of the module it runs in.",
    ),
    Column(
        "name",
        "str",
        "The module's name, with ':relu' for a function in it, '#1' for its second call in one "
        "forward pass, and '[1][0]' for a tensor of a nested output.",
    ),
    Column("call", "int64", "Which call of the module in one forward pass, from 0."),
    Column(
        "port",
        "str",
        "Which tensor of the module: its input, its output, or one of the two operands of its "
        "residual addition.",
        codes=("in", "skip", "branch", "out"),
    ),
    Column(
        "direction",
        "str",
        "Forward: the activation. Backward: the gradient of the loss with respect to it.",
        codes=("forward", "backward"),
    ),
    Column(
        "channel_dim",
        "int64",
        "The axis of the channels: 1 after convolutions and batch norms, -1 after linear layers, "
        "layer norms and attention.",
    ),
    Column("count", "int64", "Number of elements, finite or not.", "N", "elements"),
    Column("channels", "int64", "Number of channels.", "C", "channels"),
)

_NO_FINITE = "NaN where no element is finite"
_SQUARES = f"{_NO_FINITE}, and where all are below 1e-145, whose squares float64 cannot hold"

_NUMBERS = (
    Column("mean", "float64", "Mean over everything.", "E[x]", "that of x", _NO_FINITE),
    Column(
        "second_moment",
        "float64",
        "Mean of x² over everything. In every row it is channel_variance + mean_shift.",
        "E[x²]",
        "that of x²",
        _SQUARES,
    ),
    Column(
        "channel_variance",
        "float64",
        "Mean over the channels of the biased variance over all other axes: the 'average channel "
        "variance' of signal propagation plots (Brock et al. 2021).",
        "mean_c Var(x_c)",
        "that of x²",
        _SQUARES,
    ),
    Column(
        "mean_shift",
        "float64",
        "Mean over the channels of the squared channel mean: the 'average squared channel mean' of "
        "signal propagation plots (Brock et al. 2021).",
        "mean_c (E[x_c])²",
        "that of x²",
        _SQUARES,
    ),
    Column(
        "kurtosis",
        "float64",
        "Fourth central moment over the squared variance, over everything; 3 for a Gaussian.",
        "E[(x - μ)⁴] / σ⁴",
        "1",
        "NaN where all finite elements are equal, and where they spread by less than 1e-72 or more "
        "than 1e72, whose fourth powers float64 cannot hold",
    ),
    Column(
        "zero_fraction",
        "float64",
        "Share of the elements that are exactly 0.",
        "#{x = 0} / N",
        "share of elements",
    ),
    Column(
        "dead_fraction",
        "float64",
        "Share of the channels that were never above 0 in the window of recorded steps; a channel "
        "that held a NaN is not dead.",
        "#{c: max x_c ≤ 0} / C",
        "share of channels",
        "NaN where no rectifier made the tensor",
    ),
    Column("nonfinite", "int64", "Number of elements that are NaN or infinite.", "", "elements"),
    Column(
        "max_abs",
        "float64",
        "Largest magnitude of a finite element.",
        "max |x|",
        "that of x",
        _NO_FINITE,
    ),
    Column(
        "skip_branch_correlation",
        "float64",
        "Correlation, without centering, of the two operands of a residual addition; 0 is what "
        "laws that add second moments assume.",
        "E[s·b] / √(E[s²] E[b²])",
        "1",
        "NaN where the port is not 'branch', or an operand is 0 everywhere",
    ),
)

SIGNALS = table(WHERE, MODE, _LOCATION, _NUMBERS)
