"""Claims by name, each with the saboteurs that must turn it red. Runs nothing by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from sigprop.claims.comparison import Comparison
from sigprop.claims.faults import Fault
from sigprop.inputs.devices import Device
from sigprop.registry import Registry

T = TypeVar("T")

#: Verdict of a claim that no laptop can run; it never counts as passed.
NOT_RUN = "not run: needs a GPU-size run"


@dataclass(frozen=True)
class Trial:
    """How a claim is to be measured: with which seeds, and how large.

    Attributes:
        base: the first seed.
        quick: small sizes, for the test suite; the ledger runs the full ones.
        device: where networks are measured and trained; what a claim draws is on the CPU.
    """

    base: int = 0
    quick: bool = False
    device: Device = "auto"

    def pick(self, full: T, quick: T) -> T:
        """Return the value for this size.

        Args:
            full: the ledger's value.
            quick: the test suite's value.
        """
        return quick if self.quick else full

    def seeds(self, full: int, quick: int | None = None) -> list[int]:
        """Return so many seeds, counted from the base.

        Args:
            full: how many in the ledger.
            quick: how many in the test suite; as many when left out.

        Example:
            >>> Trial(1000, quick=True).seeds(16, 3)
            [1000, 1001, 1002]
        """
        count = full if quick is None else self.pick(full, quick)
        return list(range(self.base, self.base + count))

    def generators(self, full: int, quick: int | None = None) -> list[torch.Generator]:
        """Return one generator per seed.

        Args:
            full: how many in the ledger.
            quick: how many in the test suite; as many when left out.
        """
        return [torch.Generator().manual_seed(seed) for seed in self.seeds(full, quick)]


Function = Callable[..., Sequence[Comparison]]


@dataclass(frozen=True)
class Claim:
    """A statement of the literature, and the function that measures it.

    Attributes:
        name: its name in the ledger.
        title: one line for tables and figures.
        source: paper and section.
        conditions: what is measured, honestly: sizes, seeds, precision.
        statement: the claim as a formula.
        tags: ways to ask for a group; the theme is one of them.
        function: ``(trial, **subject) -> comparisons``; the subject's defaults are unbroken.
            None when the run is too large for a CPU.
        note: what the measurement adds to the source, or where the two disagree.
        erratum: key of the misprint in `sigprop.theory.ERRATA` that it decides, or empty.
    """

    name: str
    title: str
    source: str
    conditions: str
    statement: str
    tags: tuple[str, ...]
    function: Function | None = field(default=None, repr=False)
    note: str = ""
    erratum: str = ""

    @property
    def theme(self) -> str:
        """The group it is shown in: its first tag."""
        return self.tags[0]


@dataclass(frozen=True)
class Saboteur:
    """The comparison of a claim on a subject that was broken on purpose.

    Attributes:
        claim: whose comparison.
        what: what was broken.
        changes: arguments of the claim's function that break the subject, or a fault of the
            library that is there while the claim is measured.
    """

    claim: str
    what: str
    changes: Mapping[str, Any] | Fault

    @property
    def name(self) -> str:
        """``"claim: what"``."""
        return f"{self.claim}: {self.what}"


CLAIMS: Registry[Claim] = Registry("claim")
SABOTEURS: Registry[Saboteur] = Registry("saboteur")

F = TypeVar("F", bound=Function)


def claim(
    name: str,
    title: str,
    *,
    saboteurs: Mapping[str, Mapping[str, Any] | Fault],
    tags: Sequence[str] = (),
    **facts: Any,
) -> Callable[[F], F]:
    """Return a decorator that registers a claim's function, and its saboteurs.

    The module's name is the theme, and with that the first tag.

    Args:
        name: its name in the ledger.
        title: one line.
        saboteurs: what is broken -> arguments of the function that break it, or a fault of the
            library.
        tags: further tags.
        facts: the other attributes of `Claim`.
    """

    def enter(function: F) -> F:
        """Return the function, which is entered as a claim with its saboteurs."""
        theme = function.__module__.rpartition(".")[2]
        made = Claim(name, title, tags=(theme, *tags), function=function, **facts)
        CLAIMS.register(name)(made)
        for what, changes in saboteurs.items():
            saboteur = Saboteur(name, what, changes)
            SABOTEURS.register(saboteur.name)(saboteur)
        return function

    return enter


def saboteurs_of(name: str) -> list[Saboteur]:
    """Return the saboteurs of a claim.

    Raises:
        UnknownName: no claim has that name.
    """
    _ = CLAIMS[name]
    return [saboteur for saboteur in SABOTEURS.values() if saboteur.claim == name]
