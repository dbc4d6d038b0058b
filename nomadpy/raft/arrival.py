"""A leader's snapshot on its way into this server: parts that arrive, then, where the caller wants that, a whole one
that is read and stored beside the cycles, then a state that is ready to be exchanged."""

from __future__ import annotations

from collections.abc import Callable

from nomadpy.raft.messages import SnapshotChunk, SnapshotSeen
from nomadpy.raft.snapshot import IncomingSnapshot, Snapshot

Swap = Callable[[], None]


class Arrival:
    """One snapshot at a time. ``reads_beside``: the caller stores and reads it (``on_the_way``)."""

    def __init__(self, *, reads_beside: bool) -> None:
        self._reads_beside = reads_beside
        self._incoming: IncomingSnapshot | None = None
        # A whole one that the caller is reading, and what came of that.
        self._whole: IncomingSnapshot | None = None
        self._prepared: tuple[Snapshot, Swap] | None = None

    def take(self, chunk: SnapshotChunk) -> SnapshotSeen | Snapshot | None:
        """What to answer to a part, if anything, or the snapshot that it completes."""
        if self._whole is not None:
            return _seen(chunk, chunk.size) if self._whole.belongs(chunk) else None
        if self._incoming is None or not self._incoming.belongs(chunk):
            self._incoming = IncomingSnapshot(chunk)
        self._incoming.take(chunk)
        if not self._incoming.complete:
            return _seen(chunk, self._incoming.offset)
        whole, self._incoming = self._incoming, None
        if self._reads_beside:
            self._whole = whole
            return _seen(chunk, chunk.size)
        # A damaged one is asked for from the beginning.
        return whole.snapshot() or _seen(chunk, 0)

    def on_the_way(self, commit_index: int) -> IncomingSnapshot | None:
        """The snapshot of which some arrived, or all, until ``prepared``. One that the log has overtaken is given
        up."""
        if self._incoming is not None and self._incoming.meta.point.index <= commit_index:
            self._incoming = None
        return self._whole or self._incoming

    def prepared(self, snapshot: Snapshot | None, swap: Swap) -> None:
        """It was read; None when it was damaged."""
        self._whole = None
        self._prepared = (snapshot, swap) if snapshot is not None else None

    def take_prepared(self) -> tuple[Snapshot, Swap] | None:
        """What was read, once."""
        prepared, self._prepared = self._prepared, None
        return prepared


def _seen(chunk: SnapshotChunk, offset: int) -> SnapshotSeen:
    return SnapshotSeen(chunk.term, chunk.seq, chunk.index, offset)
