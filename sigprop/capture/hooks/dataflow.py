"""How far every tensor of a forward pass lies from the inputs of the blocks it was made in.

A block's stream is the shortest way through it. A sum is a residual addition where one operand lies
on that way and the other has come farther, from the same input. What is multiplied by something
that was computed from the same input has come as far as that: the gates of recurrent cells, routers
and normalizers written out lead off the stream. Integers carry no signal.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import NamedTuple

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
_MULTIPLYING = (
    "mul mul_ multiply __mul__ __rmul__ __imul__ div div_ divide true_divide __truediv__ "
    "__rtruediv__ __itruediv__"
)
#: Their result has come as far as the farther of two factors, see `_gated`.
PRODUCTS = frozenset(_MULTIPLYING.split())
#: Inputs of a module that are told apart.
_SOURCES = 8
COSTS: Mapping[str, int] = {
    **dict.fromkeys(_LIGHTWEIGHT.split(), LIGHT),
    **dict.fromkeys(_HEAVY.split(), WEIGHT),
}

Distances = dict[int, int]


class Operands(NamedTuple):
    """What is skip and what is branch in a residual addition.

    Attributes:
        distance: how far the skip has come.
        source: from which input of the module.
        swapped: whether the skip is the second operand.
    """

    distance: int
    source: int
    swapped: bool

    @property
    def projected(self) -> bool:
        """Whether the skip has passed a weight."""
        return self.distance >= WEIGHT


def is_skip(distance: int, other: int) -> bool:
    """Return whether an operand so far from the block's input is the skip beside the other.

    A skip passes one weight at most: the projection where the shape changes. Beside that the branch
    has a weight more and something that is not linear; a low-rank term (Hu et al. 2022, LoRA) has
    not.

    Args:
        distance: of the operand.
        other: of the other operand.
    """
    if distance < WEIGHT:
        return distance < other
    return distance // WEIGHT == 1 < other // WEIGHT and other % WEIGHT > 0


class Dataflow:
    """Shortest distances, in operations that transform, from the inputs of the open frames.

    A frame is one call of a module whose additions are to be resolved. Tensors are known weakly.

    Example:
        >>> import torch
        >>> known, x = Dataflow(), torch.ones(2)
        >>> known.open(0, [[x]])
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

    def open(self, frame: int, sources: Iterable[Iterable[Tensor]]) -> None:
        """Start a frame: the tensors of each of its inputs lie at distance 0 from that input.

        Args:
            frame: a number of its own.
            sources: the tensors of each input that the module was called with.
        """
        first = frame * _SOURCES
        for key, source in zip(range(first, first + _SOURCES), sources, strict=False):
            self._open.add(key)
            for x in source:
                known = self._get(x) or {}
                self._put(x, {f: d for f, d in known.items() if f in self._open} | {key: 0})

    def close(self, frame: int) -> None:
        """End a frame: distances in it are not needed any more."""
        self._open.difference_update(range(frame * _SOURCES, (frame + 1) * _SOURCES))

    def distance(self, x: Tensor, frame: int) -> int | None:
        """Return how far ``x`` lies from the nearest of a frame's inputs; None for from none.

        Args:
            x: a tensor.
            frame: the number of an open frame.
        """
        known = self._get(x) or {}
        first = frame * _SOURCES
        found = [known[key] for key in range(first, first + _SOURCES) if key in known]
        return min(found, default=None)

    def reach(self, made: Iterable[Tensor], frame: int) -> list[int]:
        """Return how many weights lie on the shortest way from each input of a frame.

        Args:
            made: what the module returned.
            frame: its call.

        Returns:
            A number for every input; 2 also where no way leads from it.
        """
        first = frame * _SOURCES
        known = [self._get(x) or {} for x in made]
        far = 2 * WEIGHT
        return [
            min([2, *(found.get(key, far) // WEIGHT for found in known)])
            for key in range(first, first + _SOURCES)
        ]

    def operands(self, a: Tensor, b: Tensor, frame: int) -> Operands | None:
        """Return what is skip and what is branch in a residual addition.

        Args:
            a: one operand.
            b: the other.
            frame: the call of a module in which they are added.

        Returns:
            None where the sum is no residual addition of this call.
        """
        mine, others = self._get(a), self._get(b)
        best: Operands | None = None
        if not mine or not others:
            return None
        for source in range(_SOURCES):
            key = frame * _SOURCES + source
            near, far = mine.get(key), others.get(key)
            if near is None or far is None:
                continue
            swapped = near > far
            near, far = min(near, far), max(near, far)
            if is_skip(near, far) and (best is None or near < best.distance):
                best = Operands(near, source, swapped)
        return best

    def pass_on(
        self,
        args: Iterable[object],
        kwargs: Mapping[str, object],
        out: object,
        cost: int,
        product: bool = False,
    ) -> None:
        """Note that ``out`` was made from the tensors in ``args`` and ``kwargs``.

        Called at every operation: what can be is written out.

        Args:
            args: an operation's arguments.
            kwargs: those by name.
            out: what it returned.
            cost: what it adds to the distance.
            product: whether it multiplies, see `PRODUCTS`.
        """
        known, found = self._known, None
        choose = _gated if product else min
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
                    found = _joined(found, entry[1], self._open, choose)
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
                if x.is_floating_point() or x.is_complex():
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


def _gated(a: int, b: int) -> int:
    """Return how far a product has come; one factor that gates the other leads off the stream."""
    return max(a, b) if abs(a - b) < WEIGHT else max(a, b, 2 * WEIGHT)


def _joined(
    a: Distances, b: Distances, still_open: Container[int], choose: Callable[[int, int], int]
) -> Distances:
    """Return the shorter or the longer distance in each open frame.

    Closed ones are left out: a residual stream would carry one per block.
    """
    joined: Distances = {}
    for distances in (a, b):
        for frame, distance in distances.items():
            if frame in still_open:
                joined[frame] = choose(distance, joined.get(frame, distance))
    return joined
