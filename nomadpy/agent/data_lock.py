"""One agent per data directory: two would overwrite each other's files."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from nomadpy.model.errors import Invalid


class DataLock:
    """Held from construction until ``release`` or the end of the process. Raises Invalid when another agent has it."""

    def __init__(self, data_dir: str) -> None:
        path = Path(data_dir) / ".lock"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Invalid(f"data_dir {data_dir} cannot be locked: {error.strerror or error}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise Invalid(
                f"data_dir {data_dir} is in use by another agent (process {holder}); give each agent its own -data-dir"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Lets another agent have the directory."""
        os.close(self._fd)
