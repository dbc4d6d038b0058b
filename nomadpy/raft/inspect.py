"""Reads the replicated log of a server that is stopped, and changes nothing about it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nomadpy.model.errors import Invalid, NotFound
from nomadpy.raft.entries import COMMAND, CONFIGURATION, NO_OP, Entry, configuration_of
from nomadpy.raft.segment import FILE_HEADER_BYTES, LogImage, SegmentReader, WalCorrupt, parse_segment_header
from nomadpy.raft.snapshot import SnapshotMeta, read_meta

_KINDS = {COMMAND: "command", NO_OP: "no-op", CONFIGURATION: "configuration"}


class LogContents(msgspec.Struct, frozen=True, kw_only=True):
    """What a server has on disk. ``cut_off_bytes`` is the end of a write that was interrupted, which a start drops;
    ``commit_hint`` an index that is known to be committed."""

    path: Path
    entries: list[Entry]
    term: int
    voted_for: str
    commit_hint: int
    voters: tuple[str, ...]
    segments: int
    bytes: int
    cut_off_bytes: int
    snapshot: SnapshotMeta | None


def kind_of(entry: Entry) -> str:
    """For whom an entry is: ``command``, ``no-op`` or ``configuration``."""
    return _KINDS.get(entry[0][:1], "unknown")


def find(path: Path) -> Path:
    """The directory of the log below ``path``, which may also be the data directory or the server's in it. Raises
    NotFound."""
    for place in (path, path / "raft", path / "server" / "raft"):
        if any((place / "log").glob("*.wal")):
            return place
    raise NotFound(f"{path} holds no replicated log; name the data directory of a server, or its server/raft")


def read_log(path: Path) -> LogContents:
    """Everything in the log at ``path`` (``find``). Raises NotFound, Invalid when a running server uses it, WalCorrupt,
    SnapshotCorrupt and OSError."""
    place = find(path)
    with _unused(place / "log"):
        image, segments, size, cut_off = _read_segments(place / "log")
        snapshot = _newest_snapshot(place / "snapshots")
    voters = snapshot.point.voters if snapshot is not None else ()
    if image.configurations:
        voters = configuration_of(image.configurations[-1][0])
    return LogContents(
        path=place,
        entries=image.entries,
        term=image.term,
        voted_for=image.voted_for or "",
        commit_hint=image.commit_hint,
        voters=voters,
        segments=segments,
        bytes=size,
        cut_off_bytes=cut_off,
        snapshot=snapshot,
    )


@contextlib.contextmanager
def _unused(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Invalid(f"{folder} is in use by a running server; stop it first, or ask it over HTTP") from error
        yield
    finally:
        os.close(fd)


def _read_segments(folder: Path) -> tuple[LogImage, int, int, int]:
    """(what they hold, how many, their bytes, bytes at the end that a start drops)."""
    image, size, cut_off = LogImage(), 0, 0
    files = sorted(folder.glob("*.wal"))
    log_id, batch = b"", 0
    for number, file in enumerate(files):
        data = file.read_bytes()
        size += len(data)
        header = parse_segment_header(data)
        newest = number == len(files) - 1
        if header is None and newest and len(data) <= FILE_HEADER_BYTES:
            return image, number, size, cut_off + len(data)
        if header is None:
            raise WalCorrupt(f"{file.name} does not begin like a log of nomadpy")
        if number and header != (log_id, batch):
            raise WalCorrupt(f"{file.name} begins with batch {header[1]}; {batch} of the same log was expected")
        log_id = header[0]
        reader = SegmentReader(file.name, data, log_id=log_id, first_batch=header[1])
        while (body := reader.next_body()) is not None:
            image.replay(body)
        batch, cut_off = reader.next_batch, len(data) - reader.good_bytes
        if cut_off and not newest:
            raise WalCorrupt(f"{file.name}: byte {reader.good_bytes} is damaged although a later file follows")
    image.check()
    return image, len(files), size, cut_off


def _newest_snapshot(folder: Path) -> SnapshotMeta | None:
    files = sorted(folder.glob("*.snapshot"))
    if not files:
        return None
    with files[-1].open("rb") as file:
        return read_meta(lambda offset, size: os.pread(file.fileno(), size, offset), files[-1].name)[0]
