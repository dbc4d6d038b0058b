"""Runs ``nomadpy`` on a machine with faults, told by the JSON in ``NOMADPY_FAULTS``:

* ``sync_ms``: every sync of the log takes so much longer;
* ``forgetful``: what was not synced is in no file yet, so that SIGKILL does to the log what a loss of power does;
* ``clock_file``: a file with the seconds by which the wall clock is wrong, looked at again and again.
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


def slow_down(sync_s: float) -> None:
    """A disk on which a sync takes at least so long."""
    from nomadpy.raft import disk

    sync = disk.DiskFile.sync

    def slowly(self: disk.DiskFile) -> None:
        time.sleep(sync_s)  # what the disk needs
        sync(self)

    disk.DiskFile.sync = slowly  # type: ignore[method-assign]


def set_clock(path: Path) -> None:
    """The wall clock is off by what the file says; the monotonic clock is right, as on a real machine."""
    right, right_ns, state = time.time, time.time_ns, [0.0, 0.0]

    def offset_s() -> float:
        now = time.monotonic()
        if now > state[1]:
            state[0], state[1] = float(path.read_text() or 0), now + 0.05
        return state[0]

    time.time = lambda: right() + offset_s()
    time.time_ns = lambda: right_ns() + int(offset_s() * 1e9)


def main() -> None:
    """Before anything has taken the functions by name."""
    faults = json.loads(os.environ["NOMADPY_FAULTS"])
    if "clock_file" in faults:
        set_clock(Path(faults["clock_file"]))
    if faults.get("forgetful"):
        forget_unsynced()
    if faults.get("sync_ms"):
        slow_down(faults["sync_ms"] / 1000)
    from nomadpy.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
