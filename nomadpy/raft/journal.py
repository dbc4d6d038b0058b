"""The log of a single server, on disk: nothing that was acknowledged is lost when the process or the machine dies.

One append-only file of records: length u32, CRC32 u32 of what follows it, index u64, place in its batch u32
(little-endian), data. Everything that is proposed while a sync is under way shares the next one (group commit): that is
a batch. Entries are applied and answered after the sync.

At start the file is read to its end. A bad record and what follows it was never acknowledged when all of it can belong
to one batch, the last; it is dropped. When a record of a later batch follows, the bad one had been synced, so the disk
lost data, and then the server refuses to start. After a failed write or sync nothing more is accepted, because what the
disk holds is then unknown.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import struct
import time
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import trio

from nomadpy.model.errors import Bug, NoLeader, NomadError, OutcomeUnknown, TimedOut
from nomadpy.raft.contract import Apply, Leadership, LogStatistics

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<IIQI")
_CHECKED = struct.Struct("<QI")  # the part of the header that the checksum covers; a wrong length shows in the data
_MAGIC = b"nomadpy journal 2\n"
ENTRY_BYTES_MAX = 64 << 20
_BATCH_BYTES_MAX = 8 << 20
_NOT_HERE = "the log is not running"


class JournalCorrupt(NomadError):
    """The journal holds a bad record that is not simply its cut-off end."""

    code = "journal-corrupt"


class _Proposal:
    __slots__ = ("abandoned", "data", "done", "error", "result", "written")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.done = trio.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.written = False
        self.abandoned = False


class JournalLog:
    """A log in one file under ``directory``. Only one process may hold it at a time."""

    def __init__(self, directory: Path, apply: Apply) -> None:
        self._path = directory / "journal"
        self._directory = directory
        self._apply = apply
        self._index = 0
        self._fd = -1
        self._send, self._receive = trio.open_memory_channel[_Proposal](4096)
        self._broken: str = ""
        self._ready = False
        self._syncs = self._written = 0
        self._sync_ms = 0.0

    @property
    def is_leader(self) -> bool:
        """Once the journal was read, unless the disk failed."""
        return self._ready and not self._broken

    @property
    def leadership(self) -> Leadership:
        """This server's, once the journal was read."""
        return Leadership(leader="journal", leading=True, term=1) if self._ready else Leadership()

    async def leadership_changed(self, seen: Leadership) -> Leadership:
        """It never changes while the journal works."""
        if seen == self.leadership:
            await trio.sleep_forever()
        return self.leadership

    async def read_index(self, *, timeout_s: float = 10.0) -> int:
        """Everything proposed is applied before it is answered."""
        await trio.lowlevel.checkpoint()
        return self._index

    @property
    def durable(self) -> bool:
        """Always: every entry is synced before it counts."""
        return True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads the journal, applying each entry, then writes what is proposed. Raises JournalCorrupt, NomadError when
        another process holds the journal, and whatever ``apply`` raises."""
        self._open()
        try:
            for index, data in self._replay():
                self._apply(index, data)
                self._index = index
            self._ready = True
            task_status.started()
            async for first in self._receive:
                await self._commit(self._gather(first))
        finally:
            self._ready = False
            self._refuse_waiting()
            os.close(self._fd)

    async def propose(self, data: bytes, *, timeout_s: float = 10.0) -> Any:
        """Writes and syncs the entry, applies it, and returns what ``apply`` said."""
        if len(data) > ENTRY_BYTES_MAX:
            raise Bug(f"a log entry of {len(data)} bytes is larger than {ENTRY_BYTES_MAX}")
        if not self.is_leader:
            raise NoLeader(self._broken or _NOT_HERE)
        proposal = _Proposal(data)
        try:
            with trio.move_on_after(timeout_s):
                await self._send.send(proposal)
                await proposal.done.wait()
        finally:
            proposal.abandoned = True
        if not proposal.done.is_set():
            if proposal.written:
                raise OutcomeUnknown("the entry was written, but its outcome is not known yet")
            raise TimedOut(f"the log took no entry within {timeout_s} s; nothing was changed")
        if proposal.error is not None:
            raise proposal.error
        return proposal.result

    def statistics(self) -> LogStatistics:
        """How the journal is doing."""
        return LogStatistics(
            kind="journal",
            last_index=self._index,
            applied_index=self._index,
            term=1,
            entries_written=self._written,
            syncs=self._syncs,
            fsync_ms_last=self._sync_ms,
        )

    # --- the file --------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        new = not self._directory.exists()
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(self._path, self._fd)
            # A shorter file is one whose creation was interrupted: nothing can have been stored in it yet.
            if os.fstat(self._fd).st_size < len(_MAGIC) and _MAGIC.startswith(self._path.read_bytes()):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, _MAGIC, 0)
                os.fsync(self._fd)
                _sync_directory(self._directory)
                if new:
                    _sync_directory(self._directory.parent)
        except BaseException:
            os.close(self._fd)
            raise

    def _replay(self) -> Iterator[tuple[int, bytes]]:
        at = yield from _entries(self._path, self._fd)
        if at < os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, at)
            os.fsync(self._fd)

    # --- writing ---------------------------------------------------------------------------------------------------

    def _gather(self, first: _Proposal) -> list[_Proposal]:
        batch, size = [first], len(first.data)
        while size < _BATCH_BYTES_MAX:
            try:
                batch.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                break
            size += len(batch[-1].data)
        return [proposal for proposal in batch if not proposal.abandoned]

    async def _commit(self, batch: list[_Proposal]) -> None:
        if not batch:
            return
        if self._broken:
            _fail(batch, NoLeader, self._broken)
            return
        frames = []
        for place, proposal in enumerate(batch):
            proposal.written = True
            frames.append(_record(self._index + 1 + place, place, proposal.data))
        try:
            with trio.CancelScope(shield=True):
                await self._write(b"".join(frames))
        except OSError as error:
            self._broken = f"the journal cannot be written any more: {error}"
            _fail(batch, OutcomeUnknown, self._broken)
            return
        for place, proposal in enumerate(batch):
            try:
                proposal.result = self._apply(self._index + 1, proposal.data)
            except BaseException:
                self._broken = f"entry {self._index + 1} could not be applied"
                _fail(batch[place:], OutcomeUnknown, self._broken)
                raise
            self._index += 1
            self._written += 1
            proposal.done.set()

    def _refuse_waiting(self) -> None:
        """Answers those whose entries will not be written any more."""
        while True:
            try:
                _fail([self._receive.receive_nowait()], NoLeader, self._broken or _NOT_HERE)
            except trio.WouldBlock:
                return

    async def _write(self, data: bytes) -> None:
        started = time.perf_counter()
        os.lseek(self._fd, 0, os.SEEK_END)
        if self._sync_ms < 0.5 and len(data) < 1 << 20:
            _write_all(self._fd, data)
        else:
            await trio.to_thread.run_sync(_write_all, self._fd, data)
        self._sync_ms = (time.perf_counter() - started) * 1000
        self._syncs += 1


@contextlib.contextmanager
def open_journal(path: Path) -> Iterator[Iterator[tuple[int, bytes]]]:
    """The entries of a journal with their indexes, oldest first; nothing is changed, and nobody else may use the file
    meanwhile. The iterator raises JournalCorrupt. Raises NomadError when an agent uses it, OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(path, fd)
        yield _entries(path, fd)
    finally:
        os.close(fd)


