"""Runs ``nomadpy`` on a machine with faults.

What was not synced is in no file yet, so that SIGKILL does to the log what a loss of power does. ``NOMADPY_FAULTS`` is
a file with JSON that is looked at again and again: every sync takes ``sync_s`` longer, the wall clock is off by
``clock_s``.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


def forget_unsynced() -> None:
    """Appended bytes stay in memory until ``sync``."""
    from nomadpy.raft import disk

    class ForgetfulFile(disk.DiskFile):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self._unsynced = bytearray()

        def read(self) -> bytes:
            return self.read_at(0, os.fstat(self._fd).st_size + len(self._unsynced))

        def read_at(self, offset: int, size: int) -> bytes:
            stored = os.fstat(self._fd).st_size
            found = super().read_at(offset, min(size, max(0, stored - offset)))
            at = max(0, offset - stored)
            return found + bytes(self._unsynced[at : at + size - len(found)])

        def append(self, data: bytes) -> None:
            self._unsynced += data

        def sync(self) -> None:
            held, self._unsynced = bytes(self._unsynced), bytearray()
            super().append(held)
            super().sync()

        def truncate(self, size: int) -> None:
            self.sync()
            super().truncate(size)

    disk.DiskFile = ForgetfulFile  # type: ignore[misc]


class Faults:
    """What the file says, read at most twenty times a second."""

    def __init__(self, path: Path) -> None:
        self._path, self._said, self._until = path, {}, 0.0

    def get(self, name: str) -> float:
        """Seconds, 0 for none."""
        if time.monotonic() > self._until:
            self._said, self._until = json.loads(self._path.read_text()), time.monotonic() + 0.05
        return float(self._said.get(name, 0))


def slow_down(faults: Faults) -> None:
    """Gives the disk time."""
    from nomadpy.raft import disk

    sync = disk.DiskFile.sync

    def slowly(self: disk.DiskFile) -> None:
        time.sleep(faults.get("sync_s"))  # what the disk needs
        sync(self)

    disk.DiskFile.sync = slowly  # type: ignore[method-assign]


def set_clock(faults: Faults) -> None:
    """The wall clock is wrong; the monotonic clock is right, as on a real machine."""
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + faults.get("clock_s")
    time.time_ns = lambda: right_ns() + int(faults.get("clock_s") * 1e9)


def main() -> None:
    """Before anything has taken the functions by name."""
    faults = Faults(Path(os.environ["NOMADPY_FAULTS"]))
    set_clock(faults)
    forget_unsynced()
    slow_down(faults)
    from nomadpy.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
