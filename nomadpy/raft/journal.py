"""The log of a single server, on disk: nothing that was acknowledged is lost when the process or the machine dies.

One append-only file of records: length u32, CRC32 of the data u32, index u64 (little-endian), data. Everything that is
proposed while a sync is under way shares the next one (group commit). Entries are applied and answered after the sync.

At start the file is read to its end. A record that is cut off at the very end was never acknowledged and is dropped; a
bad record with good ones after it means that the disk lost data, and then the server refuses to start. After a failed
write or sync nothing more is accepted, because what the disk holds is then unknown.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio

from nomadpy.model.errors import Bug, NomadError, OutcomeUnknown, TimedOut
from nomadpy.raft.contract import Apply, LogStatistics

_HEADER = struct.Struct("<IIQ")
_MAGIC = b"nomadpy journal 1\n"
ENTRY_BYTES_MAX = 64 << 20
_BATCH_BYTES_MAX = 8 << 20


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
    def durable(self) -> bool:
        """Always: every entry is synced before it counts."""
        return True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads the journal, applying each entry, then writes what is proposed."""
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
            os.close(self._fd)

    async def propose(self, data: bytes, *, timeout_s: float = 10.0) -> Any:
        """Writes and syncs the entry, applies it, and returns what ``apply`` said."""
        if len(data) > ENTRY_BYTES_MAX:
            raise Bug(f"a log entry of {len(data)} bytes is larger than {ENTRY_BYTES_MAX}")
        proposal = _Proposal(data)
        with trio.move_on_after(timeout_s):
            await self._send.send(proposal)
            await proposal.done.wait()
        if not proposal.done.is_set():
            proposal.abandoned = True
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
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise NomadError(f"{self._path} is in use by another agent") from error
        if os.fstat(self._fd).st_size == 0:
            os.write(self._fd, _MAGIC)
            os.fsync(self._fd)
            directory = os.open(self._directory, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)

    def _replay(self) -> Iterator[tuple[int, bytes]]:
        data = self._path.read_bytes()
        if not data.startswith(_MAGIC):
            raise JournalCorrupt(f"{self._path} is not a nomadpy journal")
        at = len(_MAGIC)
        while at < len(data):
            record = _record_at(data, at)
            if record is None:
                self._drop_tail(data, at)
                return
            index, body, at = record
            if index != self._index + 1:
                raise JournalCorrupt(f"{self._path}: entry {index} follows entry {self._index}")
            yield index, body

    def _drop_tail(self, data: bytes, at: int) -> None:
        if _holds_a_later_record(data, at, self._index + 1):
            raise JournalCorrupt(
                f"{self._path}: the record after entry {self._index} (byte {at}) is damaged and good records follow it; "
                "restore the file from a backup"
            )
        os.ftruncate(self._fd, at)
        os.fsync(self._fd)

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
        if self._broken:
            for proposal in batch:
                proposal.error = NomadError(self._broken)
                proposal.done.set()
            return
        frames = []
        for offset, proposal in enumerate(batch, 1):
            proposal.written = True
            frames.append(_HEADER.pack(len(proposal.data), zlib.crc32(proposal.data), self._index + offset))
            frames.append(proposal.data)
        try:
            with trio.CancelScope(shield=True):
                await self._write(b"".join(frames))
        except OSError as error:
            self._broken = f"the journal cannot be written any more: {error}"
            for proposal in batch:
                proposal.error = OutcomeUnknown(self._broken)
                proposal.done.set()
            return
        for proposal in batch:
            self._index += 1
            self._written += 1
            try:
                proposal.result = self._apply(self._index, proposal.data)
            finally:
                proposal.done.set()

    async def _write(self, data: bytes) -> None:
        started = time.perf_counter()
        os.lseek(self._fd, 0, os.SEEK_END)
        if self._sync_ms < 0.5 and len(data) < 1 << 20:
            _write_all(self._fd, data)
        else:
            await trio.to_thread.run_sync(_write_all, self._fd, data)
        self._sync_ms = (time.perf_counter() - started) * 1000
        self._syncs += 1


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.fdatasync(fd)


def _record_at(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    if at + _HEADER.size > len(data):
        return None
    length, checksum, index = _HEADER.unpack_from(data, at)
    end = at + _HEADER.size + length
    if length > ENTRY_BYTES_MAX or end > len(data):
        return None
    body = data[at + _HEADER.size : end]
    return (index, body, end) if zlib.crc32(body) == checksum else None


def _holds_a_later_record(data: bytes, at: int, after: int) -> bool:
    """Whether a whole record with a later index lies behind a bad one: then the end was not merely cut off."""
    for start in range(at + 1, max(at + 1, len(data) - _HEADER.size + 1)):
        length, checksum, index = _HEADER.unpack_from(data, start)
        if after <= index <= after + 1_000_000 and 0 < length <= len(data) - start - _HEADER.size:
            body = data[start + _HEADER.size : start + _HEADER.size + length]
            if zlib.crc32(body) == checksum:
                return True
    return False
