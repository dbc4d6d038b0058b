"""Saving the whole state, and restoring a saved one, for operators."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import trio

from nomadpy import __version__
from nomadpy.model.caller import Caller
from nomadpy.model.errors import Conflict, Unavailable
from nomadpy.model.ids import new_uuid
from nomadpy.state import commands as c
from nomadpy.state.archive import SnapshotMeta, pack, unpack
from nomadpy.state.sections import SCHEMA
from nomadpy.state.snapshot import decode

if TYPE_CHECKING:
    from nomadpy.server.server import Server

_PART_BYTES = 4 << 20
# A server that has not read the state by then does so at the last entry.
_RESTORE_S = 300.0
_ABANDON_S = 5.0


class BackupHandlers:
    """``operator snapshot save`` and ``restore``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._restoring = False

    async def save(self, caller: Caller, *, stale: bool) -> tuple[SnapshotMeta, bytes]:
        """An archive of the state, and what it says of itself. ``stale`` takes this server's state as it is; otherwise
        it holds everything that was acknowledged before. Raises NoLeader."""
        caller.require("", "operator:snapshot-save", "management")
        server = self._server
        if not stale:
            await server.consistent()
        index, term = server.store.index, server.log.statistics().term
        meta = SnapshotMeta(
            id=f"{term}-{index}",
            index=index,
            term=term,
            cluster_id=server.store.cluster_id,
            server_version=__version__,
            schema=SCHEMA,
        )
        state_bytes = server.freeze_state()
        return meta, await trio.to_thread.run_sync(lambda: pack(meta, state_bytes()))

    async def restore(self, caller: Caller, archive: bytes) -> int:
        """Replaces the state of all servers by the one in an archive; returns the index from which it counts. It is
        read as a whole before anything is proposed. Raises Invalid, UnreadableSnapshot, NewerSnapshot, Conflict, and
        what ``propose`` raises; then nothing was changed, except after OutcomeUnknown, when it may still be."""
        caller.require("", "management")
        if self._restoring:
            raise Conflict("a snapshot is being restored already; wait until that is done")
        self._restoring = True
        try:
            tracked_versions = self._server.config.job_tracked_versions
            state = await trio.to_thread.run_sync(lambda: unpack(archive).state)
            await trio.to_thread.run_sync(lambda: decode(state, tracked_versions=tracked_versions))
            return await self._propose(state)
        finally:
            self._restoring = False

    async def _propose(self, state: bytes) -> int:
        server, restore_id = self._server, new_uuid(self._server.rng)
        digest = hashlib.sha256(state).hexdigest()
        try:
            for at in range(0, len(state), _PART_BYTES):
                data, now_ns = state[at : at + _PART_BYTES], server.wall_ns()
                last = at + _PART_BYTES >= len(state)
                await server.propose(
                    c.StageRestore(now_ns=now_ns, restore_id=restore_id, offset=at, data=data, last=last)
                )
            await server.restoring.others_ready()
            era, now_ns = server.rng.randrange(1, 1 << 32), server.wall_ns()
            restore = c.RestoreState(now_ns=now_ns, restore_id=restore_id, sha256=digest, era=era)
            outcome = await server.propose(restore, timeout_s=_RESTORE_S)
        except BaseException:
            await self._abandon(restore_id)
            raise
        return outcome.index

    async def _abandon(self, restore_id: str) -> None:
        """Frees what the servers put aside. Without a leader it stays until the next restore takes its place."""
        with trio.move_on_after(_ABANDON_S) as scope:
            scope.shield = True
            try:
                await self._server.propose(
                    c.AbandonRestore(now_ns=self._server.wall_ns(), restore_id=restore_id), timeout_s=_ABANDON_S
                )
            except Unavailable:
                return
