"""One writer per run directory: a file that names the process that writes there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from sigprop.errors import RunError

LOCK = "writer.lock"


@dataclass(frozen=True)
class Writer:
    """A process that writes a run.

    Attributes:
        host: the machine's name.
        pid: the process's number there.
        started: when it started, in ticks since the machine did: numbers of processes are used
            again. None where the system does not say.
        token: tells several writers of one process apart.
    """

    host: str
    pid: int
    started: int | None = None
    token: str = ""

    @property
    def dead(self) -> bool:
        """Whether the process is known to have ended; of another machine's that is not known."""
        if self.host != socket.gethostname() or os.name != "posix":
            return False
        try:
            os.kill(self.pid, 0)  # no signal: it asks whether there is such a process
        except ProcessLookupError:
            return True
        except OSError:
            return False  # it is another user's
        now = _started(self.pid)
        return None not in (self.started, now) and now != self.started

    def __str__(self) -> str:
        if self.host == socket.gethostname() and self.pid == os.getpid():
            return f"this process ({self.pid} on {self.host})"
        return f"process {self.pid} on {self.host}"


class RunLock:
    """Keeps a second writer out of a run directory.

    The lock is a file that is created only if there is none. One whose process has ended on this
    machine is taken over; whether a process on another machine has ended is not known, so that its
    lock stays until it is deleted by hand.

    Args:
        directory: of the run; made if absent.
        name: of the file.

    Raises:
        RunError: another writer has the directory, or it cannot be written.

    Example:
        >>> import tempfile
        >>> lock = RunLock(tempfile.mkdtemp())
        >>> lock.held
        True
        >>> lock.release()
        >>> lock.held
        False
    """

    def __init__(self, directory: str | Path, name: str = LOCK) -> None:
        self._path = Path(directory) / name
        pid = os.getpid()
        self._own = Writer(socket.gethostname(), pid, _started(pid), uuid.uuid4().hex)
        self.acquire()

    @property
    def held(self) -> bool:
        """Whether the directory is this writer's."""
        return _read(self._path) == self._own

    def acquire(self) -> None:
        """Take the lock, again where it went with its folder.

        Raises:
            RunError: another writer has the directory, or it cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self.held or self._create():
                return
            found = _read(self._path)
            if found is not None and found.dead and self._move_away(found) and self._create():
                return
            found = _read(self._path) or found
        except OSError as error:
            raise RunError(
                f"cannot write to {self._path.parent}: {error.strerror or error}"
            ) from None
        raise RunError(
            f"{self._path.parent} is being written by {found or 'another process'}; choose another "
            f"directory, or delete {self._path} if that process has ended"
        )

    def release(self) -> None:
        """Let others write, if the lock is this writer's."""
        if self.held:
            self._path.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Return whether the lock was free, and is ours now: whole from its first moment."""
        text = json.dumps(asdict(self._own))
        temporary = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        try:
            temporary.write_text(text, "utf-8")
            try:
                os.link(temporary, self._path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                with (
                    contextlib.suppress(FileExistsError),
                    self._path.open("x", encoding="utf-8") as f,
                ):
                    f.write(text)
                return self.held
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _move_away(self, dead: Writer) -> bool:
        """Remove the lock of a process that has ended.

        Another writer may do the same at this moment: what was moved away is looked at once more,
        and put back if it is not the dead one's.

        Returns:
            Whether the lock is free now.
        """
        aside = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return True
        moved = _read(aside)
        if moved != dead:
            os.link(aside, self._path)
        aside.unlink()
        return moved == dead


def _read(path: Path) -> Writer | None:
    try:
        return Writer(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _started(pid: int) -> int | None:
    """Return when a process started, in ticks since the machine did; None where it is not said."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2]
        return int(after_name.split()[19])
    except (OSError, ValueError, IndexError):
        return None
