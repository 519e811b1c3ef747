"""Streams what a probe records to a run directory, so that memory does not grow with the run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigprop.capture.distributed.ranks import Ranks
from sigprop.errors import BadInput, ProbeWarning, RunError
from sigprop.probing.options import ProbeOptions, Resume
from sigprop.probing.tables import CoverageRows, Tables
from sigprop.records import MANIFEST, Records, RunWriter, concat, new_manifest, tidy
from sigprop.records.frames import stack
from sigprop.records.loading import read_run
from sigprop.records.lock import RunLock
from sigprop.records.repeated import before, first_steps

if TYPE_CHECKING:
    import pandas as pd

#: How many rows are kept in memory while they cannot be written.
KEPT = 1_000_000
#: How many flushes are passed over at most after many that failed: each takes time of training's.
_LONGEST_PAUSE = 64

_ORIGIN = ["run", "network", "seed"]


def tables_for(options: ProbeOptions, facts: Mapping[str, Any], ranks: Ranks | None) -> Tables:
    """Return what takes the rows of a probe: memory, or a run directory.

    Args:
        options: the probe's options.
        facts: what the manifest says of the run.
        ranks: where the model is trained on many; the first one has the rows.

    Raises:
        RunError: the directory cannot be used as asked.
    """
    if options.directory is None or (ranks is not None and not ranks.leads):
        return Tables(options.origin)
    stream = RunStream(options.directory, options.resume, facts)
    return StreamedTables(options.origin, stream, options.flush_every)


class RunStream:
    """A run directory that is written while a model trains, and that training does not depend on.

    A directory that cannot be written (a full disk, a folder that is gone) is reported once. Its
    rows wait, the last `KEPT` of them, and later flushes try again, more and more seldom.

    Args:
        directory: of the run; made if absent.
        resume: ``"never"`` begins a run, ``"must"`` goes on with the one that is there, ``"allow"``
            does either.
        facts: what the manifest says of the run.

    Attributes:
        directory: of the run.

    Raises:
        RunError: there is a run, or there is none, or the directory cannot be written, or another
            process writes there.
    """

    def __init__(self, directory: str | Path, resume: Resume, facts: Mapping[str, Any]) -> None:
        self.directory = Path(directory)
        there = (self.directory / MANIFEST).exists()
        if there and resume == "never":
            raise RunError(
                f"{directory} holds a run already; choose another directory, or resume='allow' to "
                "go on with it"
            )
        if not there and resume == "must":
            raise RunError(
                f"{directory} holds no run to go on with; resume='allow' begins one where there is "
                "none"
            )
        self._lock = RunLock(self.directory)
        self._process = os.getpid()
        self._failures = self._pause = 0
        try:
            self._writer = RunWriter(self.directory, new_manifest(**facts), resume=there)
            self._coverage = self._join(facts) if there else tidy("coverage", [])
        except BaseException:
            self._lock.release()
            raise

    def _join(self, facts: Mapping[str, Any]) -> pd.DataFrame:
        """Add the networks and seeds of this part to the manifest of the run that it goes on with.

        Returns:
            The coverage table up to now.
        """
        known = self._writer.manifest
        same = facts["networks"][0] in known.get("networks", []) and facts["seeds"][0] in known.get(
            "seeds", []
        )
        if same and facts["steps"] == 0 and known.get("steps", 0):
            warnings.warn(
                f"{self.directory} holds steps up to {known['steps'] - 1}, and recording resumes "
                "at step 0: they go when the first rows are written. Say step= where training "
                "resumes to keep what came before",
                ProbeWarning,
                stacklevel=6,
            )
        for key in ("networks", "seeds"):
            known[key] = list(dict.fromkeys([*known.get(key, []), *facts[key]]))
        return read_run(self.directory, ("coverage",)).coverage

    def write(self, records: Records, steps: int, complete: bool = False) -> None:
        """Write rows, or keep them until they can be written.

        Args:
            records: the rows; of the coverage table, all of this network and seed.
            steps: how many steps there were.
            complete: mark the run complete.
        """
        if os.getpid() != self._process:
            return  # a fork of the process has a copy of the rows, and no run
        for table in ("signals", "parameters", "spectra", "training"):
            self._writer.append(table, getattr(records, table))
        if len(records.coverage):
            self._writer.replace("coverage", self._with_others(records.coverage))
        self._writer.manifest["steps"] = steps
        self._pause -= 1
        if self._pause >= 0 and not complete:
            self._bound()
            return
        try:
            self._lock.acquire()  # again, should the folder have gone meanwhile
            if complete:
                self._writer.complete()
            else:
                self._writer.flush()
            self._failures = 0
        except OSError as error:
            self._keep(error, complete)

    def _with_others(self, coverage: pd.DataFrame) -> pd.DataFrame:
        """Return a coverage table below that of other networks and seeds in the directory."""
        own = set(coverage[_ORIGIN].itertuples(index=False, name=None))
        other = [
            one not in own for one in self._coverage[_ORIGIN].itertuples(index=False, name=None)
        ]
        return tidy("coverage", stack([self._coverage[other], coverage]))

    def _keep(self, error: OSError, last: bool) -> None:
        """Report the first of several failures in a row, and see that not too much is kept."""
        self._bound()
        self._failures += 1
        self._pause = min(2**self._failures - 2, _LONGEST_PAUSE)
        if last:
            waiting = sum(map(len, self._waiting().tables().values()))
            then = f"the last {waiting} rows were not written, and are in probe.records only"
        else:
            then = (
                f"training goes on; the last {KEPT:,} rows are kept in memory, and written when "
                "that is possible again"
            )
        if last or self._failures == 1:
            warnings.warn(f"{error}: {then}", ProbeWarning, stacklevel=2)

    def _bound(self) -> None:
        """Let go of the oldest of too many rows, and count them."""
        lost = self._writer.drop_oldest(KEPT)
        if lost:
            self._writer.manifest["lost"] = self._writer.manifest.get("lost", 0) + lost

    def records(self, more: Records) -> Records:
        """Return what is in the directory, what waits to be written, and more rows.

        Args:
            more: rows that have not come here yet.
        """
        waiting = concat([self._waiting(), more])
        try:
            written = read_run(self.directory)
        except OSError as error:
            written = Records(missing=[str(error)], manifest=self._writer.manifest)
        if self._writer.resumed:  # what is recorded again goes with the first flush
            first = first_steps(waiting.tables().values())
            for table, frame in written.tables().items():
                setattr(written, table, before(frame, first))
        return concat([written, waiting])

    def _waiting(self) -> Records:
        found = Records()
        for table, frame in self._writer.waiting.items():
            setattr(found, table, frame)
        return found

    def release(self) -> None:
        """Let another writer have the directory."""
        if os.getpid() == self._process:
            self._lock.release()


class StreamedTables(Tables):
    """The rows of the last steps, and a run directory that has the others.

    Args:
        origin: the columns that say where every row is from.
        stream: the directory.
        flush_every: how many recorded steps are kept before they are written.
    """

    def __init__(self, origin: Mapping[str, Any], stream: RunStream, flush_every: int) -> None:
        super().__init__(origin)
        self._stream, self._every = stream, flush_every
        self._kept = self._flushes = self._step = 0
        self._open = True

    def copy(self) -> Tables:
        """Return the same rows, to which others can be added."""
        other = StreamedTables(self._origin, self._stream, self._every)
        other._tables = {table: rows.copy() for table, rows in self._tables.items()}
        return other

    def drain(self) -> Records:
        """Refuse: the rows are the directory's.

        Raises:
            BadInput: always.
        """
        raise BadInput(
            f"the rows of this probe are written to {self._stream.directory}; drain is for a probe "
            "without a directory"
        )

    def records(self) -> Records:
        """Return every row as frames, those of the directory first."""
        return self._stream.records(self.in_memory())

    def step_recorded(self, step: int, coverage: Callable[[], CoverageRows]) -> None:
        """Write the rows when those of enough steps are here.

        Args:
            step: the number of the step that has ended.
            coverage: returns the coverage table, which goes with the 1st, 2nd, 4th, 8th, ... flush.
        """
        self._kept, self._step = self._kept + 1, step + 1
        if self._kept >= self._every:
            self._flushes += 1
            is_power_of_two = self._flushes & (self._flushes - 1) == 0
            self._flush(coverage() if is_power_of_two else ())

    def close(self, step: int, coverage: CoverageRows, complete: bool) -> None:
        """Write what is left, and let another writer have the directory.

        Args:
            step: the number of the step that never began.
            coverage: the rows of the coverage table.
            complete: mark the run complete.
        """
        if self._open:
            self._open, self._step = False, step
            self._flush(coverage, complete)
            self._stream.release()

    def abandon(self) -> None:
        """Write what is left of a probe that is gone; the run does not count as complete."""
        self.close(self._step, (), complete=False)

    def _flush(self, coverage: CoverageRows, complete: bool = False) -> None:
        self._kept = 0
        records = super().drain()
        records.coverage = tidy("coverage", coverage)
        self._stream.write(records, self._step, complete)
