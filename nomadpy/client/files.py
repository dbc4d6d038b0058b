"""Shows the files of an allocation: listing, reading and following, never outside of it and never its secrets.

The functions that take an ``AllocDir`` block; call them in a worker thread.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import trio

from nomadpy.client.allocdir import AllocDir
from nomadpy.model.errors import Invalid, NotFound
from nomadpy.rpc.contract import FileInfo, StreamChunk

CHUNK_BYTES = 64 * 1024
POLL_S = 0.2
HEARTBEAT_S = 1.0
_SNIFF_BYTES = 512

FILE_DELETED, FILE_TRUNCATED = "file deleted", "file truncated"


class Start(msgspec.Struct, frozen=True):
    """Where a stream begins: ``offset`` bytes from the start, or back from the end."""

    offset: int = 0
    from_end: bool = False

    @classmethod
    def check(cls, offset: int, origin: str) -> Start:
        """The start that a request names. Raises Invalid for an origin or offset that cannot be."""
        if origin not in ("", "start", "end"):
            raise Invalid("origin must be start or end")
        if offset < 0:
            raise Invalid("offset must not be negative")
        return cls(offset, origin == "end")

    def position(self, size: int) -> int:
        """The byte to begin with in a file of ``size`` bytes."""
        return max(0, size - self.offset) if self.from_end else self.offset


# --- listing --------------------------------------------------------------------------------------------------------


def list_dir(alloc_dir: AllocDir, path: str, tasks: list[str]) -> list[FileInfo]:
    """The entries of a directory, by name. Raises NotFound with the system's text, Invalid for a path that escapes."""
    target = alloc_dir.resolve(path)
    alloc_dir.refuse_hidden(target, path, tasks)
    try:
        names = sorted(os.listdir(target))
    except OSError as error:
        raise _missing("open", path, error) from error
    entries = []
    for name in names:
        try:
            entries.append(_info(target / name, alloc_dir, tasks))
        except FileNotFoundError:
            continue  # removed since it was listed
    return entries


def stat_path(alloc_dir: AllocDir, path: str, tasks: list[str]) -> FileInfo:
    """One entry. Raises NotFound with the system's text, Invalid for a path that escapes."""
    target = alloc_dir.resolve(path)
    try:
        return _info(target, alloc_dir, tasks)
    except OSError as error:
        raise _missing("stat", path, error) from error


def _missing(verb: str, path: str, error: OSError) -> NotFound:
    return NotFound(f"{verb} {path}: {os.strerror(error.errno or errno.EIO).lower()}")


def _info(target: Path, alloc_dir: AllocDir, tasks: list[str]) -> FileInfo:
    found = target.lstat()
    is_dir = stat.S_ISDIR(found.st_mode)
    content_type = ""
    if stat.S_ISREG(found.st_mode):
        try:
            alloc_dir.refuse_hidden(target, str(target), tasks)
            with open(target, "rb") as file:
                content_type = sniff(file.read(_SNIFF_BYTES))
        except (OSError, Invalid):
            content_type = ""  # it exists but its content is not for the caller
    return FileInfo(
        name=target.name,
        is_dir=is_dir,
        size=found.st_size,
        file_mode=go_file_mode(found.st_mode),
        mod_time_ns=found.st_mtime_ns,
        content_type=content_type,
    )


def go_file_mode(mode: int) -> str:
    """A file's mode as Go prints it: kind and special bits first, then the nine permission letters.

    >>> go_file_mode(0o100644), go_file_mode(0o041777), go_file_mode(0o120777)
    ('-rw-r--r--', 'dtrwxrwxrwx', 'Lrwxrwxrwx')
    """
    kinds = ((stat.S_ISDIR, "d"), (stat.S_ISLNK, "L"), (stat.S_ISBLK, "D"), (stat.S_ISCHR, "Dc"))
    prefix = "".join(letter for test, letter in (*kinds, (stat.S_ISFIFO, "p"), (stat.S_ISSOCK, "S")) if test(mode))
    bits = ((stat.S_ISUID, "u"), (stat.S_ISGID, "g"), (stat.S_ISVTX, "t"))
    prefix += "".join(letter for bit, letter in bits if mode & bit)
    permissions = "".join(letter if mode >> (8 - i) & 1 else "-" for i, letter in enumerate("rwxrwxrwx"))
    return (prefix or "-") + permissions


