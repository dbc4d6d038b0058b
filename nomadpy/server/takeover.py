"""Takes over what an earlier version stored: a single server's journal becomes the beginning of its replicated log.

The journal's entries are applied to a state of their own, which is stored as a snapshot at the index of the newest one,
with this server as the only voter. The replicated log then begins behind it, so no index runs backwards. At the end the
journal is renamed, and nobody reads it again.

A server may be killed at any moment of this and simply begins anew: a snapshot appears whole or not at all, and one
that is there already is written again over itself as long as the journal has its name. The replicated log only starts
once the new name is durable.
"""

from __future__ import annotations

import logging
from pathlib import Path

from nomadpy.model.errors import NomadError
from nomadpy.raft.disk import DiskDirectory
from nomadpy.raft.journal import open_journal
from nomadpy.raft.snapshot import Snapshot, SnapshotPoint, SnapshotStore
from nomadpy.state import commands as c
from nomadpy.state.snapshot import freeze
from nomadpy.state.store import StateStore

log = logging.getLogger(__name__)

JOURNAL, TAKEN_OVER = "journal", "journal.taken-over"
# All of the journal happened in what counts as the first term.
_TERM = 1


def take_over_journal(directory: Path, *, name: str, tracked_versions: int) -> bool:
    """Makes the journal in ``directory`` the snapshot that the replicated log in there starts from; ``name`` is this
    server's in the log. False when there is none. To be called before the log runs. Raises JournalCorrupt,
    UnknownCommand, NomadError when another agent uses the directory or when both have been written, and OSError."""
    if not (directory / JOURNAL).exists():
        return False
    top = DiskDirectory(directory)
    try:
        with open_journal(directory / JOURNAL) as entries:
            store, last = StateStore(tracked_versions=tracked_versions), 0
            for index, data in entries:
                store.apply(index, c.decode(data))
                last = index
            if last:
                _refuse_mixture(directory)
                _store_snapshot(directory, SnapshotPoint(last, _TERM, (name,)), freeze(store)())
            top.rename(JOURNAL, TAKEN_OVER)
            top.sync()
    finally:
        top.close()
    log.warning("raft.journal_taken_over", extra={"fields": {"path": str(directory / TAKEN_OVER), "index": last}})
    return True


def _refuse_mixture(directory: Path) -> None:
    """A replicated log beside a journal means that an older version ran here after a newer one."""
    folder = directory / "log"
    if folder.is_dir() and any(folder.iterdir()):
        raise NomadError(
            f"{directory} holds a replicated log and the journal of an earlier version, which was used after it; "
            f"decide which one is right and move the other away: {folder} with {directory / 'snapshots'}, or "
            f"{directory / JOURNAL}"
        )


def _store_snapshot(directory: Path, point: SnapshotPoint, data: bytes) -> None:
    folder = DiskDirectory(directory / "snapshots")
    try:
        store = SnapshotStore(folder)
        store.save(Snapshot(point, data))
        store.close()
    finally:
        folder.close()
