"""Writes a journal as versions before the replicated log did, by the format alone: a magic, then records of length u32,
CRC32 u32 of the rest, index u64, place in its batch u32 (little-endian) and data."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

MAGIC = b"nomadpy journal 2\n"
RECORD_BYTES = 20


def record(index: int, place: int, data: bytes) -> bytes:
    """One record; ``place`` counts from 0 in its batch."""
    rest = struct.pack("<QI", index, place) + data
    return struct.pack("<II", len(data), zlib.crc32(rest)) + rest


def journal_of(entries: Sequence[bytes]) -> bytes:
    """A journal of these entries, each in a batch of its own."""
    return MAGIC + b"".join(record(index, 0, data) for index, data in enumerate(entries, 1))


def write_journal_file(directory: Path, entries: Sequence[bytes]) -> bytes:
    """The same as the file of a server under ``directory``; returns its bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "journal").write_bytes(journal_of(entries))
    return journal_of(entries)