_MAGIC = (
    (b"%PDF-", "application/pdf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"<?xml", "text/xml; charset=utf-8"),
)
_HTML = (b"<!doctype html", b"<html", b"<head", b"<script", b"<body", b"<iframe", b"<h1", b"<div", b"<table", b"<p>")


def sniff(head: bytes) -> str:
    """The content type that the first 512 bytes suggest (WHATWG MIME sniffing, the common part of it).

    >>> sniff(b"hello"), sniff(bytes([0, 1])), sniff(b" <HTML>")
    ('text/plain; charset=utf-8', 'application/octet-stream', 'text/html; charset=utf-8')
    """
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head.lstrip().lower().startswith(_HTML):
        return "text/html; charset=utf-8"
    binary = any(b < 0x20 and b not in (0x09, 0x0A, 0x0C, 0x0D, 0x1B) for b in head)
    return "application/octet-stream" if binary else "text/plain; charset=utf-8"


# --- reading --------------------------------------------------------------------------------------------------------


def open_readable(alloc_dir: AllocDir, path: str, tasks: list[str]) -> BinaryIO:
    """A regular file of the allocation, open for reading.

    Raises Invalid (400) when it is missing, a directory, hidden or outside. What was opened is checked again
    afterwards, since a task may exchange a directory for a link in between.
    """
    if not path:
        raise Invalid("must provide a file name")
    target = alloc_dir.resolve(path)
    alloc_dir.refuse_hidden(target, path, tasks)
    try:
        # A FIFO without a writer must not block the caller.
        descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Invalid(f"open {path}: {os.strerror(error.errno or errno.EIO).lower()}") from error
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise Invalid(f'file "{path}" is a directory')
        if not stat.S_ISREG(kind):
            raise Invalid(f'file "{path}" is not a regular file')
        opened = os.readlink(f"/proc/self/fd/{descriptor}")
        root = os.path.realpath(alloc_dir.path)
        if not opened.startswith(root + os.sep):
            raise Invalid("Path escapes the alloc directory")
        alloc_dir.refuse_hidden(Path(opened), path, tasks)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


class FileChunks:
    """The bytes of an open file from ``offset``, at most ``limit`` (0: all). Closes the file at the end."""

    def __init__(self, file: BinaryIO, offset: int, limit: int) -> None:
        self._file = file
        self._left = limit if limit > 0 else None
        file.seek(max(0, offset))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        wanted = CHUNK_BYTES if self._left is None else min(CHUNK_BYTES, self._left)
        data = b""
        if wanted:
            data = await trio.to_thread.run_sync(self._file.read, wanted)
        if not data:
            self._file.close()
            raise StopAsyncIteration
        if self._left is not None:
            self._left -= len(data)
        return data

    async def aclose(self) -> None:
        """Closes the file early."""
        self._file.close()


# --- following ------------------------------------------------------------------------------------------------------


class Heartbeat:
    """Tells when a silent stream owes its reader a sign of life."""

    def __init__(self) -> None:
        self._due_s = trio.current_time() + HEARTBEAT_S

    def data_sent(self) -> None:
        """Something was said."""
        self._due_s = trio.current_time() + HEARTBEAT_S

    def due(self) -> bool:
        """Whether a second of silence has passed; starts the next one."""
        if trio.current_time() < self._due_s:
            return False
        self.data_sent()
        return True


async def follow_file(
    file: BinaryIO, alloc_dir: AllocDir, path: str, *, follow: bool
) -> AsyncGenerator[StreamChunk, None]:
    """Pieces of a file from where it stands; ``offset`` is the position behind the piece. Ends with the file or, when
    following, with its deletion."""
    name = path.lstrip("/")
    position = file.tell()
    heartbeat = Heartbeat()
    while True:
        data = await trio.to_thread.run_sync(file.read, CHUNK_BYTES)
        if data:
            position += len(data)
            yield StreamChunk(offset=position, data=data, file=name)
            heartbeat.data_sent()
            continue
        if not follow:
            return
        event = _what_happened(file, alloc_dir.path / name, position)
        if event:
            yield StreamChunk(offset=position, file=name, event=event)
            if event == FILE_DELETED:
                return
            position = 0
            file.seek(0)
        elif heartbeat.due():
            yield StreamChunk()
        await trio.sleep(POLL_S)


def _what_happened(file: BinaryIO, path: Path, position: int) -> str:
    """The event that befell a file at whose end a reader waits, "" for none."""
    here = os.fstat(file.fileno())
    try:
        there = os.stat(path)
    except OSError:
        return FILE_DELETED
    if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
        return FILE_DELETED
    return FILE_TRUNCATED if here.st_size < position else ""
