"""Snapshots: the state machine's state after one entry, as a file and as parts on the wire.

A file is written under a temporary name, synced, renamed, and its folder synced; only then may the log forget entries.
It holds a magic, the length and checksum of a header, the header (position, voters, size and checksum of the state),
and the state. Its name carries its index, so a slow save can never replace a newer one. A newest file that does not
check out is an error at start: without it entries are missing, and an empty state must not pass for the real one.

A transfer is a few parts at a time; the receiver answers how far it got, so a part that is lost or comes twice does no
harm. The checksum of the whole is compared before anything is installed. A receiver may write the parts while more of
them arrive (``SnapshotWriter``): the file counts for nothing before it is finished.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable

import msgspec

from nomadpy.model.errors import Bug, NomadError
from nomadpy.raft.disk import Directory, File
from nomadpy.raft.messages import SnapshotChunk, SnapshotSeen

_MAGIC = b"nomadpy snapshot 1\n"
_LENGTHS = struct.Struct("<II")
_SUFFIX, _TEMPORARY = ".snapshot", ".partial"
_HEADER_BYTES_MAX = 1 << 20
_SYNC_BYTES = 32 << 20


class SnapshotCorrupt(NomadError):
    """The newest snapshot cannot be read. The server must not start; restore it or let it join anew."""

    code = "snapshot-corrupt"


class SnapshotPoint(msgspec.Struct, frozen=True):
    """Where in the log a state stands, and who votes there."""

    index: int
    term: int
    voters: tuple[str, ...]


class SnapshotMeta(msgspec.Struct, frozen=True):
    """A stored snapshot."""

    point: SnapshotPoint
    size: int
    checksum: int


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot with its state."""

    point: SnapshotPoint
    data: bytes


class StoredSnapshot:
    """A snapshot's file, open for reading; removing its name does not disturb who reads it. Whoever keeps it calls
    ``retain`` and, in the end, ``release``; who makes it, only the latter."""

    def __init__(self, meta: SnapshotMeta, name: str, file: File, data_at: int) -> None:
        self.meta, self.name = meta, name
        self._file, self._data_at = file, data_at
        self._users = 1

    def retain(self) -> StoredSnapshot:
        """Keeps the file open for one more user."""
        self._users += 1
        return self

    def release(self) -> None:
        """One user less; closes the file after the last one."""
        self._users -= 1
        if self._users == 0:
            self._file.close()

    def read(self, offset: int, size: int) -> bytes:
        """A part of the state."""
        return self._file.read_at(self._data_at + offset, max(0, min(size, self.meta.size - offset)))


