"""The write-ahead log: entries, current term, vote and a commit hint of one server, in segment files.

Changes are visible in memory at once and durable after ``sync``; whoever tells another server of a change must sync
first. One cycle of the server is one batch and one sync (group commit). Where the sync runs is the caller's choice:
``sync`` does it here, while ``begin_sync``, ``PendingSync.write`` (any thread) and ``finish_sync`` split it.

The first failed write or sync poisons the log for good: what the disk holds is then unknown, and asking again may
falsely succeed. The process has to stop and recover from what it can read back.

A new segment begins with the whole hard state, so that dropping the oldest entries is the deletion of whole files,
once the record that moves the beginning of the log is durable.
"""

from __future__ import annotations

import msgspec

from nomadpy.model.errors import Bug, NomadError
from nomadpy.raft.disk import Directory, File
from nomadpy.raft.entries import FIRST_INDEX, Entry
from nomadpy.raft.segment import (
    BATCH_BYTES_MAX,
    FILE_HEADER_BYTES,
    LOG_ID_BYTES,
    Kind,
    LogImage,
    SegmentReader,
    WalCorrupt,
    batch_header,
    parse_segment_header,
    record,
    segment_header,
)

SEGMENT_BYTES = 64 << 20
_SUFFIX = ".wal"


class WalPoisoned(NomadError):
    """A write or sync of the log failed earlier; nothing more may be promised. The process must stop."""

    code = "wal-poisoned"


class _Segment(msgspec.Struct):
    name: str
    # The highest index of any entry in it; the file may go once the log begins above.
    last_index: int = 0


class PendingSync:
    """One batch on its way to the disk."""

    def __init__(self, file: File, data: bytes, last_index: int) -> None:
        self._file, self._data = file, data
        self.last_index = last_index
        self.size = len(data)

    def write(self) -> None:
        """Writes and syncs; the only part that blocks, and the only one that may run in another thread.
        Raises OSError."""
        self._file.append(self._data)
        self._file.sync()


