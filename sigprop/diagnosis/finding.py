"""A finding: what is wrong, where, why, and what to do. Values only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from sigprop.words import ranges

Severity = Literal["error", "warning", "info"]

#: From the worst down: training fails; training suffers or will; worth knowing.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Where:
    """Where a finding applies.

    Attributes:
        blocks: depth indices of the blocks, those of the records; empty where none is meant.
        modules: names of modules or parameters.
        steps: recorded steps, the first one first.
        everywhere: all blocks of the network, so that ``blocks`` can be said as a range of it.
    """

    blocks: tuple[int, ...] = ()
    modules: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    everywhere: tuple[int, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        """Return it in words, at most three names of modules.

        Example:
            >>> print(Where((2,), ("layers.2",), (0,)))
            block 2 (layers.2), step 0
        """
        parts = []
        names = ", ".join(self.modules[:3]) + (", …" if len(self.modules) > 3 else "")
        if len(self.blocks) == 1:
            parts.append(f"block {self.blocks[0]}" + (f" ({names})" if names else ""))
        elif self.blocks:
            words = ranges(self.blocks, self.everywhere or self.blocks)
            parts.append(words.removeprefix("at ") + (f" ({names})" if names else ""))
        elif names:
            parts.append(names)
        if len(self.steps) == 1:
            parts.append(f"step {self.steps[0]}")
        elif self.steps:
            parts.append(f"steps {min(self.steps)} to {max(self.steps)}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Measured:
    """A number behind a finding.

    Attributes:
        value: the mean over the draws.
        low: lower end of an interval of two standard errors; None of a single draw.
        high: its upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """Return it with its interval.

        Example:
            >>> print(Measured(2.0, 1.9, 2.1))
            2 (1.9 to 2.1)
        """
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        id: what it is, stable over versions, such as ``"exploding-forward"``.
        severity: ``"error"``, ``"warning"`` or ``"info"``.
        network: the network's name in the records.
        summary: what was seen, in one sentence.
        where: blocks, modules and steps.
        evidence: name -> number.
        cause: why, in one sentence.
        remedy: what to do, in one sentence.
        code: the remedy as Python for this network; ``model``, ``optimizer``, ``inputs`` are the
            user's own. Empty where no line of code does it.
        reference: the paper that the threshold or the cause is from.
    """

    id: str
    severity: Severity
    network: str
    summary: str
    where: Where
    evidence: Mapping[str, Measured]
    cause: str
    remedy: str
    code: str = ""
    reference: str = ""

    def __str__(self) -> str:
        """Return it as a paragraph of text."""
        place = str(self.where)
        lines = [f"{self.severity}: {self.id}" + (f", {place}" if place else "")]
        lines.append(f"  what:   {self.summary}")
        lines.append(f"  why:    {self.cause}")
        lines.append(f"  remedy: {self.remedy}")
        lines += [f"      {line}" for line in self.code.splitlines()]
        if self.reference:
            lines.append(f"  source: {self.reference}")
        return "\n".join(lines)


class Findings(tuple[Finding, ...]):
    """Findings, the worst first; an empty one is a clean bill of health.

    Example:
        >>> print(Findings(()))
        no findings
    """

    __slots__ = ()

    def at_least(self, severity: Severity) -> Findings:
        """Return those of a severity or worse.

        Args:
            severity: ``"error"``, ``"warning"`` or ``"info"``.
        """
        accepted = SEVERITIES[: SEVERITIES.index(severity) + 1]
        return Findings(one for one in self if one.severity in accepted)

    def of(self, network: str) -> Findings:
        """Return those of one network.

        Args:
            network: its name in the records.
        """
        return Findings(one for one in self if one.network == network)

    @property
    def ids(self) -> list[str]:
        """The ids, in order, each once."""
        return list(dict.fromkeys(one.id for one in self))

    def to_json(self) -> str:
        """Return a JSON list of objects with the attributes of `Finding`; undefined is null."""
        return json.dumps([_plain(asdict(one)) for one in self], indent=2)

    def __str__(self) -> str:
        return "\n\n".join(f"{one.network}: {one}" for one in self) if self else "no findings"

    def __repr__(self) -> str:
        counts = [(s, sum(one.severity == s for one in self)) for s in SEVERITIES]
        words = ", ".join(f"{name}: {count}" for name, count in counts if count)
        return f"Findings({words or 'none'})"


def sorted_findings(found: Iterable[Finding], networks: Iterable[str]) -> Findings:
    """Return findings network by network, the worst first.

    Args:
        found: in any order; those of one severity stay in theirs.
        networks: the order of the networks.
    """
    order = {name: number for number, name in enumerate(networks)}
    return Findings(
        sorted(found, key=lambda one: (order[one.network], SEVERITIES.index(one.severity)))
    )


def _plain(value: object) -> object:
    """Return ``value`` as JSON has it: tuples as lists, and null for what is not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if key != "everywhere"}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
