"""A process group of the probe's own: what fails in it never reaches the groups of training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from sigprop.capture.torch_internals import gloo_group, rendezvous
from sigprop.errors import BadInput

#: How long `attach` waits for the probes of the other ranks.
JOIN = timedelta(seconds=30)
#: How long a rank waits for the others at the end of a recorded step.
MERGE = timedelta(seconds=120)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Alone(Exception):
    """The other ranks have not attached a probe."""


class Group:
    """Ranks that merge what they record, over gloo, whatever training communicates over.

    Args:
        of: the process group whose ranks merge; None for all.

    Attributes:
        rank: of this process in the group.
        size: how many ranks there are.
        collectives: how many were made.
        sent: bytes given to them.
    """

    #: By names of ranks, how many probes of theirs have met: those of one number belong together.
    met: ClassVar[Counter[str]] = Counter()

    def __init__(self, of: dist.ProcessGroup | None) -> None:
        self.rank, self.size = dist.get_rank(of), dist.get_world_size(of)
        ranks = dist.get_process_group_ranks(of) if of is not None else range(self.size)
        self._name = "-".join(map(str, ranks))
        # None where torch has none: "ranks" is switched off
        self._store: Any = rendezvous(f"sigprop/{self._name}/{self.met[self._name]}")
        self._group: Any = None
        self.collectives = self.sent = 0

    def join(self, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Meet the other ranks, and return what each of them says of its probe.

        Args:
            facts: what this rank says, as JSON allows.

        Raises:
            Alone: another rank attached no probe within `JOIN`.

        Returns:
            What each rank says, in the order of ranks.
        """
        self._store.set(str(self.rank), json.dumps(facts))
        others: list[dict[str, Any]] = []
        for rank in range(self.size):
            try:
                self._store.wait([str(rank)], JOIN)
            except RuntimeError as error:
                self._store.delete_key(str(self.rank))  # nobody waits here any more
                raise Alone(f"rank {rank} of {self.size} attached no probe") from error
            others.append(json.loads(self._store.get(str(rank))))
        self.met[self._name] += 1
        return others

    def connect(self) -> None:
        """Open the connections; every rank does so after `join`."""
        self._group = gloo_group(self._store, self.rank, self.size, MERGE)

    def sum(self, numbers: Floats, first_only: bool = False) -> Floats:
        """Return the sums over ranks.

        Args:
            numbers: as many on each rank.
            first_only: only the first rank needs them; the others get numbers without meaning.
        """
        return self._reduce(numbers, dist.ReduceOp.SUM, first_only)

    def max(self, numbers: Any, first_only: bool = False) -> Any:
        """Return the largest over ranks.

        Args:
            numbers: as many on each rank.
            first_only: only the first rank needs them; the others get numbers without meaning.
        """
        return self._reduce(numbers, dist.ReduceOp.MAX, first_only)

    def gather(self, payload: bytes) -> list[bytes]:
        """Return what each rank gave, in the order of ranks.

        Args:
            payload: of any length.
        """
        sizes: Integers = np.zeros(self.size, dtype=np.int64)
        sizes[self.rank] = len(payload)
        sizes = self.max(sizes)
        ends = np.cumsum(sizes)
        whole = np.zeros(int(ends[-1]), dtype=np.uint8)
        start = int(ends[self.rank]) - len(payload)
        whole[start : start + len(payload)] = np.frombuffer(payload, dtype=np.uint8)
        whole = self.max(whole)
        return [part.tobytes() for part in np.split(whole, ends[:-1])]

    def _reduce(self, numbers: Any, operation: Any, first_only: bool) -> Any:
        tensor = torch.from_numpy(np.array(numbers))  # a copy: reductions are in place
        self.collectives += 1
        self.sent += tensor.nbytes
        if first_only:
            reducing = dist.ReduceOptions()
            reducing.reduceOp, reducing.rootRank = operation, 0
            self._group.reduce([tensor], reducing).wait()
        else:
            everywhere = dist.AllreduceOptions()
            everywhere.reduceOp = operation
            self._group.allreduce([tensor], everywhere).wait()
        return tensor.numpy()

    def close(self) -> None:
        """Let go of the connections."""
        self._group = None


def require_same(facts: list[dict[str, Any]]) -> None:
    """Check that the probes of all ranks are alike.

    Args:
        facts: what each rank says of its probe.

    Raises:
        BadInput: two of them differ; the same is raised on each rank.
    """
    for rank, other in enumerate(facts):
        for name, value in facts[0].items():
            if other.get(name) != value:
                raise BadInput(
                    f"the probes of rank 0 and rank {rank} differ in {name}: {_short(value)} and "
                    f"{_short(other.get(name))}; attach with the same model and options on every "
                    "rank, or with ranks='own' to record each rank by itself"
                )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
