"""Reads a state that is to be restored before the entry comes that restores it: in a thread, on every server.

Reading takes seconds for a million task states. In the entry itself that would hold up the loops of all servers at the
same moment, and none of them could hear the leader. A server that has not read it by then reads it in the entry: what
comes of it is the same.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from nomadpy.state.apply.restore import read_staged
from nomadpy.state.sections import UnreadableSnapshot
from nomadpy.state.store import Staged

if TYPE_CHECKING:
    from nomadpy.server.server import Server

log = logging.getLogger(__name__)

# Whoever waits for this server gives the others so much longer, as a share of the time that it took here.
_OTHERS_SHARE, _OTHERS_S = 0.5, 0.05
_PATIENCE_S = 120.0


class Restoring:
    """One server's part in restores, while ``run`` runs."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._wanted: Staged | None = None
        self._noted = trio.Event()
        self._read: Staged | None = None
        self._took_s = 0.0
        self._done = trio.Event()

    def note(self) -> None:
        """An entry has been applied, perhaps the last part of a state."""
        staged = self._server.store.staged
        if staged is not self._wanted:
            self._wanted = staged
            if staged is not None and staged.complete:
                self._noted.set()

    async def run(self) -> None:
        """Reads what is wanted until cancelled."""
        while True:
            await self._noted.wait()
            self._noted, staged = trio.Event(), self._wanted
            if staged is not None and staged.complete:
                await self._prepare(staged)
            self._read = staged
            self._done.set()
            self._done = trio.Event()

    async def _prepare(self, staged: Staged) -> None:
        store, began_s = self._server.store, trio.current_time()
        tracked_versions = store.jobs.tracked_versions
        try:
            prepared = await trio.to_thread.run_sync(lambda: read_staged(staged, tracked_versions=tracked_versions))
        except UnreadableSnapshot as error:
            # The entry that restores it says so to whoever asked.
            log.warning("restore.unreadable", extra={"fields": {"error": error.message}})
            return
        self._took_s = trio.current_time() - began_s
        if store.staged is staged:
            store.prepared = prepared

    async def others_ready(self) -> None:
        """Returns once this server has read what is put aside and the others probably have, or after a while."""
        store = self._server.store
        with trio.move_on_after(_PATIENCE_S):
            while store.staged is not None and store.staged.complete and store.staged is not self._read:
                await self._done.wait()
        await trio.sleep(_OTHERS_S + _OTHERS_SHARE * self._took_s)
