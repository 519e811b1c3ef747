"""Weights, convolutions, Jacobians and activations: spectra against dense float64 matrices."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from messages import refusal
from torch import Tensor, nn

from sigprop import spectra
from sigprop.errors import BadInput, UnknownName
from sigprop.linear_operators import largest_singular_values
from sigprop.records import SCHEMA
from sigprop.spectra import of_weights
from sigprop.spectra.block_range import BlockRange


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def values(frame: pd.DataFrame) -> np.ndarray:
    assert list(frame.columns) == list(SCHEMA["spectra"])
    found = frame["singular_value"].to_numpy()
    assert (np.diff(found) <= 0).all()
    assert frame["index"].tolist() == list(range(len(found)))
    return found


# --- weights --------------------------------------------------------------------------------------


def test_weights_are_read_as_output_units_by_all_else() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(7, 4))
    found = spectra.weights(model)
    assert found["name"].unique().tolist() == ["0.weight", "2.weight"]
    for name in ("0.weight", "2.weight"):
        weight = model.get_parameter(name)
        exact = np.linalg.svd(weight.detach().double().flatten(1).numpy(), compute_uv=False)
        np.testing.assert_allclose(values(found[found["name"] == name]), exact, rtol=1e-9)


def test_the_largest_values_of_a_large_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_weights, "_LARGE", 300)  # decomposed whole in less time than iterated
    layer = nn.Linear(500, 400, bias=False, dtype=torch.float64)
    exact = np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False)
    found = spectra.weights(layer, k=3)
    np.testing.assert_allclose(values(found), exact[:3], rtol=1e-8)
    assert found["size"].unique().tolist() == [400]
    np.testing.assert_allclose(found["mass"], 1 / 400)


def test_weights_without_a_spectrum_are_refused() -> None:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight[0, 1] = torch.nan
    with refusal(
        BadInput,
        "weight of shape (2, 3) holds 1 non-finite values of 6, so it has no singular values",
    ):
        spectra.weights(layer)
    with refusal(
        BadInput,
        "this LayerNorm has no weight with two axes or more, so there is no matrix to decompose",
    ):
        spectra.weights(nn.LayerNorm(3))
    for k in (3, 0, True, 1.5):
        with refusal(
            BadInput,
            f"k is a whole number from 1 to 2, the most values of a weight here, not {k!r}",
        ):
            spectra.weights(nn.Linear(3, 2), k=k)  # type: ignore[arg-type]


# --- convolutions ---------------------------------------------------------------------------------

SIDE, CHANNELS = 6, 4


def written_out(layer: nn.Conv2d, padded: str) -> np.ndarray:
    """Return the convolution's matrix by its definition, one tap of the kernel at a time."""
    (sh, sw), (ph, pw), (dh, dw) = layer.stride, _pair(layer.padding), layer.dilation
    kernel = layer.weight.detach().numpy()
    out, into, kh, kw = kernel.shape
    high = (SIDE + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    wide = (SIDE + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    matrix = np.zeros((out, high, wide, CHANNELS, SIDE, SIDE))
    per_group = out // layer.groups
    for o, i, a, b, y, x in itertools.product(
        range(out), range(into), range(kh), range(kw), range(high), range(wide)
    ):
        row, column = y * sh + a * dh - ph, x * sw + b * dw - pw
        if padded == "circular":
            row, column = row % SIDE, column % SIDE
        elif not (0 <= row < SIDE and 0 <= column < SIDE):
            continue
        matrix[o, y, x, o // per_group * into + i, row, column] += kernel[o, i, a, b]
    return matrix.reshape(out * high * wide, -1)


def _pair(padding: Any) -> tuple[int, int]:
    return padding if isinstance(padding, tuple) else (0, 0)


MODES: tuple[Literal["zeros", "circular"], ...] = ("zeros", "circular")
CONVOLUTIONS = [
    case
    for case in itertools.product(MODES, [0, 1, 2], [1, 2, 3], [1, 2], [1, 2], [1, 3])
    if SIDE + 2 * case[1] - case[4] * (case[5] - 1) >= 1
]


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)])
def test_a_convolution_is_its_dense_matrix(stride: int, groups: int) -> None:
    cases = [case for case in CONVOLUTIONS if case[2:4] == (stride, groups)]
    assert len(cases) == 24
    for mode, padding, _, _, dilation, side in cases:
        layer = nn.Conv2d(
            CHANNELS, 6, side, stride, padding, dilation, groups, padding_mode=mode,
            dtype=torch.float64,
        )  # fmt: skip
        exact = np.linalg.svd(written_out(layer, mode), compute_uv=False)
        found = values(spectra.convolution(layer, (CHANNELS, SIDE, SIDE)))
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(3, 5, 3, padding=1, padding_mode="circular"), (3, 7)),
        (nn.Conv1d(2, 3, 5, padding="same", padding_mode="circular"), (2, 4)),
        (nn.Conv3d(2, 3, 3, padding=1, padding_mode="circular"), (2, 4, 3, 2)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 4)),
        (nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1), (3, 4, 4)),
        (nn.Conv2d(3, 2, 1, stride=2), (3, 4, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_other_convolutions_are_what_they_do_to_unit_images(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    layer = layer.double()
    units = torch.eye(int(np.prod(shape)), dtype=torch.float64).view(-1, *shape)
    images = layer(units) - layer(torch.zeros(1, *shape, dtype=torch.float64))
    exact = torch.linalg.svdvals(images.detach().flatten(1)).numpy()
    np.testing.assert_allclose(values(spectra.convolution(layer, shape)), exact, atol=1e-10)


def test_the_largest_values_of_a_large_convolution() -> None:
    layer = nn.Conv2d(6, 6, 3, padding=1, dtype=torch.float64)
    found = spectra.convolution(layer, (6, 14, 14), k=2)
    assert found["size"].unique().tolist() == [6 * 14 * 14]
    units = torch.eye(6 * 14 * 14, dtype=torch.float64).view(-1, 6, 14, 14)
    images = layer(units) - layer(units[:1] * 0)
    norm = torch.linalg.svdvals(images.detach().flatten(1))[:2]
    np.testing.assert_allclose(values(found), norm, rtol=1e-8)


def test_convolutions_that_cannot_be_decomposed_are_refused() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1)
    with refusal(
        BadInput, "Conv2d takes images of (3 channels, 2 axes), not of shape (1, 3, 32, 32)"
    ):
        spectra.convolution(layer, (1, 3, 32, 32))
    with refusal(
        BadInput,
        "Linear is no convolution with weights; pass a nn.Conv1d, Conv2d, Conv3d or a transposed "
        "one",
    ):
        spectra.convolution(nn.Linear(3, 3), (3, 4, 4))
    with refusal(
        BadInput,
        "Conv2d has 401408 x 150528 = 60,423,143,424 elements, more than the 16,777,216 that are "
        "written out; ask for its k largest values: k=10",
    ):
        spectra.convolution(layer, (3, 224, 224))
    circular = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
    with refusal(BadInput, "Conv2d has 48 values; k is a whole number from 1 to 48, not 49"):
        spectra.convolution(circular, (3, 4, 4), k=49)


# --- Jacobians ------------------------------------------------------------------------------------


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, stride=2),
        nn.GELU(), nn.Flatten(), nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 10),
    )  # fmt: skip
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize(
    ("start", "stop"), [(None, None), ("1", "3"), ("2", None), ("5", "7"), (None, "0"), ("6", "6")]
)
def test_a_range_of_blocks_has_the_jacobian_of_torch_func(
    start: str | None, stop: str | None
) -> None:
    model, x = net(), gaussian(2, 2, 8, 8)
    first, last = int(start or 0), int(stop or 7)
    with torch.no_grad():
        h = model[:first](x.clone())
    matrix = torch.func.jacrev(lambda h: model[first : last + 1](h.clone()))(h)
    exact = torch.linalg.svdvals(matrix.detach().reshape(-1, h.numel())).numpy()
    found = spectra.jacobian(model, x, start, stop)
    np.testing.assert_allclose(values(found), exact, rtol=1e-10, atol=1e-12)
    operator = BlockRange(model, x, start, stop).derivative(batch_statistics=False)
    matrix_free = largest_singular_values(operator, 3).values
    np.testing.assert_allclose(matrix_free, exact[:3], rtol=1e-8)


