"""How far every tensor of a forward pass lies from the inputs of the blocks it was made in."""

from __future__ import annotations

import weakref
from collections.abc import Container, Iterable, Iterator, Mapping

from torch import Tensor

#: What an operation adds to the distance. A weight outweighs any number of normalizers.
WEIGHT, LIGHT = 1 << 16, 1

_HEAVY = (
    "linear bilinear matmul __matmul__ __rmatmul__ bmm mm addmm baddbmm einsum tensordot "
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "scaled_dot_product_attention multi_head_attention_forward lstm gru rnn_tanh rnn_relu "
    "fft_fft fft_fft2 fft_fftn fft_rfft fft_rfft2 fft_rfftn"
)
_LIGHTWEIGHT = (
    "batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm normalize "
    "relu relu_ relu6 gelu silu mish elu elu_ selu celu leaky_relu leaky_relu_ prelu hardswish "
    "hardtanh hardtanh_ softplus tanh tanh_ sigmoid sigmoid_ softmax log_softmax "
    "clamp clamp_ clip clip_ clamp_min clamp_min_ threshold _threshold exp rsqrt"
)
#: Their result has the shape of a tensor and nothing else of it.
_RELATED_BY_SHAPE = (
    "zeros_like ones_like empty_like full_like rand_like randn_like randint_like bernoulli "
    "new_zeros new_ones new_empty new_full new_tensor"
)
UNRELATED = frozenset(_RELATED_BY_SHAPE.split())
COSTS: Mapping[str, int] = {
    **dict.fromkeys(_LIGHTWEIGHT.split(), LIGHT),
    **dict.fromkeys(_HEAVY.split(), WEIGHT),
}

Distances = dict[int, int]


def is_skip(distance: int, other: int) -> bool:
    """Return whether an operand so far from the block's input is the skip beside the other.

    A skip passes one weight at most: the projection where the shape changes.

    Args:
        distance: of the operand, in operations that transform.
        other: of the other operand, likewise.
    """
    return distance < other and distance < 2 * WEIGHT


class Dataflow:
    """Shortest distances, in operations that transform, from the inputs of the open frames.

    A frame is one call of a module whose additions are to be resolved. Tensors are known weakly.

    Example:
        >>> import torch
        >>> known, x = Dataflow(), torch.ones(2)
        >>> known.open(0, [x])
        >>> y = x * 2
        >>> known.pass_on((x, 2), {}, y, 0)
        >>> z = y.relu()
        >>> known.pass_on((y,), {}, z, LIGHT)
        >>> known.distance(y, 0), known.distance(z, 0), known.distance(torch.ones(1), 0)
        (0, 1, None)
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], Distances]] = {}
        self._open: set[int] = set()

    def open(self, frame: int, sources: Iterable[Tensor]) -> None:
        """Start a frame: its sources lie at distance 0.

        Args:
            frame: a number of its own.
            sources: the tensors that the module was called with.
        """
        self._open.add(frame)
        for x in sources:
            known = self._get(x) or {}
            self._put(x, {f: d for f, d in known.items() if f in self._open} | {frame: 0})

    def close(self, frame: int) -> None:
        """End a frame: distances in it are not needed any more."""
        self._open.discard(frame)

    def distance(self, x: Tensor, frame: int) -> int | None:
        """Return how far ``x`` lies from the frame's sources; None if it does not follow.

        Args:
            x: a tensor.
            frame: the number of an open frame.
        """
        known = self._get(x)
        return known.get(frame) if known else None

    def pass_on(
        self, args: Iterable[object], kwargs: Mapping[str, object], out: object, cost: int
    ) -> None:
        """Note that ``out`` was made from the tensors in ``args`` and ``kwargs``.

        Called at every operation: what can be is written out.

        Args:
            args: an operation's arguments.
            kwargs: those by name.
            out: what it returned.
            cost: what it adds to the distance.
        """
        known, found = self._known, None
        for value in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(value, Tensor):
                values: Iterable[Tensor] = (value,)
            elif isinstance(value, tuple | list):
                values = flat(value)
            else:
                continue
            for x in values:
                entry = known.get(id(x))
                if entry is None or entry[0]() is not x:
                    continue
                if found is None or found is entry[1]:
                    found = entry[1]
                else:
                    found = _nearest(found, entry[1], self._open)
        if not found:
            return
        if cost:
            still_open = self._open
            farther: Distances = {}
            for frame, distance in found.items():
                if frame in still_open:
                    farther[frame] = distance + cost
            found = farther
        if isinstance(out, Tensor):
            known[id(out)] = weakref.ref(out), found
        else:
            for x in flat((out,)):
                known[id(x)] = weakref.ref(x), found

    def bridge(self, given: list[Tensor], made: list[Tensor], weighs: bool) -> None:
        """Connect a module's output with its input, where its functions did not show enough.

        Not seen at all (a script, a foreign kernel): as far as one weight. Parameters, but only
        functions that cost nothing (a normalizer written out): a little farther.

        Args:
            given: the tensors that went in.
            made: those that came out.
            weighs: whether the module has parameters.
        """
        near = [self._get(x) or {} for x in given]
        seen = False
        for x in made:
            here = self._get(x)
            if not here:
                continue
            seen = True
            if weighs:
                stays = _unmoved(here, near)
                if stays:
                    self._put(x, {f: d + (f in stays) * LIGHT for f, d in here.items()})
        if not seen:
            self.pass_on(given, {}, made, WEIGHT if weighs else 0)

    def _get(self, x: Tensor) -> Distances | None:
        known = self._known.get(id(x))
        return known[1] if known is not None and known[0]() is x else None

    def _put(self, x: Tensor, distances: Distances) -> None:
        self._known[id(x)] = weakref.ref(x), distances


def flat(values: Iterable[object]) -> Iterator[Tensor]:
    """Yield the tensors in an operation's arguments: bare, or in lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from flat(value)


def _unmoved(here: Distances, near: list[Distances]) -> set[int]:
    """Return the frames in which a tensor lies as far as one that it was made from."""
    stays = set()
    for frame, distance in here.items():
        for other in near:
            if other.get(frame) == distance:
                stays.add(frame)
    return stays


def _nearest(a: Distances, b: Distances, still_open: Container[int]) -> Distances:
    """Return the shorter distance in each open frame.

    Closed ones are left out: a residual stream would carry one per block.
    """
    nearest: Distances = {}
    for distances in (a, b):
        for frame, distance in distances.items():
            if frame in still_open:
                nearest[frame] = min(distance, nearest.get(frame, distance))
    return nearest
