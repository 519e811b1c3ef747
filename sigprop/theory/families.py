"""One recursion per family of networks, by name: ``predict("rescale", depth=50)``.

Each describes its blocks and leaves the arithmetic to ``residual.recursion``. ``start`` is the
kernel of x_0, the stem's output (second moment 1, uncorrelated samples, infinite batch by default).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sigprop.registry import Registry
from sigprop.theory.activations import Activation
from sigprop.theory.arguments import number, one_of, whole
from sigprop.theory.branch import Branch, gain_squared, weight_branch
from sigprop.theory.kernel import Kernel
from sigprop.theory.residual import Block, Prediction, coefficients, recursion

FAMILIES: Registry[Callable[..., Prediction]] = Registry("family")

_INITS: dict[str, tuple[str, str]] = {
    "he": ("none", "he"),
    "centered_he": ("batch", "he"),
    "centered_preserving": ("batch", "preserving"),
}


def predict(family: str, depth: int | Sequence[int], **options: Any) -> Prediction:
    """Return the prediction of the family called ``family`` at ``depth`` blocks.

    Args:
        family: a name of ``FAMILIES``.
        depth: L; of ``"nf"`` also the blocks of each stage.
        options: what the family's function takes.

    Raises:
        UnknownName: no family has that name.
        BadInput: a bad option.

    Example:
        >>> round(float(predict("rescale", 20, layers=1).channel_variance[-1]), 5)
        0.81377
    """
    return FAMILIES[family](depth, **options)


@FAMILIES.register("plain")
def plain(
    depth: int,
    *,
    layers: int = 2,
    activation: str | Activation = "relu",
    gain: str | float = "he",
    centering: str = "none",
    first: str = "act",
    start: Kernel | None = None,
) -> Prediction:
    """Return x + F(x): the second moment doubles per block (He et al. 2016 without BN).

    Args:
        depth: L.
        layers: weight layers of a branch.
        activation: of the branch.
        gain: ``"he"``, ``"preserving"``, ``"one"`` or a number.
        centering: ``"none"``, ``"batch"`` or ``"weights"``, see ``weight_branch``.
        first: ``"act"`` or ``"weight"``.
        start: the kernel of x_0.

    Raises:
        UnknownName: an unknown word.
        BadInput: a negative depth, fewer than one layer, a gain of 0 or less.

    Example:
        >>> float(plain(20).second_moment[-1]) == 2**20
        True
    """
    branch = weight_branch(layers, activation, gain=gain, centering=centering, first=first)
    return recursion([Block(branch)] * whole("depth", depth), start)


@FAMILIES.register("rescale")
def rescale(
    depth: int,
    *,
    c: float | None = None,
    init: str = "he",
    layers: int = 2,
    activation: str | Activation = "relu",
    first: str = "act",
    start: Kernel | None = None,
) -> Prediction:
    """Return alpha_k x + beta_k F(x) (RescaleNet, Shao et al. 2020, section 3).

    The second moment is 1 with ``he`` (uncentered); the channel variance is not, since c_k =
    alpha_k^2 c + beta_k^2 kappa(c). With ``centered_preserving``, gain^2 = 1/Var f, both are 1.
    With ``centered_he`` a branch has (1-1/pi)^m of its input's.

    Args:
        depth: L.
        c: the paper's constant; L when left out.
        init: ``"he"``, ``"centered_he"`` (bias before the matmul) or ``"centered_preserving"``.
        layers: weight layers of a branch.
        activation: of the branch; ``"identity"`` for linear branches.
        first: ``"act"`` or ``"weight"``.
        start: the kernel of x_0; ``Kernel(samples=N).centered()`` for a centered stem and batch N.

    Raises:
        UnknownName: an unknown word.
        BadInput: a depth below 1, c of 0 or less, fewer than one layer.

    Example:
        >>> made = rescale(20, init="centered_he")
        >>> round(float(made.second_moment[-1]), 6), float(made.mean_shift[-1])
        (0.692166, 0.0)
    """
    centering, gain = _INITS[one_of("initialization", init, _INITS)]
    branch = weight_branch(layers, activation, gain=gain, centering=centering, first=first)
    made = coefficients(depth, c)
    pairs = zip(made.alpha.tolist(), made.beta.tolist(), strict=True)
    return recursion([Block(branch, alpha, beta) for alpha, beta in pairs], start)


def fixup_scale(depth: int, layers: int) -> float:
    """Return L^(-1/(2m-2)): what Fixup multiplies every branch layer but the last by.

    Zhang, Dauphin & Ma 2019, section 3.2; 1 for m = 1, which leaves no other layer.

    Args:
        depth: L, the number of branches.
        layers: m, weight layers of a branch.

    Raises:
        BadInput: a depth or a number of layers below 1.

    Example:
        >>> fixup_scale(16, 2), fixup_scale(16, 3)
        (0.25, 0.5)
    """
    whole("depth", depth, 1)
    return 1.0 if whole("layers", layers, 1) == 1 else float(depth) ** (-1 / (2 * layers - 2))


@FAMILIES.register("fixup")
def fixup(
    depth: int,
    *,
    layers: int = 2,
    activation: str | Activation = "relu",
    start: Kernel | None = None,
) -> Prediction:
    """Return x + F(x) with F's last weights at 0: forward and backward the identity at the start.

    Args:
        depth: L.
        layers: weight layers of a branch.
        activation: of the branch.
        start: the kernel of x_0.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative depth, fewer than one layer.

    Example:
        >>> made = fixup(8)
        >>> float(made.second_moment[-1]), float(made.branch_second_moment[-1])
        (1.0, 0.0)
    """
    scale = fixup_scale(max(whole("depth", depth), 1), layers)
    ops = (*("act", "weight") * (layers - 1), "act", "zero")
    branch = Branch(ops, activation, gain_squared(activation) * scale * scale)
    return recursion([Block(branch)] * depth, start)


@FAMILIES.register("skipinit")
def skipinit(
    depth: int,
    *,
    gain: float = 0.0,
    layers: int = 2,
    activation: str | Activation = "relu",
    start: Kernel | None = None,
) -> Prediction:
    """Return x + a F(x), a learned: q_L = (1 + a^2)^L (De & Smith 2020, section 4).

    Args:
        depth: L.
        gain: a at the start; 0, or at most 1/sqrt(L).
        layers: weight layers of a branch.
        activation: of the branch.
        start: the kernel of x_0.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative depth, fewer than one layer.

    Example:
        >>> round(float(skipinit(10, gain=10**-0.5).second_moment[-1]), 6)  # (1 + 1/L)^L
        2.593742
    """
    branch = weight_branch(layers, activation)
    return recursion([Block(branch, 1.0, gain)] * whole("depth", depth), start)


@FAMILIES.register("rezero")
def rezero(depth: int, *, gain: float = 0.0, **options: Any) -> Prediction:
    """Return x + a F(x) with a = 0: SkipInit's law under ReZero's name (Bachlechner et al. 2021).

    Args:
        depth: L.
        gain: a at the start.
        options: as for ``skipinit``.

    Raises:
        BadInput: a negative depth.

    Example:
        >>> float(rezero(32).gradient_second_moment[0])
        1.0
    """
    return skipinit(depth, gain=gain, **options)


@FAMILIES.register("unit_scaled")
def unit_scaled(
    depth: int,
    *,
    residual_mult: float = 1.0,
    attn_ratio: float = 1.0,
    layers: int = 2,
    activation: str | Activation = "relu",
    start: Kernel | None = None,
) -> Prediction:
    """Return (x + t_k F(x))/sqrt(1 + t_k^2) with u-muP's t_k (Blake et al. 2024, appendix G).

    t_k^2 = a_k^2/(L/2 + a_1^2 + ... + a_{k-1}^2), where odd k (attention) have a^2 = 2 r^2 p^2 /
    (1 + p^2) and even ones 2 r^2/(1 + p^2). At r = p = 1 it is RescaleNet with c = L/2.

    Args:
        depth: L.
        residual_mult: r, of all branches against the input.
        attn_ratio: p, of attention against feed-forward branches.
        layers: weight layers of a branch.
        activation: of the branch; weights have He's gain.
        start: the kernel of x_0.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative depth, fewer than one layer, an option that is not finite.

    Example:
        >>> made, same = unit_scaled(8), rescale(8, c=4)
        >>> bool(abs(made.correlation - same.correlation).max() < 1e-12)
        True
    """
    branch = weight_branch(layers, activation)
    made = unit_scaled_shares(whole("depth", depth), residual_mult, attn_ratio)
    return recursion([Block(branch, (1 - share) ** 0.5, share**0.5) for share in made], start)


def unit_scaled_shares(
    depth: int, residual_mult: float = 1.0, attn_ratio: float = 1.0
) -> list[float]:
    """Return t_k^2/(1 + t_k^2), k = 1..L: each branch's share of its block in u-muP.

    Args:
        depth: L.
        residual_mult: r, of all branches against the input.
        attn_ratio: p, of attention against feed-forward branches.

    Raises:
        BadInput: an option that is not finite.

    Example:
        >>> [round(1 / share, 9) for share in unit_scaled_shares(4)]
        [3.0, 4.0, 5.0, 6.0]
    """
    r, p = number("residual_mult", residual_mult), number("attn_ratio", attn_ratio)
    found, seen = [], depth / 2
    for k in range(depth):
        square = 2 * r * r / (1 + p * p) * (1 if k % 2 else p * p)
        found.append(square / (seen + square))
        seen += square
    return found


@FAMILIES.register("weightnorm")
def weightnorm(
    depth: int,
    *,
    power: float = 0.5,
    layers: int = 2,
    activation: str | Activation = "relu",
    start: Kernel | None = None,
) -> Prediction:
    """Return x + B^(-power) F(x) with scaled weight norm (Arpit, Campos & Bengio 2019).

    Squared norms grow as (1 + B^(-2 power))^B: towards e for 1/sqrt(B) (their code), towards 1 for
    1/B (their text), 2^B without a factor; the gradient's do the same.

    Args:
        depth: B, the number of blocks.
        power: 1/2, 1 or 0.
        layers: weight layers of a branch.
        activation: of the branch; weights have g^2 = gain fan_in/fan_out, which is He's gain.
        start: the kernel of x_0.

    Raises:
        UnknownName: no such activation.
        BadInput: a negative depth, fewer than one layer.

    Example:
        >>> [round(float(weightnorm(10, power=p).second_moment[-1]), 3) for p in (1, 0.5, 0)]
        [1.105, 2.594, 1024.0]
    """
    branch = weight_branch(layers, activation)
    scale = max(whole("depth", depth), 1) ** -number("power", power)
    return recursion([Block(branch, 1.0, scale)] * depth, start)


@FAMILIES.register("mlp")
def mlp(
    depth: int,
    *,
    activation: str | Activation = "relu",
    gain: str | float = "he",
    centering: str = "none",
    norm: str = "none",
    start: Kernel | None = None,
) -> Prediction:
    """Return the pre-activations of a net without skips: h_k = W f(h_{k-1}), h_0 the first.

    The mean-shift share at the l-th pre-activation (block l - 1) is c + (1-c)/N with c the
    correlation after l - 1 maps; the second moment stays 1 with He's gain.

    Args:
        depth: layers after the first.
        activation: between them.
        gain: ``"he"``, ``"preserving"``, ``"one"`` or a number.
        centering: ``"none"``, ``"batch"`` or ``"weights"``.
        norm: ``"none"``, or ``"batchnorm"`` / ``"layernorm"`` before each activation.
        start: the kernel of the first pre-activation.

    Raises:
        UnknownName: an unknown word.
        BadInput: a negative depth, a gain of 0 or less.

    Example:
        >>> mlp(3).correlation.round(6).tolist()
        [0.0, 0.31831, 0.493731, 0.604826]
    """
    one_of("norm", norm, ("none", "batchnorm", "layernorm"))
    made = weight_branch(1, activation, gain=gain, centering=centering)
    ops = made.ops if norm == "none" else (norm, *made.ops)
    branch = Branch(ops, activation, made.gain_squared)
    return recursion([Block(branch, 0.0)] * whole("depth", depth), start)
