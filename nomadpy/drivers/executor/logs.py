"""Output of a task as numbered files of bounded size, the oldest deleted first: ``<prefix>.0``, ``<prefix>.1``, …"""

from __future__ import annotations

import os

# A line is kept whole when that makes its file larger than allowed by no more than this.
LINE_SLACK_BYTES = 32 * 1024


class RotatedLog:
    """Appends to the newest file and opens the next one when it is full.

    A file ends at the end of a line where that costs at most ``LINE_SLACK_BYTES`` beyond the limit. Data that cannot
    be written (a full disk) is counted in ``lost_bytes`` and dropped: a task must not stall because of its log.
    """

    def __init__(self, prefix: str, *, max_files: int, max_bytes: int) -> None:
        self._prefix = prefix
        self._max_files = max(1, max_files)
        self._max_bytes = max(1, max_bytes)
        self.lost_bytes = 0
        self._fd, self._size, self._mid_line = -1, 0, False
        indexes = self._indexes()
        self.index = indexes[-1] if indexes else 0
        self._open()

    def write(self, data: bytes) -> None:
        """Stores ``data``, over several files when need be."""
        view = memoryview(data)
        while view:
            cut = _cut(data[len(data) - len(view) :], self._size, self._max_bytes, self._mid_line)
            if cut == 0:
                self._next()
                continue
            self._append(view[:cut])
            self._mid_line = view[cut - 1] != 0x0A
            view = view[cut:]

    def close(self) -> None:
        """Ends writing; the files stay."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, data: memoryview) -> None:
        while data:
            try:
                n = os.write(self._fd, data) if self._fd >= 0 else 0
            except OSError:
                n = 0
            if n == 0:
                self.lost_bytes += len(data)
                self._size += len(data)
                return
            self._size += n
            data = data[n:]

    def _next(self) -> None:
        self.close()
        self.index += 1
        self._open()

    def _open(self) -> None:
        path = f"{self._prefix}.{self.index}"
        self._fd, self._size, self._mid_line = -1, 0, False
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            self._size = os.fstat(self._fd).st_size
            self._mid_line = self._size > 0 and os.pread(self._fd, 1, self._size - 1) != b"\n"
        except OSError:
            # Without a file the output is dropped and counted by ``_append``.
            pass
        for index in self._indexes():
            if index <= self.index - self._max_files:
                try:
                    os.unlink(f"{self._prefix}.{index}")
                except OSError:
                    continue

    def _indexes(self) -> list[int]:
        directory, _, start = self._prefix.rpartition("/")
        try:
            names = os.listdir(directory)
        except OSError:
            return []
        ends = [name[len(start) + 1 :] for name in names if name.startswith(start + ".")]
        return sorted(int(end) for end in ends if end.isdecimal())


def _cut(data: bytes, size: int, limit: int, mid_line: bool) -> int:
    """How many bytes of ``data`` still belong into a file that has ``size`` bytes; 0 means that the file is full."""
    room = limit - size
    if len(data) <= room:
        return len(data)
    if room > 0:
        line_end = data.rfind(b"\n", 0, room) + 1
        if line_end:
            return line_end
    if size and not mid_line:
        return 0
    slack_end = max(0, room + LINE_SLACK_BYTES)
    line_end = data.find(b"\n", max(room, 0), slack_end) + 1
    return line_end or min(len(data), slack_end)
