"""The bytes of the write-ahead log, and what they mean when they are read back.

A *segment* is a file: a header (magic, the log's random id, the number of its first batch, checksum), then *batches*.
One batch holds everything that one sync made durable: a header (magic, length, batch number, checksum of the body,
checksum of the header) and a body of records. A batch counts as a whole or not at all.

Batch n + 1 is only written after batch n was synced. Hence a bad batch with a good, later one behind it was durable
once, so the disk has lost data: that is corruption and a server must not start on it. A bad batch with nothing good
behind it is a write that was cut off; nobody was told of it, and it is dropped. (Rot inside the very last batch cannot
be told from a cut-off write.) Checksums are CRC-32, seeded with the log's id, so that a log stored inside an entry
cannot be taken for the log itself.
"""

from __future__ import annotations

import enum
import struct
import zlib

from nomadpy.model.errors import NomadError
from nomadpy.raft.entries import CONFIGURATION, FIRST_INDEX, Entry

_FILE_HEADER = struct.Struct("<12s16sQI")
_BATCH_HEADER = struct.Struct("<4sIQII")
_RECORD = struct.Struct("<BQQI")
_FILE_MAGIC = b"nomadpy-wal1"
_BATCH_MAGIC = b"\xf5NpB"
FILE_HEADER_BYTES = _FILE_HEADER.size
BATCH_HEADER_BYTES = _BATCH_HEADER.size
RECORD_BYTES = _RECORD.size
BATCH_BYTES_MAX = 1 << 30
LOG_ID_BYTES = 16


class Kind(enum.IntEnum):
    """Kinds of records; the numbers are on disk."""

    ENTRY = 1
    TRUNCATE = 2
    STATE = 3
    COMMIT = 4
    FIRST = 5
    RESET = 6


class WalCorrupt(NomadError):
    """The log on disk lost data that was once durable. The server must not start; restore it or let it join anew."""

    code = "wal-corrupt"


def segment_header(log_id: bytes, first_batch: int) -> bytes:
    """The beginning of a segment file."""
    body = _FILE_HEADER.pack(_FILE_MAGIC, log_id, first_batch, 0)[:-4]
    return body + struct.pack("<I", zlib.crc32(body))


def parse_segment_header(data: bytes) -> tuple[bytes, int] | None:
    """(log id, number of the first batch), or None when the header is bad."""
    if len(data) < FILE_HEADER_BYTES:
        return None
    magic, log_id, first_batch, checksum = _FILE_HEADER.unpack_from(data)
    if magic != _FILE_MAGIC or zlib.crc32(data[: FILE_HEADER_BYTES - 4]) != checksum:
        return None
    return log_id, first_batch


def record(kind: Kind, index: int, term: int = 0, data: bytes = b"") -> bytes:
    """One record of a batch."""
    return _RECORD.pack(kind, index, term, len(data)) + data


def batch_header(body: bytes, number: int, log_id: bytes) -> bytes:
    """What stands before ``body`` on disk."""
    seed = zlib.crc32(log_id)
    fields = _BATCH_HEADER.pack(_BATCH_MAGIC, len(body), number, zlib.crc32(body, seed), 0)[:-4]
    return fields + struct.pack("<I", zlib.crc32(fields, seed))


