"""A leader's snapshot on its way to this server's disk: a task that writes the parts in a thread while more of them
arrive, and in the end makes the file durable and reads the state in it.

The parts are let go of as soon as they are written, so that a snapshot is in memory once, when its state is read.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from nomadpy.model.errors import NomadError
from nomadpy.raft.snapshot import IncomingSnapshot, Snapshot, SnapshotStore, SnapshotWriter, StoredSnapshot

# Reads the state after an index; what comes back exchanges the present one for it, and takes no time.
Prepare = Callable[[int, bytes], Callable[[], None]]


class Prepared(msgspec.Struct, frozen=True):
    """A snapshot that was stored, and what exchanges the state; nothing of both when its parts did not check out."""

    snapshot: Snapshot | None
    stored: StoredSnapshot | None = None
    swap: Callable[[], None] = lambda: None


class Intake:
    """Stores and reads one snapshot."""

    def __init__(self, snapshot: IncomingSnapshot, store: SnapshotStore, prepare: Prepare) -> None:
        self.snapshot = snapshot
        self._store, self._prepare = store, prepare
        self._given_up = False
        self._more = trio.Event()

    def look(self) -> None:
        """More of it may have arrived."""
        self._more.set()

    def give_up(self) -> None:
        """It will never be complete."""
        self._given_up = True
        self._more.set()

    async def run(self) -> Prepared | None:
        """Returns when all is done, None when it was given up. Raises what ``prepare`` raises, NomadError when the
        snapshot cannot be stored: this server could not follow."""
        try:
            writer = await trio.to_thread.run_sync(self._store.begin, self.snapshot.meta)
            prepared, finished = None, False
            try:
                await self._write_all(writer)
                if not self._given_up:
                    prepared = await trio.to_thread.run_sync(self._finish, writer)
                    finished = prepared.stored is not None
            finally:
                if not finished:
                    writer.abandon()
        except OSError as error:
            raise NomadError(f"the leader's snapshot cannot be stored, so this server stops: {error}") from error
        return prepared

    async def _write_all(self, writer: SnapshotWriter) -> None:
        while not self._given_up:
            parts, complete = self.snapshot.hand_out(), self.snapshot.complete
            if parts:
                await trio.to_thread.run_sync(_append, writer, parts)
            elif complete:
                return
            else:
                await self._more.wait()
                self._more = trio.Event()

    def _finish(self, writer: SnapshotWriter) -> Prepared:
        if not writer.checks_out():
            return Prepared(None)
        snapshot = Snapshot(writer.meta.point, writer.read())
        swap = self._prepare(snapshot.point.index, snapshot.data)
        return Prepared(snapshot, writer.finish(), swap)


def _append(writer: SnapshotWriter, parts: list[bytes]) -> None:
    for part in parts:
        writer.append(part)
