"""The columns of `spectra`: the singular values of linear maps, and which map each is of."""

from __future__ import annotations

from sigprop.records.schema.column import WHERE, Column, table

#: Code of `operator` -> the linear map, and how its values were found where there are several ways.
OPERATORS = {
    "matrix": "a weight as the matrix of its output units by all else, a kernel flattened",
    "update": "the change of such a matrix by one optimizer step",
    "conv": "a convolution as the map of whole images that it is",
    "jacobian": "the derivative of a range of blocks with respect to its input",
    "jacobian:density": "the same, its spectral density as Lanczos' recursion samples it",
    "product:svd": "a product of matrices, multiplied out in float64 and decomposed",
    "product:finite": "a product of matrices, accumulated in log space factor by factor",
    "product:lyapunov": "one factor of a long product of matrices: the rates at which it stretches",
    "covariance": "the covariance of activations, whose singular values are variances",
    "hessian": "the second derivative of a loss; singular_value is the eigenvalue, with its sign",
}

SPECTRA = table(
    WHERE,
    Column("name", "str", "The parameter's name, or what else the operator is made of."),
    Column(
        "operator",
        "str",
        "The linear map that the singular values are of: "
        + "; ".join(f"{code}: {said}" for code, said in OPERATORS.items())
        + ".",
        codes=tuple(OPERATORS),
    ),
    Column("index", "int64", "Position of the singular value, from 0, the largest first."),
    Column(
        "singular_value",
        "float64",
        "A singular value of the operator.",
        "σ_i",
        "that of the operator's output over its input",
    ),
    Column(
        "log_singular_value",
        "float64",
        "Its natural logarithm; -inf for 0.",
        "ln σ_i",
        "nats",
    ),
    Column(
        "size",
        "int64",
        "Number of singular values that the operator has; the table may hold only the largest.",
        "min(m, n)",
        "values",
        "0 in runs recorded before the column was there, where every value has a row",
    ),
    Column(
        "mass",
        "float64",
        "Share of the operator's values that the row stands for: one of them, or the weight of a "
        "point at which a density was sampled.",
        "1 / min(m, n)",
        "share of values",
        "NaN in runs recorded before the column was there",
    ),
    Column(
        "beyond_float64",
        "bool",
        "Whether float64 ends before this value: rounding of larger ones hides it, or it is too "
        "large or too small to be written without its logarithm.",
    ),
)
