"""Whether a function of a model gives the same result twice, and if not, what is to blame."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from sigprop.capture.model.naming import clean, modules
from sigprop.capture.torch_internals import BATCH_NORMALIZATIONS
from sigprop.errors import BadInput
from sigprop.inputs.devices import kept_random_state, random_state
from sigprop.linear_operators.stateless import Stateless

_DROPOUTS = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU),
)


def require_deterministic(
    evaluate: Callable[[], Tensor],
    function: Stateless,
    what: str,
    *,
    data: object = None,
    batch_statistics: bool = False,
) -> None:
    """Evaluate a function of a model twice, and refuse one whose results differ.

    Its spectrum would be that of another map at every product. The random state is put back.

    Args:
        evaluate: calls ``function``, and returns a tensor.
        function: the model, whose modules may be to blame.
        what: what is asked for, for the error: ``"the Jacobian"``.
        data: where the batches come from, if they come anew at every evaluation.
        batch_statistics: allow normalization by the statistics of the batch, which changes a
            BatchNorm's running statistics but not the result.

    Raises:
        BadInput: the results differ, or evaluating changes buffers; what draws random numbers or
            keeps statistics is named.

    Example:
        >>> net = Stateless(nn.Dropout())
        >>> require_deterministic(lambda: net(torch.ones(50)), net, "this map")
        Traceback (most recent call last):
        sigprop.errors.BadInput: this map differs from one evaluation to the next: (model) (Dropout)
        draws random numbers in training mode; call model.eval() first
    """
    owners = dict(modules(function.model))
    function.changed.clear()
    with kept_random_state():
        before = random_state()
        first = evaluate()
        drew = any(not torch.equal(before[kind], now) for kind, now in random_state().items())
        second = evaluate()
    if not _close(first, second):
        raise BadInput(
            f"{what} differs from one evaluation to the next: {_blame(owners, data, drew)}"
        )
    kept = sorted({clean(name.rpartition(".")[0]) for name in function.changed})
    norms = [name for name in kept if isinstance(owners.get(name), BATCH_NORMALIZATIONS)]
    others = [name for name in kept if name not in norms]
    if others:
        raise BadInput(
            f"{what} is not that of one function: {_named(others, owners)} changes its own buffers "
            "when it is called; call model.eval() first"
        )
    if norms and not batch_statistics:
        raise BadInput(
            f"{what} is not that of one function: {_named(norms, owners)} normalizes by the batch "
            "and keeps running statistics in training mode; call model.eval() first, or pass "
            "batch_statistics=True for the map of the whole batch"
        )


def _close(first: Tensor, second: Tensor) -> bool:
    """Return whether two results agree up to the order of summation on an accelerator."""
    if first.shape != second.shape:
        return False
    largest = float(first.detach().abs().max()) if first.numel() else 0.0
    bound = torch.finfo(first.dtype).eps ** 0.5 * largest
    return bool(torch.isclose(first, second, rtol=0, atol=bound, equal_nan=True).all())


def _blame(owners: dict[str, nn.Module], data: object, drew: bool) -> str:
    guilty = [
        name
        for name, module in owners.items()
        if module.training and isinstance(module, _DROPOUTS) and getattr(module, "p", 1) > 0
    ]
    if guilty and drew:
        return (
            f"{_named(guilty, owners)} draws random numbers in training mode; call model.eval() "
            "first"
        )
    if isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler):
        return "its DataLoader shuffles; pass shuffle=False, or one batch"
    if drew:
        return "its forward pass draws random numbers; call model.eval(), or seed them in it"
    return "something in it keeps state between calls; call model.eval() first"


def _named(names: list[str], owners: dict[str, nn.Module]) -> str:
    first = f"{names[0]} ({type(owners[names[0]]).__name__})" if names[0] in owners else names[0]
    more = len(names) - 1
    return first + (f" and {more} more" if more else "")