class SegmentReader:
    """Cuts the bytes of one segment into the bodies of its batches and tells a torn end from lost data."""

    def __init__(self, name: str, data: bytes, *, log_id: bytes, first_batch: int) -> None:
        self._name, self._data = name, data
        self._seed = zlib.crc32(log_id)
        self._number = first_batch
        self.good_bytes = FILE_HEADER_BYTES

    @property
    def next_batch(self) -> int:
        """The number that the next batch has to have."""
        return self._number

    def next_body(self) -> bytes | None:
        """The next batch's body, None at the end of what is whole. Raises WalCorrupt."""
        if self.good_bytes == len(self._data):
            return None
        length = self._header_at(self.good_bytes, exactly=self._number)
        if length is not None:
            start = self.good_bytes + BATCH_HEADER_BYTES
            body = self._data[start : start + length]
            if len(body) == length and self._body_checksum(self.good_bytes) == zlib.crc32(body, self._seed):
                self.good_bytes = start + length
                self._number += 1
                return body
        self._refuse_if_more_follows()
        return None

    def _header_at(self, at: int, *, exactly: int | None = None) -> int | None:
        """The length of the body whose header is at ``at``, or None when no good header of a later batch is there."""
        if at + BATCH_HEADER_BYTES > len(self._data):
            return None
        magic, length, number, _, checksum = _BATCH_HEADER.unpack_from(self._data, at)
        fields = self._data[at : at + BATCH_HEADER_BYTES - 4]
        if magic != _BATCH_MAGIC or length > BATCH_BYTES_MAX or zlib.crc32(fields, self._seed) != checksum:
            return None
        if number != exactly if exactly is not None else number <= self._number:
            return None
        return int(length)

    def _body_checksum(self, at: int) -> int:
        return int(_BATCH_HEADER.unpack_from(self._data, at)[3])

    def _refuse_if_more_follows(self) -> None:
        at = self._data.find(_BATCH_MAGIC, self.good_bytes)
        while at >= 0:
            if self._header_at(at) is not None:
                raise WalCorrupt(
                    f"{self._name}: batch {self._number} at byte {self.good_bytes} is damaged although later ones "
                    f"follow (byte {at}); restore this server's data or let it join anew with an empty directory"
                )
            at = self._data.find(_BATCH_MAGIC, at + 1)


class LogImage:
    """The log as it stands in memory: entries, hard state, commit hint. Records change it, on disk as here."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.first = 0
        self.term = 0
        self.voted_for: str | None = None
        self.commit_hint = FIRST_INDEX
        self.configurations: list[Entry] = []

    @property
    def last(self) -> int:
        """The newest index, 0 when there is none."""
        return self.entries[-1][1] if self.entries else 0

    def add(self, entry: Entry) -> None:
        """Appends; the index must follow the newest one. Raises WalCorrupt."""
        if self.entries and entry[1] != self.last + 1:
            raise WalCorrupt(f"entry {entry[1]} follows entry {self.last} in the log")
        self.entries.append(entry)
        if entry[0][:1] == CONFIGURATION:
            self.configurations.append(entry)

    def truncate(self, index: int) -> None:
        """Removes ``index`` and everything newer."""
        if self.entries:
            del self.entries[max(0, index - self.entries[0][1]) :]
        while self.configurations and self.configurations[-1][1] >= index:
            self.configurations.pop()

    def drop_before(self, index: int) -> None:
        """Forgets everything older than ``index``."""
        self.first = index
        if self.entries:
            del self.entries[: max(0, index - self.entries[0][1])]
        self.configurations = [entry for entry in self.configurations if entry[1] >= index]

    def replay(self, body: bytes) -> int:
        """Carries out the records of one batch; the highest index of an entry among them. Raises WalCorrupt."""
        at, highest = 0, 0
        while at < len(body):
            kind, index, term, length = _RECORD.unpack_from(body, at)
            data = body[at + RECORD_BYTES : at + RECORD_BYTES + length]
            at += RECORD_BYTES + length
            if kind == Kind.ENTRY:
                self.add((data, index, term))
                highest = max(highest, index)
            else:
                self._replay_other(kind, index, term, data)
        return highest

    def _replay_other(self, kind: int, index: int, term: int, data: bytes) -> None:
        match kind:
            case Kind.TRUNCATE:
                self.truncate(index)
            case Kind.STATE:
                self.term, self.voted_for = term, data.decode() or None
            case Kind.COMMIT:
                self.commit_hint = index
            case Kind.FIRST:
                self.drop_before(index)
            case Kind.RESET:
                self.truncate(0)
            case _:
                raise WalCorrupt(f"a record of the unknown kind {kind}; was it written by a newer version?")

    def check(self) -> None:
        """Raises WalCorrupt when the oldest entry is not the one that the log says it starts with."""
        if self.entries and self.entries[0][1] != self.first:
            raise WalCorrupt(f"the log starts at entry {self.entries[0][1]} instead of {self.first}; a file is missing")