def _lock(path: Path, fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise NomadError(f"{path} is in use by another agent") from error


def _entries(path: Path, fd: int) -> Generator[tuple[int, bytes], None, int]:
    """The entries; in the end, how many bytes of the file are good."""
    head = os.pread(fd, len(_MAGIC), 0)
    if len(head) < len(_MAGIC) and _MAGIC.startswith(head):
        return len(head)  # its creation was interrupted
    if head != _MAGIC:
        raise JournalCorrupt(f"{path} is not a journal of this version of nomadpy")
    last = 0
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as data:
        at = len(_MAGIC)
        while at < len(data):
            record = _record_at(data, at)
            if record is None:
                _check_tail(path, data, at, last)
                fields = {"path": str(path), "after_index": last, "byte": at}
                log.warning("journal.unfinished_batch_dropped", extra={"fields": fields})
                break
            index, body, _, at = record
            if index != last + 1:
                raise JournalCorrupt(f"{path}: entry {index} follows entry {last}")
            yield index, body
            last = index
    return at


def _check_tail(path: Path, data: mmap.mmap, at: int, last: int) -> None:
    if _holds_a_later_batch(data, at, last + 1):
        raise JournalCorrupt(
            f"{path}: the record after entry {last} (byte {at}) is damaged and good records follow; restore the file "
            "from a backup"
        )


def _fail(batch: list[_Proposal], kind: type[NomadError], message: str) -> None:
    for proposal in batch:
        proposal.error = kind(message)
        proposal.done.set()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.fdatasync(fd)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _checksum(index: int, place: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(_CHECKED.pack(index, place)))


def _record(index: int, place: int, body: bytes) -> bytes:
    return _HEADER.pack(len(body), _checksum(index, place, body), index, place) + body


def _record_at(data: mmap.mmap, at: int) -> tuple[int, bytes, int, int] | None:
    """(index, data, place in its batch, where the next one begins), or None when there is no good record."""
    if at + _HEADER.size > len(data):
        return None
    length, checksum, index, place = _HEADER.unpack_from(data, at)
    end = at + _HEADER.size + length
    if length > ENTRY_BYTES_MAX or end > len(data):
        return None
    body = data[at + _HEADER.size : end]
    return (index, body, place, end) if _checksum(index, place, body) == checksum else None


def _holds_a_later_batch(data: mmap.mmap, at: int, bad: int) -> bool:
    """Whether a good record of a later batch lies behind the bad one, which has index ``bad``."""
    for start in _plausible(data, at + 1, bad):
        record = _record_at(data, start)
        if record is not None and record[0] - record[2] > bad:
            return True
    return False


def _plausible(data: mmap.mmap, begin: int, bad: int) -> Iterator[int]:
    """Where records with an index not far above ``bad`` might begin; every byte position is looked at."""
    index_at = begin + 8  # behind length and checksum
    for shift in range(8):
        usable = (len(data) - index_at - shift) // 8 * 8
        if usable <= 0:
            continue
        words = np.frombuffer(data[index_at + shift : index_at + shift + usable], dtype="<u8")
        for found in np.flatnonzero((words > bad) & (words < bad + 100_000_000)):
            yield begin + shift + 8 * int(found)
