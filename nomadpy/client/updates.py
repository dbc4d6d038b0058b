"""Tells the servers what became of allocations: batched, one report under way, the latest state wins.

A report is sent only after it is in the ledger, and repeated until the servers have it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterable

import trio

from nomadpy.model.alloc import PENDING, AllocUpdate
from nomadpy.model.errors import NomadError

log = logging.getLogger(__name__)

# News of what tasks are doing waits this long for company; a changed status of an allocation does not.
BATCH_S = 0.2
# On average one report in so many seconds whatever happens, and after a quiet time so many at once.
_INTERVAL_S, _BURST = 0.02, 20
_GATHER_S = 0.002
_RETRY_S = (0.5, 30.0)


class UpdateReporter:
    """Collects ids of changed allocations and reports them.

    ``collect`` gives the present report of an id (None when it is gone), ``store`` makes reports durable, ``send``
    delivers them, ``delivered`` hears of what the servers have.
    """

    def __init__(
        self,
        *,
        collect: Callable[[str], AllocUpdate | None],
        store: Callable[[list[AllocUpdate]], Awaitable[None]],
        send: Callable[[list[AllocUpdate]], Awaitable[int]],
        delivered: Callable[[list[AllocUpdate]], Awaitable[None]],
        rng: random.Random,
    ) -> None:
        self._collect, self._store, self._send, self._delivered = collect, store, send, delivered
        self._rng = rng
        self._changed: set[str] = set()
        self._acknowledged: dict[str, AllocUpdate] = {}
        self._wake = trio.Event()
        self._urgent = trio.Event()
        self._due_s = 0.0

    def mark(self, alloc_id: str) -> None:
        """The allocation may have changed."""
        self._changed.add(alloc_id)
        self._wake.set()
        update, known = self._collect(alloc_id), self._acknowledged.get(alloc_id)
        if update is not None and update.client_status != (known.client_status if known else PENDING):
            self._urgent.set()

    def report_again(self, alloc_ids: Iterable[str]) -> None:
        """The servers may have given these up meanwhile, so even unchanged states are told once more."""
        for alloc_id in alloc_ids:
            self._acknowledged.pop(alloc_id, None)
            self.mark(alloc_id)

    def forget(self, alloc_id: str) -> None:
        """The allocation is gone; nothing more is said of it."""
        self._changed.discard(alloc_id)
        self._acknowledged.pop(alloc_id, None)

    @property
    def idle(self) -> bool:
        """Whether the servers know everything."""
        return not self._changed

    async def run(self) -> None:
        """Reports for ever."""
        retry_s = _RETRY_S[0]
        while True:
            await self._wake.wait()
            await self._gather()
            self._wake = trio.Event()
            if await self._report():
                retry_s = _RETRY_S[0]
                if self._changed:
                    self._wake.set()
                continue
            await trio.sleep(retry_s * self._rng.uniform(0.75, 1.25))
            retry_s = min(retry_s * 2, _RETRY_S[1])
            self._wake.set()

    async def _gather(self) -> None:
        """Waits for the moment of the next report."""
        with trio.move_on_after(BATCH_S):
            await self._urgent.wait()
        self._urgent = trio.Event()
        now_s = trio.current_time()
        self._due_s = max(self._due_s, now_s - _BURST * _INTERVAL_S)
        await trio.sleep(max(_GATHER_S, self._due_s - now_s))
        self._due_s += _INTERVAL_S

    async def _report(self) -> bool:
        """One report of everything that differs from what the servers have; False when it must be repeated."""
        ids, self._changed = self._changed, set()
        updates = [update for id in sorted(ids) if (update := self._collect(id)) is not None]
        news = [update for update in updates if self._is_news(update)]
        try:
            if news:
                await self._store(news)
                await self._send(news)
                self._acknowledged.update((update.id, update) for update in news)
            await self._delivered(updates)
        except NomadError as error:
            self._changed |= ids
            fields = {"n_allocs": len(news), "error": error.message, "code": error.code}
            log.warning("updates.not_sent", extra={"fields": fields})
            return False
        return True

    def _is_news(self, update: AllocUpdate) -> bool:
        known = self._acknowledged.get(update.id)
        return known is None or known.replace(modify_time_ns=0) != update.replace(modify_time_ns=0)
