"""Restoring a saved state through the log, so that all servers take it at the same entry.

A snapshot is larger than an entry may be, so its parts come first and are put aside (they are part of the state, and of
snapshots); ``RestoreState`` then exchanges everything at once, or nothing.

Indexes never go backwards: clients ignore older orders, and whoever waits for an index beyond the one it saw would wait
for ever. So the state's index is lifted above that of the snapshot, and above its own; from then on it is ahead of the
log's by ``StateStore.index_offset``. Every table counts as changed then, and every node is told its orders anew.
"""

from __future__ import annotations

import hashlib

import numpy as np

from nomadpy.model.errors import Conflict, Invalid
from nomadpy.state import commands as c
from nomadpy.state.allocs import GONE, AllocTable
from nomadpy.state.sections import UnreadableSnapshot
from nomadpy.state.store import Prepared, Staged, StateStore

STAGED_BYTES_MAX = 4 << 30


def stage(store: StateStore, index: int, command: c.StageRestore) -> None:
    """Puts a part aside; the first one of a restore takes the place of what an earlier one left."""
    staged, store.prepared = store.staged, None
    if command.offset == 0:
        staged = Staged(command.restore_id, ())
    if staged is None or staged.restore_id != command.restore_id or staged.size != command.offset:
        raise Conflict("this part of the snapshot does not follow the one before; another restore may have begun")
    if staged.size + len(command.data) > STAGED_BYTES_MAX:
        raise Conflict(f"a snapshot of more than {STAGED_BYTES_MAX >> 30} GiB cannot be restored")
    store.staged = Staged(staged.restore_id, (*staged.parts, command.data), complete=command.last)


def abandon(store: StateStore, index: int, command: c.AbandonRestore) -> None:
    """Drops the parts of a restore that will not be finished."""
    if store.staged is not None and store.staged.restore_id == command.restore_id:
        store.staged = store.prepared = None


def read_staged(staged: Staged, *, tracked_versions: int) -> Prepared:
    """Reads what was put aside; may be called in any thread. Raises UnreadableSnapshot."""
    from nomadpy.state.snapshot import decode

    data = b"".join(staged.parts)
    digest = hashlib.sha256(data).hexdigest()
    return Prepared(staged.restore_id, digest, decode(data, tracked_versions=tracked_versions))


def restore_state(store: StateStore, index: int, command: c.RestoreState) -> dict[str, int]:
    """Exchanges the whole state for the one that was put aside; returns at which index that one was saved."""
    staged = store.staged
    if staged is None or staged.restore_id != command.restore_id:
        raise Conflict("the parts of the snapshot are not there any more; another restore may have begun")
    if not 0 < command.era < 1 << 32:
        raise Invalid(f"{command.era} is no number for an era of ids: it must be above 0 and below 2^32")
    fresh = _staged_state(store, staged, command)
    saved_at, log_index = fresh.index, store.log_index
    facts_version = max(store.nodes.facts_version, fresh.nodes.facts_version) + 1
    store.adopt(fresh)
    store.staged = store.prepared = None
    store.set_position(max(index, saved_at + 1), log_index)
    store.nodes.facts_version = facts_version
    _renew_orders(store.allocs, store.index, command.era)
    return {"saved_at": saved_at}


def _staged_state(store: StateStore, staged: Staged, command: c.RestoreState) -> StateStore:
    prepared = store.prepared
    if prepared is not None and (prepared.restore_id, prepared.sha256) == (command.restore_id, command.sha256):
        return prepared.state
    if hashlib.sha256(b"".join(staged.parts)).hexdigest() != command.sha256:
        raise Conflict("the snapshot did not arrive as it was sent; nothing was changed")
    try:
        return read_staged(staged, tracked_versions=store.jobs.tracked_versions).state
    except UnreadableSnapshot as error:
        raise Conflict(f"{error.message}; nothing was changed") from error


def _renew_orders(table: AllocTable, index: int, era: int) -> None:
    """Has nodes look again at everything that is not over, and gives other ids to what is placed from now on."""
    table.ids = table.ids.with_era(table.size, era)
    stored = np.flatnonzero(table.desired[: table.size] != GONE).astype(np.uint32)
    table.alloc_modify_index[stored[~table.over(stored)]] = index