class SnapshotStore:
    """The snapshots of one server in a folder of their own. Keeps the newest one."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._newest: StoredSnapshot | None = None
        kept = [name for name in directory.names() if name.endswith(_SUFFIX)]
        if kept:
            self._newest = self._open(kept[-1])
        for name in directory.names():
            if name.endswith(_TEMPORARY) or name in kept[:-1]:
                directory.remove(name)

    @property
    def newest(self) -> SnapshotMeta | None:
        """The newest snapshot, None when there is none."""
        return self._newest.meta if self._newest is not None else None

    def save(self, snapshot: Snapshot) -> None:
        """Stores a snapshot durably, then forgets older ones. Raises OSError; those so far are then still there."""
        self.adopt(self.write(snapshot))

    def write(self, snapshot: Snapshot) -> StoredSnapshot:
        """The part of ``save`` that blocks; it may run in a worker thread. Raises OSError."""
        meta = SnapshotMeta(snapshot.point, len(snapshot.data), zlib.crc32(snapshot.data))
        writer = SnapshotWriter(self._directory, meta, f"{snapshot.point.index:020d}")
        try:
            writer.append(snapshot.data)
            return writer.finish()
        except OSError:
            writer.abandon()
            raise

    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Begins the file of a snapshot of which no part is here yet; it may be done in a worker thread, also while
        another snapshot is written. Raises OSError."""
        return SnapshotWriter(self._directory, meta, f"{meta.point.index:020d}.arriving")

    def adopt(self, stored: StoredSnapshot) -> None:
        """What was written is the newest one from now on, unless a newer one came meanwhile."""
        older, self._newest = self._newest, stored
        if older is not None and older.meta.point.index > stored.meta.point.index:
            older, self._newest = stored, older
        if older is not None:
            older.release()
            if older.name != self._newest.name:
                self._directory.remove(older.name)

    def open_newest(self) -> StoredSnapshot:
        """The newest snapshot for reading, to be released. Raises Bug when there is none."""
        if self._newest is None:
            raise Bug("there is no snapshot to read")
        return self._newest.retain()

    def close(self) -> None:
        """Lets go of the newest snapshot's file."""
        if self._newest is not None:
            self._newest.release()
            self._newest = None

    def load(self) -> Snapshot | None:
        """The newest snapshot, None when there is none. Raises SnapshotCorrupt when its state does not check out."""
        if self._newest is None:
            return None
        meta = self._newest.meta
        data = self._newest.read(0, meta.size)
        if len(data) != meta.size or zlib.crc32(data) != meta.checksum:
            raise SnapshotCorrupt(
                f"the state in the snapshot at entry {meta.point.index} is damaged; restore this server's data or let "
                "it join anew with an empty directory"
            )
        return Snapshot(meta.point, data)

    def _open(self, name: str) -> StoredSnapshot:
        file = self._directory.open(name)
        try:
            meta, data_at = read_meta(file.read_at, name)
        except SnapshotCorrupt:
            file.close()
            raise
        return StoredSnapshot(meta, name, file, data_at)


class SnapshotWriter:
    """The file of a snapshot that is being written, by one thread at a time. Whatever it does may raise OSError."""

    def __init__(self, directory: Directory, meta: SnapshotMeta, name: str) -> None:
        self.meta = meta
        self._directory, self._temporary = directory, name + _TEMPORARY
        header = msgspec.msgpack.encode(meta)
        prefix = _MAGIC + _LENGTHS.pack(len(header), zlib.crc32(header)) + header
        self._data_at = len(prefix)
        self._size = self._checksum = self._unsynced = 0
        self._file = directory.open(self._temporary)
        try:
            self._file.truncate(0)
            self._file.append(prefix)
        except OSError:
            self._file.close()
            raise

    def append(self, data: bytes) -> None:
        """Adds a part. What was written is synced now and then, so that little is left to do in the end."""
        self._file.append(data)
        self._checksum = zlib.crc32(data, self._checksum)
        self._size += len(data)
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_BYTES:
            self._unsynced = 0
            self._file.sync()

    def checks_out(self) -> bool:
        """Whether everything is here, and undamaged."""
        return (self._size, self._checksum) == (self.meta.size, self.meta.checksum)

    def read(self) -> bytes:
        """The state, as far as it was written."""
        return self._file.read_at(self._data_at, self._size)

    def finish(self) -> StoredSnapshot:
        """Makes it durable under its name."""
        if not self.checks_out():
            raise Bug(f"the snapshot at entry {self.meta.point.index} was to be stored before all of it was here")
        name = f"{self.meta.point.index:020d}{_SUFFIX}"
        self._file.sync()
        self._directory.rename(self._temporary, name)
        self._temporary = ""
        self._directory.sync()
        return StoredSnapshot(self.meta, name, self._file, self._data_at)

    def abandon(self) -> None:
        """Lets go of a file that is not finished, and removes it. If that fails the next start does."""
        self._file.close()
        if self._temporary:
            with contextlib.suppress(OSError):
                self._directory.remove(self._temporary)


def read_meta(read_at: Callable[[int, int], bytes], name: str) -> tuple[SnapshotMeta, int]:
    """What a snapshot's file says of itself, and where the state begins in it. Raises SnapshotCorrupt."""
    head_bytes = len(_MAGIC) + _LENGTHS.size
    head = read_at(0, head_bytes)
    length, checksum = _LENGTHS.unpack_from(head, len(_MAGIC)) if len(head) == head_bytes else (0, 1)
    header = read_at(head_bytes, min(length, _HEADER_BYTES_MAX))
    if not head.startswith(_MAGIC) or len(header) != length or zlib.crc32(header) != checksum:
        raise SnapshotCorrupt(f"{name} has no good header; restore this server's data or let it join anew")
    return msgspec.msgpack.decode(header, type=SnapshotMeta), head_bytes + length