class Wal:
    """The log in ``directory``. ``log_id`` (16 random bytes) names a log that is made new; an old one keeps its own."""

    def __init__(self, directory: Directory, *, log_id: bytes, segment_bytes: int = SEGMENT_BYTES) -> None:
        if len(log_id) != LOG_ID_BYTES:
            raise Bug(f"a log id has {LOG_ID_BYTES} bytes, not {len(log_id)}")
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._image = LogImage()
        self._records: list[bytes] = []
        # What a new segment has to begin with; goes in front of the first batch that is written to it.
        self._opening: list[bytes] = []
        self._segments: list[_Segment] = []
        self._obsolete: list[str] = []
        self._poison = ""
        self._pending: PendingSync | None = None
        self.log_id = log_id
        self.syncs = 0
        self._batch_number = 1
        self._file_bytes = 0
        self._recover()
        self.durable_index = self._image.last

    # --- what the log holds ----------------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The oldest index, 0 when the log is empty."""
        return self._image.entries[0][1] if self._image.entries else 0

    @property
    def last(self) -> int:
        """The newest index, 0 when the log is empty."""
        return self._image.last

    @property
    def last_term(self) -> int:
        """The term of the newest entry."""
        return self._image.entries[-1][2] if self._image.entries else 0

    @property
    def term(self) -> int:
        """The newest term this server has seen."""
        return self._image.term

    @property
    def voted_for(self) -> str | None:
        """Whom it voted for in that term."""
        return self._image.voted_for

    @property
    def commit_hint(self) -> int:
        """An index known to be committed; never above what is durable."""
        return self._image.commit_hint

    @property
    def configurations(self) -> list[Entry]:
        """The configuration entries in the log, oldest first."""
        return self._image.configurations

    @property
    def entries(self) -> list[Entry]:
        """All entries, oldest first. To be read only."""
        return self._image.entries

    @property
    def dirty(self) -> bool:
        """Whether something is not on its way to the disk yet."""
        return bool(self._records)

    def term_at(self, index: int) -> int | None:
        """The term of an entry, None when it is not in the log."""
        entries = self._image.entries
        at = index - entries[0][1] if entries else -1
        return entries[at][2] if 0 <= at < len(entries) else None

    # --- changes ---------------------------------------------------------------------------------------------------

    def append(self, data: bytes, index: int, term: int) -> None:
        """Adds an entry behind the newest one."""
        if not self._image.entries:
            self._image.first = index
            self._put(Kind.FIRST, index)
        self._image.add((data, index, term))
        self._put(Kind.ENTRY, index, term, data)
        self._segments[-1].last_index = max(self._segments[-1].last_index, index)

    def truncate_from(self, index: int) -> None:
        """Removes ``index`` and everything newer."""
        if index <= self.last:
            self._image.truncate(index)
            self._put(Kind.TRUNCATE, index)
            self.durable_index = min(self.durable_index, index - 1)

    def drop_before(self, index: int) -> None:
        """Forgets everything older than ``index``, which has to be in the log. The caller holds a durable snapshot."""
        if not self.first <= index <= self.last:
            raise Bug(f"the log of {self.first}..{self.last} cannot begin at {index}")
        self._image.drop_before(index)
        self._put(Kind.FIRST, index)
        self._retire(index)

    def reset(self) -> None:
        """Forgets every entry; term and vote stay."""
        self._image.truncate(0)
        self._put(Kind.RESET, 0)
        self.durable_index = 0
        for segment in self._segments:
            segment.last_index = 0
        self._retire(1)

    def set_state(self, term: int, voted_for: str | None) -> None:
        """Enters a term, or votes in it."""
        self._image.term, self._image.voted_for = term, voted_for
        self._put(Kind.STATE, 0, term, (voted_for or "").encode())

    def note_commit(self, index: int) -> None:
        """Remembers that ``index`` is committed; only as far as this log is durable."""
        hint = max(FIRST_INDEX, min(index, self.durable_index))
        if hint != self._image.commit_hint:
            self._image.commit_hint = hint
            self._put(Kind.COMMIT, hint)

    def _put(self, kind: Kind, index: int, term: int = 0, data: bytes = b"") -> None:
        if self._poison:
            raise WalPoisoned(self._poison)
        if self._pending is not None:
            raise Bug("the log was changed while a batch was on its way to the disk")
        self._records.append(record(kind, index, term, data))

    def _retire(self, first: int) -> None:
        while len(self._segments) > 1 and self._segments[0].last_index < first:
            self._obsolete.append(self._segments.pop(0).name)

    # --- syncing ---------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Makes everything durable with one write and one sync. Raises WalPoisoned."""
        pending = self.begin_sync()
        if pending is None:
            return
        try:
            pending.write()
        except OSError as error:
            self.fail_sync(pending, error)
        self.finish_sync(pending)

    def begin_sync(self) -> PendingSync | None:
        """Takes what is not durable yet; None when there is nothing. At most one batch may be on its way."""
        if self._poison:
            raise WalPoisoned(self._poison)
        if self._pending is not None:
            raise Bug("a sync of the log began before the previous one had ended")
        if not self._records:
            return None
        body = b"".join(self._opening + self._records)
        if len(body) > BATCH_BYTES_MAX:
            raise Bug(f"one batch of the log is {len(body)} bytes long; at most {BATCH_BYTES_MAX} can be read back")
        data = batch_header(body, self._batch_number, self.log_id) + body
        self._records, self._opening = [], []
        self._batch_number += 1
        self._pending = PendingSync(self._file, data, self.last)
        return self._pending

    def finish_sync(self, pending: PendingSync) -> None:
        """The batch is durable. Deletes files that are no longer needed and begins a new one when this one is full."""
        if pending is not self._pending:
            raise Bug("a sync of the log ended that had not begun")
        self._pending = None
        self.syncs += 1
        self.durable_index = min(pending.last_index, self.last)
        self._file_bytes += pending.size
        try:
            self._delete_obsolete()
            if self._file_bytes > self._segment_bytes:
                self._file.close()
                self._begin_segment()
        except OSError as error:
            self._poisoned(error)

    def fail_sync(self, pending: PendingSync, error: OSError) -> None:
        """The batch may or may not be on the disk: the log takes nothing more. Always raises WalPoisoned."""
        if pending is self._pending:
            self._pending = None
        self._poisoned(error)

    def close(self) -> None:
        """Lets go of the file. What was not synced is lost."""
        self._poison = self._poison or "the log was closed"
        self._file.close()

    def _poisoned(self, error: OSError) -> None:
        self._poison = f"the log cannot be written any more: {error}"
        raise WalPoisoned(self._poison) from error

    def _delete_obsolete(self) -> None:
        if self._obsolete:
            for name in self._obsolete:
                self._directory.remove(name)
            self._obsolete = []
            self._directory.sync()

    def _begin_segment(self) -> None:
        number = int(self._segments[-1].name.removesuffix(_SUFFIX)) + 1 if self._segments else 1
        name = f"{number:016d}{_SUFFIX}"
        self._file = self._directory.open(name)
        self._file.append(segment_header(self.log_id, self._batch_number))
        self._file.sync()
        self._directory.sync()
        self._file_bytes = FILE_HEADER_BYTES
        self._segments.append(_Segment(name))
        self._opening = self._opening_records()

    def _opening_records(self) -> list[bytes]:
        return [
            record(Kind.STATE, 0, self._image.term, (self._image.voted_for or "").encode()),
            record(Kind.COMMIT, self._image.commit_hint),
            record(Kind.FIRST, self._image.first),
        ]

    # --- recovery --------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        names = [name for name in self._directory.names() if name.endswith(_SUFFIX)]
        if names:
            self._drop_unborn_segment(names)
        for position, name in enumerate(names):
            self._read_segment(name, is_oldest=position == 0, is_newest=position == len(names) - 1)
        if not names:
            self._begin_segment()
        self._image.check()
        self._image.commit_hint = max(FIRST_INDEX, min(self._image.commit_hint, self._image.last))

    def _drop_unborn_segment(self, names: list[str]) -> None:
        """A newest file that ends within its header never held a batch: the server died while making it."""
        file = self._directory.open(names[-1])
        data = file.read()
        file.close()
        if parse_segment_header(data) is None and len(data) <= FILE_HEADER_BYTES:
            self._directory.remove(names.pop())
            self._directory.sync()

    def _read_segment(self, name: str, *, is_oldest: bool, is_newest: bool) -> None:
        file = self._directory.open(name)
        data = file.read()
        header = parse_segment_header(data)
        if header is None:
            raise WalCorrupt(f"{name} does not begin like a log of nomadpy")
        log_id, first_batch = header
        if not is_oldest and (log_id != self.log_id or first_batch != self._batch_number):
            raise WalCorrupt(
                f"{name} begins with batch {first_batch}; {self._batch_number} of the same log was expected"
            )
        self.log_id = log_id
        reader = SegmentReader(name, data, log_id=log_id, first_batch=first_batch)
        segment = _Segment(name)
        while (body := reader.next_body()) is not None:
            segment.last_index = max(segment.last_index, self._image.replay(body))
        self._batch_number = reader.next_batch
        self._segments.append(segment)
        if is_newest:
            self._continue_segment(file, reader.good_bytes, len(data))
            return
        file.close()
        if reader.good_bytes < len(data):
            raise WalCorrupt(f"{name}: byte {reader.good_bytes} is damaged although a later file follows")

    def _continue_segment(self, file: File, good_bytes: int, total_bytes: int) -> None:
        if good_bytes < total_bytes:
            file.truncate(good_bytes)
        # The process may have been killed between writing and syncing: what was read could still be in the page
        # cache alone, and must not be acted upon before it is durable.
        file.sync()
        self._directory.sync()
        self._file, self._file_bytes = file, good_bytes
        if good_bytes == FILE_HEADER_BYTES:
            self._opening = self._opening_records()
