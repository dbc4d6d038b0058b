"""Unpacking what strangers packed: only plain files, directories and links that stay inside, within limits.

Nothing is ever written through a link, as every file is reached from the target by descriptors that refuse links.
Functions block: call them in a worker thread.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from nomadpy.client.sandbox import opened, refuse_leading_out
from nomadpy.model.errors import Invalid

_CHUNK = 1 << 20
# The headers of an archive are read whole, so one of them must not be able to claim gigabytes.
_MAX_READ = 8 << 20
_MAX_PARTS = 100
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    OverflowError,
)
_TAR_OF = {"tgz": "gz", "tbz2": "bz2", "txz": "xz", "tzst": "zst", "tar": ""}


class Limits:
    """What is left of the count of files and of their bytes together; 0 at the start means no limit."""

    def __init__(self, *, n_files: int, n_bytes: int) -> None:
        self._n_files, self._n_bytes = n_files, n_bytes
        self._files = self._bytes = 0

    def count_file(self) -> None:
        """One more file, directory or link. Raises Invalid."""
        self._files += 1
        if self._n_files and self._files > self._n_files:
            raise Invalid(f"the archive holds more than the {self._n_files} files that this client allows")

    def count_bytes(self, amount: int) -> None:
        """More unpacked bytes. Raises Invalid."""
        self._bytes += amount
        if self._n_bytes and self._bytes > self._n_bytes:
            raise Invalid(f"the archive unpacks to more than the {self._n_bytes} bytes that this client allows")


def unpack(archive: str, path: str, target: str, *, name: str, limits: Limits) -> None:
    """Unpacks the file ``path`` of kind ``archive`` into the directory ``target``.

    A compressed single file is unpacked as ``name``. Raises Invalid when the archive is damaged or not acceptable,
    OSError from the disk.
    """
    packed = _TAR_OF.get(archive, archive.removeprefix("tar.") if archive.startswith("tar.") else None)
    try:
        if archive == "zip":
            _unzip(path, _Writer(target, limits))
        elif packed is None:
            with _decompressed(path, archive) as stream:
                _Writer(target, limits).file(name, stream, 0o644)
        else:
            with _decompressed(path, packed) as stream:
                _untar(stream, _Writer(target, limits))
    except RecursionError as error:
        raise Invalid("the archive is damaged: its headers are nested without end") from error
    except (*_DAMAGE, gzip.BadGzipFile) as error:
        raise Invalid(f"the archive is damaged or not of the kind {archive}: {error}") from error


@contextmanager
def _decompressed(path: str, kind: str) -> Iterator[IO[bytes]]:
    openers: dict[str, Callable[..., Any]] = {"": open, "gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    if kind not in openers:
        raise Invalid(f"archives of the kind {kind} are not supported by this version")
    try:
        with openers[kind](path, "rb") as stream:
            yield stream
    except OSError as error:
        # The decompressors tell of damage with an error that has no number; the disk's errors have one.
        if error.errno is None:
            raise Invalid(f"the archive is damaged: {error}") from error
        raise


class _Reader:
    """A stream for tarfile that refuses to read more at once than any honest header needs."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _MAX_READ:
            raise tarfile.ReadError("a header is too large")
        return self._stream.read(size)


def _untar(stream: IO[bytes], writer: _Writer) -> None:
    reader: Any = _Reader(stream)
    with tarfile.open(fileobj=reader, mode="r:") as archive:
        while (member := archive.next()) is not None:
            if member.isdir():
                writer.directory(member.name)
            elif member.isreg():
                content = archive.extractfile(member)
                if content is not None:
                    writer.file(member.name, content, member.mode)
            elif member.issym():
                writer.link(member.name, member.linkname)
            elif member.islnk():
                writer.same_file(member.name, member.linkname)
            elif member.type != tarfile.XGLTYPE:
                raise Invalid(f'"{member.name}" is neither a file, a directory nor a link')


def _unzip(path: str, writer: _Writer) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            mode = entry.external_attr >> 16
            if entry.is_dir():
                writer.directory(entry.filename)
                continue
            with archive.open(entry) as content:
                if stat.S_ISLNK(mode):
                    writer.link(entry.filename, os.fsdecode(content.read(4096)))
                elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                    writer.file(entry.filename, content, mode or 0o644)
                else:
                    raise Invalid(f'"{entry.filename}" is neither a file, a directory nor a link')


class _Writer:
    """Puts members of an archive below a directory."""

    def __init__(self, target: str, limits: Limits) -> None:
        self._target = target
        self._limits = limits

    def directory(self, name: str) -> None:
        parts = self._parts(name)
        with self._opened(parts, name):
            pass

    def file(self, name: str, content: IO[bytes], mode: int) -> None:
        *parents, last = self._named(name)
        with self._opened(parents, name) as parent:
            _remove(last, parent, name)
            with os.fdopen(os.open(last, _WRITE_FLAGS, 0o600, dir_fd=parent), "wb") as file:
                while chunk := content.read(_CHUNK):
                    self._limits.count_bytes(len(chunk))
                    file.write(chunk)
                os.fchmod(file.fileno(), mode & 0o777 | 0o600)

    def link(self, name: str, target: str) -> None:
        *parents, last = self._named(name)
        refuse_leading_out(target, len(parents), name)
        with self._opened(parents, name) as parent:
            _remove(last, parent, name)
            os.symlink(target, last, dir_fd=parent)

    def same_file(self, name: str, other: str) -> None:
        *parents, last = self._named(name)
        *other_parents, other_last = self._named(other)
        with self._opened(other_parents, other) as source, self._opened(parents, name) as parent:
            try:
                is_file = stat.S_ISREG(os.stat(other_last, dir_fd=source, follow_symlinks=False).st_mode)
            except FileNotFoundError:
                is_file = False
            if not is_file:
                raise Invalid(f'"{name}" is a link to "{other}", which is no earlier file of the archive')
            if (parents, last) == (other_parents, other_last):
                return
            _remove(last, parent, name)
            os.link(other_last, last, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    @contextmanager
    def _opened(self, parts: list[str], name: str) -> Iterator[int]:
        try:
            with opened(self._target, parts, create=True) as folder:
                yield folder
        except (NotADirectoryError, IsADirectoryError) as error:
            raise Invalid(f'"{name}" lies below, or in the place of, something else in the archive') from error

    def _named(self, name: str) -> list[str]:
        parts = self._parts(name)
        if not parts:
            raise Invalid(f'"{name}" is not a name of a file')
        return parts

    def _parts(self, name: str) -> list[str]:
        self._limits.count_file()
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in name or len(parts) > _MAX_PARTS or any(len(part) > 255 for part in parts):
            raise Invalid(f'"{name[:100]}" is not an acceptable name of a file')
        return parts


def _remove(last: str, parent: int, name: str) -> None:
    """Makes room, as an archive may hold a name twice and the last one wins."""
    try:
        os.unlink(last, dir_fd=parent)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as error:
        raise Invalid(f'"{name}" is both a file and a directory in the archive') from error
