"""Reads a task's log as one text, although it lies in rotated files ``<task>.<stdout|stderr>.<n>``."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO

import trio

from nomadpy.client.files import CHUNK_BYTES, POLL_S, Heartbeat, Start
from nomadpy.rpc.contract import StreamChunk

_SHOWN_UNDER = "alloc/logs"


def log_files(directory: Path, prefix: str) -> list[tuple[int, int]]:
    """(number, size) of every file of a log, oldest first. Blocks shortly."""
    found = []
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return []
    for entry in entries:
        stem, _, number = entry.name.rpartition(".")
        if stem == prefix and number.isdigit() and entry.is_file(follow_symlinks=False):
            found.append((int(number), entry.stat(follow_symlinks=False).st_size))
    return sorted(found)


def locate(files: list[tuple[int, int]], start: Start) -> tuple[int, int]:
    """(file number, position in it) where a log is to be read from; past the end means the end of the last file.

    >>> locate([(3, 100), (4, 50)], Start(120)), locate([(3, 100), (4, 50)], Start(60, from_end=True))
    ((4, 20), (3, 90))
    """
    position = start.position(sum(size for _, size in files))
    for number, size in files:
        if position < size:
            return number, position
        position -= size
    return files[-1] if files else (0, 0)


def find_start(directory: Path, prefix: str, start: Start) -> tuple[int, int]:
    """(file number, position in it) of ``start`` in the log as it is now. Blocks shortly."""
    return locate(log_files(directory, prefix), start)


async def follow_logs(
    directory: Path, prefix: str, begin: tuple[int, int], *, follow: bool
) -> AsyncGenerator[StreamChunk, None]:
    """Pieces of a log from ``begin`` (file number, position); ``offset`` is the position in ``file`` behind the piece.

    Without ``follow`` it ends at the end of the newest file.
    """
    number, position = begin
    heartbeat = Heartbeat()
    file: BinaryIO | None = None
    try:
        while True:
            if file is None:
                file = await trio.to_thread.run_sync(_open_at, directory / f"{prefix}.{number}", position)
            # Asked before reading: once a newer file exists, nothing is added to this one any more.
            newer = await trio.to_thread.run_sync(_next_number, directory, prefix, number)
            data = await trio.to_thread.run_sync(file.read, CHUNK_BYTES) if file is not None else b""
            if data:
                position += len(data)
                yield StreamChunk(offset=position, data=data, file=f"{_SHOWN_UNDER}/{prefix}.{number}")
                heartbeat.data_sent()
            elif newer is not None:
                if file is not None:
                    file.close()
                file, number, position = None, newer, 0
            elif not follow:
                return
            else:
                if heartbeat.due():
                    yield StreamChunk()
                await trio.sleep(POLL_S)
    finally:
        if file is not None:
            file.close()


def _open_at(path: Path, position: int) -> BinaryIO | None:
    try:
        # A task can write into its log directory; a link planted there must not be followed.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None  # not there yet, or rotated away meanwhile
    file = os.fdopen(descriptor, "rb")
    file.seek(position)
    return file


def _next_number(directory: Path, prefix: str, number: int) -> int | None:
    return next((found for found, _ in log_files(directory, prefix) if found > number), None)