def test_a_density_adds_up_to_the_spectrum() -> None:
    model, x = net(), gaussian(16, 2, 8, 8)
    exact = values(spectra.jacobian(model, x, "2", "3"))  # 576 values
    found = spectra.jacobian(model, x, "2", "3", density=True)
    assert found["operator"].unique().tolist() == ["jacobian:density"]
    assert found["mass"].sum() == pytest.approx(1)
    for border in (0.2, 0.5, 0.8):
        share = found["mass"][found["singular_value"] > border].sum()
        assert share == pytest.approx((exact > border).mean(), abs=0.02)


class Attention(nn.Module):
    """What calls scaled_dot_product_attention, whose fast forms have no second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (Attention(), gaussian(1, 2, 5, 4)),
        (nn.LSTM(4, 6, batch_first=True).double(), gaussian(2, 5, 4)),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout()).double().eval(), gaussian(2, 3)),
        (nn.BatchNorm1d(3).double().eval(), gaussian(5, 3)),
    ],
    ids=["attention", "lstm", "dropout off", "batch norm off"],
)
def test_jacobians_of_other_models(model: nn.Module, x: Tensor) -> None:
    def first(x: Tensor) -> Tensor:
        out = model(x)
        return out[0] if isinstance(out, tuple) else out

    matrix = torch.autograd.functional.jacobian(first, x)
    exact = torch.linalg.svdvals(matrix.reshape(-1, x.numel())).numpy()
    np.testing.assert_allclose(values(spectra.jacobian(model, x)), exact, atol=1e-12)
    operator = BlockRange(model, x, None, None).derivative(batch_statistics=False)
    np.testing.assert_allclose(operator.product(torch.ones(x.numel()).double()),
                               matrix.reshape(-1, x.numel()).sum(1), atol=1e-12)  # fmt: skip


def test_batch_norm_in_training_couples_the_samples() -> None:
    model, x = nn.BatchNorm1d(3).double(), gaussian(5, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = values(spectra.jacobian(model, x, batch_statistics=True))
    matrix = torch.func.jacrev(lambda x: nn.functional.batch_norm(x, None, None, training=True))(x)
    exact = torch.linalg.svdvals(matrix.reshape(15, 15)).numpy()
    np.testing.assert_allclose(found, exact, atol=1e-12)
    assert (found < 1e-4).sum() == 6  # of each channel: the mean, and what the variance takes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x).detach()


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * g


class Once(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = OnceOnly.apply(x)
        return out


@pytest.mark.parametrize(
    ("model", "x", "options", "message"),
    [
        (
            nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)),
            torch.ones(1, 3),
            {"start": "1", "stop": "0"},
            "the range from 1 to 0 is empty: 0 is called before 1; exchange start and stop",
        ),
        (
            nn.Sequential(nn.Linear(3, 3), Rounded()),
            torch.ones(1, 3),
            {},
            "the Jacobian of Sequential from input to output does not exist: no gradient leads "
            "from its output back to its input; is it detached, rounded or computed outside of "
            "torch?",
        ),
        (
            nn.Embedding(5, 3),
            torch.tensor([1, 2]),
            {},
            "the Jacobian of Embedding from input to output needs a floating-point tensor at its "
            "input; there is none",
        ),
        (
            nn.Linear(3, 2),
            torch.ones(1, 3),
            {"k": 3},
            "the Jacobian of Linear from input to output has 2 values; k is a whole number from 1 "
            "to 2, not 3",
        ),
        (
            nn.Linear(3000, 3000),
            torch.ones(2, 3000),
            {},
            "the Jacobian of Linear from input to output has 6000 x 6000 elements, more than the "
            "16,777,216 that are written out; ask for its k largest values with k=10, or for its "
            "spectral density with density=True",
        ),
        (
            nn.Sequential(nn.Linear(3, 3), nn.Dropout()),
            torch.ones(2, 3),
            {},
            "the Jacobian of Sequential from input to output differs from one evaluation to the "
            "next: 1 (Dropout) draws random numbers in training mode; call model.eval() first",
        ),
    ],
    ids=["empty", "detached", "no float", "k", "large", "dropout"],
)
def test_jacobians_that_cannot_be_had_are_refused(
    model: nn.Module, x: Tensor, options: dict[str, Any], message: str
) -> None:
    with refusal(BadInput, message):
        spectra.jacobian(model, x, **options)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_function_without_a_second_derivative_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 2), Once())
    with refusal(
        BadInput,
        "the Jacobian of Sequential from input to output cannot be had by its products: OnceOnly "
        "has no derivative of its backward; write that in differentiable torch operations, or "
        "choose a range that leaves it out",
    ):
        spectra.jacobian(model, torch.ones(4, 3), density=True)
    with refusal(UnknownName, "the model has no module '2'; known: (model), 0, 1"):
        spectra.jacobian(model, torch.ones(4, 3), start="2")


# --- activations ----------------------------------------------------------------------------------


def test_the_covariance_of_activations() -> None:
    x = gaussian(50, 4, 3)
    samples = x.movedim(1, -1).reshape(-1, 4).numpy()
    exact = np.linalg.eigvalsh(np.cov(samples.T, bias=True))[::-1]
    np.testing.assert_allclose(values(spectra.covariance(x)), exact, rtol=1e-10)
    second = np.linalg.eigvalsh(samples.T @ samples / len(samples))[::-1]
    np.testing.assert_allclose(values(spectra.covariance(x, centered=False)), second, rtol=1e-10)
    few = spectra.covariance({"h1": gaussian(3, 8), "h2": gaussian(3, 8)})
    assert few.groupby("name").size().tolist() == [8, 8]
    assert (few["singular_value"] > 1e-12).sum() == 2 * 2  # one of three directions is the mean


def test_activations_without_a_covariance_are_refused() -> None:
    with refusal(
        BadInput,
        "activations of shape (3, 2) hold 3 samples and 6 non-finite values; a covariance needs "
        "samples that are finite",
    ):
        spectra.covariance(torch.full((3, 2), torch.inf))
    with refusal(
        BadInput,
        "activations of shape (3,) are not samples by channels with the channels on axis 1",
    ):
        spectra.covariance(torch.ones(3))


# --- summaries ------------------------------------------------------------------------------------


def test_a_summary_of_known_values() -> None:
    layer = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([4.0, 2.0, 2.0])))
    row = spectra.summary(spectra.weights(layer)).iloc[0]
    assert row["spectral_norm"] == 4
    assert row["smallest"] == 2
    assert row["condition_number"] == 2
    assert row["stable_rank"] == 1.5
    p = np.array([0.5, 0.25, 0.25])
    assert row["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    some = spectra.summary(spectra.weights(layer, k=1)).iloc[0]
    assert some["spectral_norm"] == 4
    assert some[["smallest", "condition_number", "stable_rank", "effective_rank"]].isna().all()
    with torch.no_grad():
        layer.weight[0] = 0
    row = spectra.summary(spectra.weights(layer)).iloc[0]
    assert row["condition_number"] == np.inf
    assert row["effective_rank"] == pytest.approx(2)
    with torch.no_grad():
        layer.weight.zero_()
    row = spectra.summary(spectra.weights(layer)).iloc[0]
    assert row["spectral_norm"] == 0
    assert row[["condition_number", "stable_rank", "effective_rank"]].isna().all()
