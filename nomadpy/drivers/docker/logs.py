"""Copies what a container writes into the allocation's log files, ``<task>.<stdout|stderr>.<index>``.

Position. Beside the logs lies a small record: for each stream the timestamp that the engine gave to the last message
copied and how many messages of that timestamp were copied, and how long each log file then was. A later agent cuts the
files back to those lengths and asks the engine for what came since. So nothing is lost or doubled, even when the
earlier agent was killed between writing a message and noting it, as long as the engine still holds the messages. The
streams have a timestamp each because the engine stamps them apart: a message of one may come after a later one of the
other.

Rotation follows Nomad: a file takes ``max_file_size_mb``, lines are kept whole where they are at most 32 KiB, and the
oldest of more than ``max_files`` go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

STDOUT, STDERR = "stdout", "stderr"
_STREAM_BY_BYTE = {0: STDOUT, 1: STDOUT, 2: STDERR}
MAX_WHOLE_LINE = 32 * 1024
_RECORD_BYTES = 1024
# The engine splits what a container writes into messages of at most this many bytes.
MESSAGE_BYTES = 16 * 1024
# How much later than a younger message of the other stream a message may come.
REORDERING_S = 1
# How far back the engine may go when it tells messages again.
REPEATING_S = 60


class RotatingFile:
    """The newest log file of one stream of one task."""

    def __init__(self, directory: str, prefix: str, *, max_bytes: int, max_files: int) -> None:
        self._directory, self._prefix = directory, prefix
        self._max_bytes, self._max_files = max(1, max_bytes), max(1, max_files)
        self.index = max(self.indexes(), default=0)
        self._open()

    def indexes(self) -> list[int]:
        """The indexes of the files that are there, oldest first."""
        pattern = re.compile(re.escape(self._prefix) + r"\.(\d+)\Z")
        found = (pattern.match(name) for name in os.listdir(self._directory))
        return sorted(int(match[1]) for match in found if match)

    def path(self, index: int) -> str:
        """Where the file with this index lies."""
        return os.path.join(self._directory, f"{self._prefix}.{index}")

    def _open(self) -> None:
        self._file = os.open(self.path(self.index), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.size = os.fstat(self._file).st_size
        self._at_line_start = True

    def close(self) -> None:
        os.close(self._file)

    def cut_back(self, index: int, size: int) -> None:
        """Undoes what was written after a noted position. Nothing happens when the files are gone meanwhile."""
        if index not in self.indexes():
            return
        for later in (number for number in self.indexes() if number > index):
            os.unlink(self.path(later))
        self.close()
        self.index = index
        self._open()
        if self.size > size:
            os.truncate(self.path(index), size)
            self.size = size

    def write(self, data: bytes) -> None:
        """Appends, going on to the next file where this one is full. Raises OSError."""
        while data:
            part = self._part_that_fits(data)
            if not part:
                self._rotate()
                continue
            self._write_all(part)
            data = data[len(part) :]

    def _write_all(self, part: bytes) -> None:
        written = 0
        while written < len(part):
            written += os.write(self._file, part[written:])
        self.size += len(part)
        self._at_line_start = part.endswith(b"\n")

    def _part_that_fits(self, data: bytes) -> bytes:
        room = self._max_bytes - self.size
        if len(data) <= room:
            return data
        if room > 0 and (end := data.rfind(b"\n", 0, room)) >= 0:
            return data[: end + 1]
        if self.size == 0 or not self._at_line_start:
            # A line has begun here: keep it whole when it is short, else cut it where the file ends.
            end = data.find(b"\n", 0, MAX_WHOLE_LINE)
            return data[: end + 1] if end >= 0 else data[: max(room, 0)]
        return b""

    def _rotate(self) -> None:
        self.close()
        self.index += 1
        self._open()
        for old in self.indexes()[: -self._max_files]:
            with suppress(FileNotFoundError):
                os.unlink(self.path(old))


class StreamPosition(msgspec.Struct, frozen=True, kw_only=True):
    """The last message copied of one stream, and the log file as it then was."""

    timestamp: str = ""
    n_at_timestamp: int = 0
    index: int = 0
    size: int = 0


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """What of a container's output has been copied."""

    container_id: str = ""
    streams: dict[str, StreamPosition] = {}