class OutgoingSnapshot:
    """A snapshot on its way to one server. It goes on with the one it began with when a newer one is taken meanwhile;
    a slow link would else never see the end of any. At most ``chunks_under_way`` parts are on their way at once."""

    def __init__(self, stored: StoredSnapshot, *, chunk_bytes: int, chunks_under_way: int, retry_s: float) -> None:
        self._stored, self._chunk_bytes, self._retry_s = stored, chunk_bytes, retry_s
        self._window_bytes = chunk_bytes * chunks_under_way
        # Up to where parts were sent, and up to where they are known to have arrived.
        self._sent = self._arrived = 0
        self._progress_at = float("-inf")

    @property
    def index(self) -> int:
        """Where the receiver will stand."""
        return self._stored.meta.point.index

    def due(self, now: float) -> bool:
        """Whether a part has to be sent: some are left and few are under way, or answers are overdue."""
        room = self._sent < min(self._stored.meta.size, self._arrived + self._window_bytes)
        return room or self._is_overdue(now)

    def _is_overdue(self, now: float) -> bool:
        return now - self._progress_at >= self._retry_s

    def chunk(self, now: float, *, term: int, seq: int) -> SnapshotChunk:
        """The next part that the receiver lacks."""
        if self._is_overdue(now):
            self._sent, self._progress_at = self._arrived, now
        offset = self._sent
        data = self._stored.read(offset, self._chunk_bytes)
        self._sent += len(data)
        meta, point = self._stored.meta, self._stored.meta.point
        return SnapshotChunk(
            term=term,
            seq=seq,
            index=point.index,
            index_term=point.term,
            voters=point.voters,
            size=meta.size,
            checksum=meta.checksum,
            offset=offset,
            data=data,
        )

    def seen(self, answer: SnapshotSeen, now: float) -> None:
        """Notes how far the receiver got. One that knows less than before has begun anew."""
        meta = self._stored.meta
        if answer.index != meta.point.index or answer.offset == self._arrived:
            return
        before, self._arrived = self._arrived, min(answer.offset, meta.size)
        self._sent = max(self._sent, self._arrived) if self._arrived > before else self._arrived
        self._progress_at = now

    def close(self) -> None:
        """Lets go of the snapshot."""
        self._stored.release()


class IncomingSnapshot:
    """A snapshot that is arriving; ``offset`` is how much of it is here, or was."""

    def __init__(self, first: SnapshotChunk) -> None:
        self._key = _key(first)
        self.meta = SnapshotMeta(SnapshotPoint(first.index, first.index_term, first.voters), first.size, first.checksum)
        self._parts: list[bytes] = []
        self.offset = 0

    def belongs(self, chunk: SnapshotChunk) -> bool:
        """Whether a part is of this very snapshot. (The sender and its term may have changed meanwhile.)"""
        return _key(chunk) == self._key

    def take(self, chunk: SnapshotChunk) -> None:
        """Adds a part when it is the next one."""
        if chunk.offset == self.offset:
            self._parts.append(chunk.data)
            self.offset += len(chunk.data)

    @property
    def complete(self) -> bool:
        """Whether all of it arrived."""
        return self.offset >= self.meta.size

    def hand_out(self) -> list[bytes]:
        """The parts that came since the last call; they are no longer here then."""
        parts, self._parts = self._parts, []
        return parts

    def snapshot(self) -> Snapshot | None:
        """The snapshot whose parts are all here, None when its checksum is wrong."""
        data = b"".join(self._parts)
        return Snapshot(self.meta.point, data) if zlib.crc32(data) == self.meta.checksum else None


def _key(chunk: SnapshotChunk) -> tuple[object, ...]:
    return (chunk.index, chunk.index_term, chunk.voters, chunk.size, chunk.checksum)
