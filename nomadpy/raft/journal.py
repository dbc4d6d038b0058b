"""The log that a single server kept before servers shared a replicated one. It is only read, to be taken over once
(``server/takeover.py``), and never written.

One file of records: length u32, CRC32 u32 of what follows it, index u64, place in its batch u32 (little-endian), data.
Everything that was proposed while a sync was under way shared the next one; that is a batch. Entries were applied and
answered after the sync.

Hence a bad record and what follows it was never acknowledged when all of it can belong to one batch, the last; it is
left out. When a record of a later batch follows, the bad one had been synced, so the disk lost data, and then the
server refuses to start.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nomadpy.model.errors import NomadError

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<IIQI")
_CHECKED = struct.Struct("<QI")  # the part of the header that the checksum covers; a wrong length shows in the data
_MAGIC = b"nomadpy journal 2\n"
_ENTRY_BYTES_MAX = 64 << 20


class JournalCorrupt(NomadError):
    """The journal holds a bad record that is not simply its cut-off end."""

    code = "journal-corrupt"


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


def _entries(path: Path, fd: int) -> Iterator[tuple[int, bytes]]:
    head = os.pread(fd, len(_MAGIC), 0)
    if len(head) < len(_MAGIC) and _MAGIC.startswith(head):
        return  # its creation was interrupted
    if head != _MAGIC:
        raise JournalCorrupt(f"{path} is not a journal of an earlier version of nomadpy")
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


def _check_tail(path: Path, data: mmap.mmap, at: int, last: int) -> None:
    if _holds_a_later_batch(data, at, last + 1):
        raise JournalCorrupt(
            f"{path}: the record after entry {last} (byte {at}) is damaged and good records follow; restore the file "
            "from a backup"
        )


def _checksum(index: int, place: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(_CHECKED.pack(index, place)))


def _record_at(data: mmap.mmap, at: int) -> tuple[int, bytes, int, int] | None:
    """(index, data, place in its batch, where the next one begins), or None when there is no good record."""
    if at + _HEADER.size > len(data):
        return None
    length, checksum, index, place = _HEADER.unpack_from(data, at)
    end = at + _HEADER.size + length
    if length > _ENTRY_BYTES_MAX or end > len(data):
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
