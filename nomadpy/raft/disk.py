"""The few things that the log and the snapshots ask of a file system, so that tests can stand in a disk that fails.

What is written is only in the page cache until ``File.sync``; a new, renamed or removed name only lasts after
``Directory.sync``. Nothing here retries: after a failed sync the kernel may have dropped the pages, so a second call
that succeeds would prove nothing.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol

from nomadpy.model.errors import NomadError


class File(Protocol):
    """A file that only grows at its end, and may be cut."""

    def read(self) -> bytes:
        """Everything in it."""

    def read_at(self, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset`` on."""

    def append(self, data: bytes) -> None:
        """Writes all of ``data`` at the end. Raises OSError."""

    def sync(self) -> None:
        """Returns once everything appended survives a loss of power. Raises OSError."""

    def truncate(self, size: int) -> None:
        """Cuts the file to ``size`` bytes, durably. Raises OSError."""

    def close(self) -> None:
        """Lets go of the file, without syncing it."""


class Directory(Protocol):
    """A flat folder."""

    def names(self) -> list[str]:
        """The files in it, sorted."""

    def open(self, name: str) -> File:
        """Opens a file, making it when missing."""

    def rename(self, old: str, new: str) -> None:
        """Gives a file another name, taking the place of a file that has it."""

    def remove(self, name: str) -> None:
        """Removes a file."""

    def sync(self) -> None:
        """Returns once the names survive a loss of power."""


class DiskFile:
    """A real file."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def read(self) -> bytes:
        """Everything in it."""
        return self.read_at(0, os.fstat(self._fd).st_size)

    def read_at(self, offset: int, size: int) -> bytes:
        """Some of it; one call of the system may return less than it could."""
        parts, left = [], size
        while left:
            part = os.pread(self._fd, left, offset + size - left)
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def append(self, data: bytes) -> None:
        """Writes all of it; a short write is continued."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        """One fdatasync."""
        os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        """Cuts and syncs."""
        os.ftruncate(self._fd, size)
        os.fsync(self._fd)

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self._fd)


class DiskDirectory:
    """A real folder, made when missing. It is locked: one process at a time may hold it."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise NomadError(f"{path} is in use by another agent") from error

    def names(self) -> list[str]:
        """The files in it, sorted."""
        return sorted(entry.name for entry in self.path.iterdir() if entry.is_file())

    def open(self, name: str) -> DiskFile:
        """Opens or makes a file."""
        return DiskFile(self.path / name)

    def rename(self, old: str, new: str) -> None:
        """An atomic replacement."""
        os.replace(self.path / old, self.path / new)

    def remove(self, name: str) -> None:
        """Removes a file."""
        os.unlink(self.path / name)

    def sync(self) -> None:
        """Syncs the names."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Lets go of the lock."""
        os.close(self._fd)
