"""Law and records make a verdict: does the variance propagate as an architecture claims?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from sigprop.capture import Blocks, ChannelDim
from sigprop.capture.model.blocks import is_automatic
from sigprop.errors import BadInput
from sigprop.inputs.devices import Device
from sigprop.inputs.factories import Factory, design
from sigprop.records import Records

#: How many initializations, or which; ``"auto"`` draws more of them until a law is decided.
Seeds = int | Sequence[int] | Literal["auto"]

if TYPE_CHECKING:  # pandas, scipy and the theory are loaded by the first verdict, not with sigprop
    import pandas as pd

    from sigprop.theory import Prediction
    from sigprop.verification.draws import Draws
    from sigprop.verification.laws import Law
    from sigprop.verification.result import Result


def verify(
    model: nn.Module | Factory | str,
    inputs: object,
    law: str | Law | Callable[[int], float] = "preserved",
    seeds: Seeds = "auto",
    tolerance: float = 0.05,
    *,
    level: float = 0.95,
    blocks: Blocks = "auto",
    channel_dim: ChannelDim = None,
    options: Mapping[str, object] | None = None,
    device: Device = "auto",
) -> Result:
    """Test a law of signal propagation over freshly initialized weights, block by block.

    Per block, and over each stage as a whole, the mean ratio of the quantity after and before is
    given a confidence interval. The law holds where the interval lies inside the tolerance, is
    violated where it lies outside, and is undecided where it crosses an edge.

    With ``seeds="auto"`` the law is judged after 8 seeds, and after 16, 32, 64, 128 and 256 for as
    long as it is undecided and that many can be expected to decide it. The intervals of all blocks
    and stages at all these looks hold together at ``level`` (see `sigprop.verification.looks`).

    A block that changes width or resolution opens a new stage; the law is not stated across it.
    One that is called several times in a forward pass is judged in each call that all draws make.

    A block that makes the quantity exactly zero or not finite, that cuts the gradient, or that is
    not called, in any draw, breaks the law: `Result.cause` names it, its share of seeds and how.

    Args:
        model: a callable that builds the network anew, ``"module:factory"``, or a name of the zoo.
            A plain model is taken as it is: intervals are then about this one draw of weights,
            over batches of the inputs.
        inputs: a tensor, tuple or dict, the same for every seed; or a DataLoader, a batch a seed.
        law: ``"preserved"``, ``"preserved:channel_variance"``, ``"gradient-preserved"``,
            ``"doubling"``, ``"equal-shares"``, ``"equal-parameter-gradients"``, ``"predicted"``
            (networks of the zoo: second moment, channel variance, mean shift and gradient
            together), or a callable ``block -> ratio``.
        seeds: ``"auto"``; or how many initializations (0, 1, ...), or which. A plain model is
            judged once: by default over as many batches as there are, at most 16.
        tolerance: relative deviation that still counts as holding.
        level: confidence of all intervals together.
        blocks: what a block is, as in `attach`.
        channel_dim: the channel axis, as in `attach`.
        options: of a network of the zoo (depth, width, ...).
        device: where to compute, as in `measure`.

    Returns:
        The verdict and its evidence.

    Raises:
        UnknownName: no law, network or block has that name.
        BadInput: fewer than two seeds, too few batches for a plain model, a factory that repeats
            its weights, inputs that do not fit, blocks that are never called, or a law of a
            quantity or port that does not exist, or that theory does not have.

    Example:
        >>> options = {"depth": 4, "width": 128, "inputs": 64}
        >>> import torch
        >>> x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        >>> verify("plain", x, seeds=4, options=options).verdict
        'violated'
    """
    from sigprop.verification.draws import Draws, pairs
    from sigprop.verification.joint import joint_causes, joint_evidence, renumbered
    from sigprop.verification.judgment import judgment, worth_more
    from sigprop.verification.laws import law_of
    from sigprop.verification.looks import LOOKS
    from sigprop.verification.result import Result

    chosen = law_of(law)
    which = _which(seeds)
    _check(which, tolerance, level)
    if chosen.needs_prediction:
        _check_predicted(model, options)
    one_model = isinstance(model, nn.Module)
    unit = "batches" if one_model else "seeds"
    how = {"blocks": blocks, "channel_dim": channel_dim, "options": options, "device": device}
    how["cotangent"] = chosen.cotangent
    given = pairs(inputs, which, one_model)
    draws = Draws(model, given, chosen.follows_gradient, how)
    automatic = is_automatic(blocks)
    looks = LOOKS if which is None and not one_model else (len(given),)
    for count in looks:
        records = draws.up_to(count)
        prediction = _prediction(model, records, options) if chosen.needs_prediction else None
        judged = _judged(records, automatic)
        found, targets = joint_evidence(judged, chosen, prediction, draws.entered)
        table = judgment(found, targets, tolerance, level, chosen.quantity, unit, len(looks))
        if not worth_more(table, looks[-1] - count):
            break
    table = joint_causes(
        table, found, chosen, lambda: _without_zeros(draws, chosen, looks[0], automatic)
    )
    table = renumbered(table, found, chosen)
    return Result(chosen, table, records, tolerance, level, count, one_model)


def _judged(records: Records, automatic: bool) -> Records:
    """Return the records that a law is judged by: of layers side by side, units of them."""
    from sigprop.verification.units import layers_as_units

    return layers_as_units(records) if automatic else records


def _without_zeros(draws: Draws, law: Law, count: int, automatic: bool) -> pd.DataFrame | None:
    """Return the evidence of the first draws with circular padding, where zeros pad them."""
    from sigprop.verification.evidence import evidence

    circular = draws.with_circular_padding()
    if circular is None:
        return None
    return evidence(_judged(circular.up_to(count), automatic), law, circular.entered)


def assert_preserved(
    model: nn.Module | Factory | str,
    inputs: object,
    tolerance: float = 0.05,
    *,
    law: str | Law | Callable[[int], float] = "preserved",
    seeds: Seeds = "auto",
    **options: Any,
) -> None:
    """Assert that a law holds, for a test suite; the options are those of `verify`.

    Args:
        model: as in `verify`.
        inputs: as in `verify`.
        tolerance: relative deviation that still counts as holding.
        law: as in `verify`.
        seeds: as in `verify`.
        **options: the other arguments of `verify`.

    Raises:
        AssertionError: the law is violated or undecided. The message is a small table around the
            first block that breaks it, with the likely cause, or says how many more seeds decide.

    Example:
        >>> options = {"depth": 4, "width": 256, "inputs": 64}
        >>> import torch
        >>> x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        >>> assert_preserved("rescale", x, options=options)
    """
    __tracebackhide__ = True
    result = verify(model, inputs, law, seeds, tolerance, **options)
    if not result.holds:
        raise AssertionError(result.failure())


def _which(seeds: Seeds) -> list[int] | None:
    """Return the seeds that are asked for, or None for as many as it takes.

    Raises:
        BadInput: a word that is not ``"auto"``.
    """
    if isinstance(seeds, str):
        if seeds != "auto":
            raise BadInput(f"seeds is a number, a list of numbers or 'auto', not {seeds!r}")
        return None
    return list(range(seeds)) if isinstance(seeds, int) else list(seeds)


def _check(seeds: Sequence[int] | None, tolerance: float, level: float) -> None:
    if seeds is not None and len(seeds) < 2:
        raise BadInput(f"an interval needs at least 2 seeds, got {len(seeds)}")
    if seeds is not None and len(set(seeds)) < len(seeds):
        raise BadInput("the same seed is given twice; draws must be independent")
    if not 0 < tolerance < 1:
        raise BadInput(f"tolerance is a relative deviation between 0 and 1, got {tolerance!r}")
    if not 0 < level < 1:
        raise BadInput(f"level is a confidence between 0 and 1, got {level!r}")


def _check_predicted(
    model: nn.Module | Factory | str, options: Mapping[str, object] | None
) -> None:
    """Refuse, before anything is measured, a network of which theory predicts nothing.

    Raises:
        BadInput: there is no recursion for it; the message says which part has none.
    """  # noqa: DOC501  (`no_prediction` makes the error)
    from sigprop.theory import Kernel
    from sigprop.verification.laws import no_prediction
    from sigprop.verification.predictions import recursion_of
    from sigprop.verification.settings import NoTheory

    try:
        recursion_of(
            {} if isinstance(model, nn.Module) else design(model, **(options or {})), Kernel()
        )
    except NoTheory as none:
        raise no_prediction(str(none)) from None


def _prediction(
    model: nn.Module | Factory | str, records: Records, options: Mapping[str, object] | None
) -> Prediction | None:
    """Return what theory predicts of a network of the zoo, from its first block's input on."""
    from sigprop.verification.predictions import recursion_of, start_kernel

    if not isinstance(model, str):
        return None
    start = start_kernel(records.signals)
    return recursion_of(design(model, **(options or {})), start) if start else None