class PositionFile:
    """The durable record of a position; one write of fixed size replaces it."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> Position:
        """The noted position; an empty one when there is none."""
        try:
            return msgspec.json.decode(os.pread(self._file, _RECORD_BYTES, 0), type=Position)
        except msgspec.DecodeError:
            return Position()

    def write(self, position: Position) -> None:
        os.pwrite(self._file, msgspec.json.encode(position).ljust(_RECORD_BYTES), 0)

    def close(self) -> None:
        os.close(self._file)


class Demultiplexer:
    """Splits the engine's log stream into (stream, timestamp, data) messages. No I/O: bytes in, messages out.

    Without a terminal each message is framed by eight bytes: the stream, three zeroes, the length. With a terminal
    there are no frames: a message ends with its line, or after ``MESSAGE_BYTES``.
    """

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[str, str, bytes]]:
        """The messages that ``data`` completes."""
        self._buffer += data
        return self._lines() if self._tty else self._frames()

    def _frames(self) -> Iterator[tuple[str, str, bytes]]:
        data, at = bytes(self._buffer), 0
        self._buffer.clear()
        while len(data) - at >= 8:
            end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "big")
            if len(data) < end:
                break
            space = data.find(b" ", at + 8, end)
            yield _STREAM_BY_BYTE.get(data[at], STDOUT), data[at + 8 : space].decode("latin-1"), data[space + 1 : end]
            at = end
        self._buffer += data[at:]

    def _lines(self) -> Iterator[tuple[str, str, bytes]]:
        buffer, at = self._buffer, 0
        while True:
            space = buffer.find(b" ", at)
            if space < 0:
                break
            line_end = buffer.find(b"\n", space, space + 1 + MESSAGE_BYTES)
            end = line_end + 1 if line_end >= 0 else space + 1 + MESSAGE_BYTES
            if len(buffer) < end:
                break
            yield STDOUT, bytes(buffer[at:space]).decode(errors="replace"), bytes(buffer[space + 1 : end])
            at = end
        del buffer[:at]

    def rest(self) -> Iterator[tuple[str, str, bytes]]:
        """What is left at the end of a terminal's output: a last line without its end."""
        if self._tty and b" " in self._buffer:
            stamp, _, message = bytes(self._buffer).partition(b" ")
            self._buffer.clear()
            yield STDOUT, stamp.decode(errors="replace"), message


class _Stream:
    """One stream's file, and its last message. While the engine repeats what was already copied it is ``resuming``."""

    def __init__(self, file: RotatingFile) -> None:
        self.file = file
        self.timestamp = ""
        self.n_at_timestamp = 0
        self.pending: list[bytes] = []
        self.resuming = False
        self._to_skip = 0

    def resume(self) -> None:
        self.resuming, self._to_skip = bool(self.timestamp), self.n_at_timestamp

    def take(self, timestamp: str, data: bytes) -> bool:
        """Whether the message is new; it is then pending."""
        if timestamp < self.timestamp and not self.resuming and self._repeats(timestamp):
            self.resume()
        if self.resuming:
            if timestamp < self.timestamp:
                return False
            if timestamp == self.timestamp and self._to_skip > 0:
                self._to_skip -= 1
                return False
            self.resuming = False
        self.n_at_timestamp = self.n_at_timestamp + 1 if timestamp == self.timestamp else 1
        self.timestamp = timestamp
        self.pending.append(data)
        return True

    def _repeats(self, timestamp: str) -> bool:
        """Whether a message older than the last is one the engine tells again, as it does when its files are rotated
        while it follows them. A step further back than that is the host's clock being set."""
        return _unix_time(self.timestamp) - _unix_time(timestamp) < REPEATING_S * 10**9

    def flush(self) -> None:
        data = b"".join(self.pending)
        self.pending.clear()
        self.file.write(data)


class LogFiles:
    """The two log files of a task and the position of its container in them."""

    def __init__(
        self, *, logs_dir: str, task_name: str, record_path: str, container_id: str, max_bytes: int, max_files: int
    ) -> None:
        self._streams = {
            name: _Stream(RotatingFile(logs_dir, f"{task_name}.{name}", max_bytes=max_bytes, max_files=max_files))
            for name in (STDOUT, STDERR)
        }
        self._record = PositionFile(record_path)
        self._container_id = container_id
        noted = self._record.read()
        if noted.container_id == container_id:
            for name, position in noted.streams.items():
                stream = self._streams[name]
                stream.timestamp, stream.n_at_timestamp = position.timestamp, position.n_at_timestamp
                stream.file.cut_back(position.index, position.size)
        else:
            self._note()

    def resume(self) -> str:
        """From when on to ask the engine, as ``seconds.nanoseconds``; "" for everything. Called before each (re-)read:
        what the engine then repeats is passed over."""
        for stream in self._streams.values():
            stream.resume()
        newest = max(stream.timestamp for stream in self._streams.values())
        if not newest:
            return ""
        earliest_late = _unix_time(newest) - REORDERING_S * 10**9
        since_ns = min(
            max(_unix_time(stream.timestamp), earliest_late) if stream.timestamp else earliest_late
            for stream in self._streams.values()
        )
        return f"{since_ns // 10**9}.{since_ns % 10**9:09d}"

    def write(self, messages: Iterator[tuple[str, str, bytes]]) -> int:
        """Writes the messages that are new and notes the position; how many there were. Raises OSError."""
        n_new = sum(self._streams[name].take(timestamp, data) for name, timestamp, data in messages)
        if n_new:
            for stream in self._streams.values():
                stream.flush()
            self._note()
        return n_new

    def _note(self) -> None:
        streams = {
            name: StreamPosition(
                timestamp=stream.timestamp,
                n_at_timestamp=stream.n_at_timestamp,
                index=stream.file.index,
                size=stream.file.size,
            )
            for name, stream in self._streams.items()
        }
        self._record.write(Position(container_id=self._container_id, streams=streams))

    def close(self) -> None:
        for stream in self._streams.values():
            stream.file.close()
        self._record.close()


def _unix_time(text: str) -> int:
    """The engine's RFC 3339 time in nanoseconds since 1970.

    >>> _unix_time("1970-01-01T00:01:00.5Z")
    60500000000
    """
    whole, _, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * 10**9 + int(fraction.ljust(9, "0")[:9])
