"""The bytes of a snapshot of the state: a magic, the number of the schema, and sections, each with its checksum.

A section is a name and a part of a table: records as msgpack, or a column as little-endian numbers, compressed. The
first one says who wrote the snapshot, the last one how many there are, so an end that is missing is noticed. A newer
schema is refused before anything else is looked at; so is a section that is not known, because a table that is left out
would be lost.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec

from nomadpy.model.errors import Bug, Invalid

MAGIC = b"nomadpy state\n"
SCHEMA = 1
_SCHEMA = struct.Struct("<I")
_FRAME = struct.Struct("<III")  # length of the name, length of the payload, checksum of both
_HEAD, _END = "head", "end"
_LEVEL = 1


class UnreadableSnapshot(Invalid):
    """The bytes are no whole snapshot of the state; nothing was changed."""

    code = "unreadable-snapshot"


class NewerSnapshot(Bug):
    """A newer version wrote the snapshot, and this server must not guess at it; nothing was changed. An upgrade
    helps."""

    code = "newer-snapshot"
    status = 400


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Who wrote a snapshot, and where the state was."""

    version: str
    index: int


class Writer:
    """Collects sections. ``sizes`` counts the bytes of each table."""

    def __init__(self, head: Head) -> None:
        self._parts: list[bytes] = [MAGIC, _SCHEMA.pack(SCHEMA)]
        self._encoder = msgspec.msgpack.Encoder()
        self._count = 0
        self.put(_HEAD, head)

    def put(self, name: str, value: Any) -> None:
        """Adds a section with records."""
        self.put_bytes(name, self._encoder.encode(value))

    def put_bytes(self, name: str, data: bytes) -> None:
        """Adds a section with plain bytes."""
        name_bytes, payload = name.encode(), zlib.compress(data, _LEVEL)
        checksum = zlib.crc32(payload, zlib.crc32(name_bytes))
        self._parts += (_FRAME.pack(len(name_bytes), len(payload), checksum), name_bytes, payload)
        self._count += 1

    def finish(self) -> bytes:
        """The whole snapshot."""
        self.put(_END, self._count)
        return b"".join(self._parts)


def read_head(data: bytes) -> Head:
    """Who wrote a snapshot. Raises UnreadableSnapshot, NewerSnapshot."""
    return next(_opened(data))[0]


def read(data: bytes) -> Iterator[tuple[str, bytes, int]]:
    """(name, bytes, bytes as they are stored) of each section after the head. Raises UnreadableSnapshot (also at the
    end, when it is cut off) and NewerSnapshot; so what was read counts only once the iteration has ended."""
    for _, name, payload in _opened(data):
        if name not in (_HEAD, _END):
            yield name, _expand(name, payload), len(payload)


def _opened(data: bytes) -> Iterator[tuple[Head, str, bytes]]:
    if not data.startswith(MAGIC) or len(data) < len(MAGIC) + _SCHEMA.size:
        raise UnreadableSnapshot("this is no snapshot of nomadpy's state")
    (schema,) = _SCHEMA.unpack_from(data, len(MAGIC))
    head = None
    for count, (name, payload) in enumerate(_frames(data, len(MAGIC) + _SCHEMA.size)):
        if head is None:
            head = _head(name, payload)
            if schema > SCHEMA:
                text = f"the snapshot has schema {schema}, written by nomadpy {head.version}; this version"
                raise NewerSnapshot(f"{text} reads up to schema {SCHEMA}")
        if name == _END and msgspec.msgpack.decode(_expand(name, payload), type=int) != count:
            raise UnreadableSnapshot("the snapshot lacks sections")
        yield head, name, payload


def _frames(data: bytes, at: int) -> Iterator[tuple[str, bytes]]:
    view = memoryview(data)
    while at + _FRAME.size <= len(data):
        name_length, length, checksum = _FRAME.unpack_from(data, at)
        begin = at + _FRAME.size + name_length
        at, body = begin + length, view[at + _FRAME.size : begin + length]
        if at > len(data):
            break
        if zlib.crc32(body) != checksum:
            raise UnreadableSnapshot(f"the snapshot is damaged before byte {at}: a checksum is wrong")
        name = bytes(body[:name_length]).decode()
        yield name, bytes(body[name_length:])
        if name == _END:
            if at != len(data):
                raise UnreadableSnapshot("something follows the end of the snapshot")
            return
    raise UnreadableSnapshot(f"the snapshot is cut off after {len(data)} bytes")


def _head(name: str, payload: bytes) -> Head:
    if name != _HEAD:
        raise UnreadableSnapshot("the snapshot does not begin with its head")
    return msgspec.msgpack.decode(_expand(name, payload), type=Head)


def _expand(name: str, payload: bytes) -> bytes:
    try:
        return zlib.decompress(payload)
    except zlib.error as error:
        raise UnreadableSnapshot(f'section "{name}" of the snapshot is damaged: {error}') from error
