"""Follows what the servers assign to this node: waits for news, compares, starts, updates and removes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import trio

from nomadpy.client.ports import Ports
from nomadpy.client.reconcile import reconcile
from nomadpy.model.alloc import Allocation
from nomadpy.model.errors import NomadError, Unavailable
from nomadpy.rpc.contract import Assignments, NodeLease, ServerEndpoint

log = logging.getLogger(__name__)

_WAIT_S = 300.0
_RETRY_S = (0.5, 30.0)
_FETCH_AT_ONCE = 256
_FACT = "assignments_index"
# How long a cluster that knows nothing of this node's allocations may be about to restore a state that does.
_SPARED_S = 1800.0


class Workforce(Protocol):
    """Whoever runs allocations."""

    async def follow_allocs(self, allocs: list[Allocation]) -> None:
        """Stores allocations, then begins to run those that are new and follows the newer word on the others."""

    def remove_alloc(self, alloc_id: str) -> None:
        """Ends and forgets one."""


class AssignmentFollower:
    """Polls for ever. ``index`` is the log index up to which orders were followed; older ones are ignored.

    A cluster that began anew is followed from its beginning, but what it does not know runs on for half an hour, or
    until its log is as long as the former one's: all servers may be lost, and their saved state not restored yet.
    """

    def __init__(
        self, server: ServerEndpoint, ports: Ports, workforce: Workforce, *, on_followed: Callable[[], None]
    ) -> None:
        self._server = server
        self._ports = ports
        self._workforce = workforce
        self._on_followed = on_followed
        self._followed: dict[str, int] = {}
        self._after = 0
        self._former_index, self._spared_until_s = 0, 0.0
        self._waiting = trio.CancelScope()
        self.index: int = ports.ledger.fact(_FACT, int) or 0

    def resume(self, alloc_ids: Iterable[str]) -> None:
        """Allocations known from an earlier agent; the servers are asked about each again."""
        self._followed = dict.fromkeys(alloc_ids, 0)

    def hear_lease(self, lease: NodeLease) -> None:
        """A registration went through the servers' log: an index below ours means that this is another cluster."""
        if 0 < lease.index < self.index:
            fields = {"index": lease.index, "followed": self.index, "spares_what_it_does_not_know_s": _SPARED_S}
            log.warning("assignments.new_cluster", extra={"fields": fields})
            self._former_index, self._spared_until_s = self.index, trio.current_time() + _SPARED_S
            self.index = self._after = 0
            # It may be waiting for the former cluster's next index, which is far away for this one.
            self._waiting.cancel()

    async def run(self) -> None:
        """Follows assignments for ever; needs a registered node."""
        retry_s = _RETRY_S[0]
        while True:
            try:
                await self._follow_once()
                retry_s = _RETRY_S[0]
                continue
            except NomadError as error:
                fields = {"error": error.message, "code": error.code, "retry_s": round(retry_s, 2)}
                log.warning("assignments.not_followed", extra={"fields": fields})
            await trio.sleep(retry_s * self._ports.rng.uniform(0.75, 1.25))
            retry_s = min(retry_s * 2, _RETRY_S[1])

    async def _follow_once(self) -> None:
        node = self._ports.node
        with trio.CancelScope() as self._waiting:
            answer = await self._server.wait_assignments(node.id, node.secret_id, self._after, _WAIT_S)
        if self._waiting.cancelled_caught:
            return
        if answer.index < self.index:
            fields = {"index": answer.index, "followed": self.index}
            log.warning("assignments.older_ignored", extra={"fields": fields})
            await trio.sleep(_RETRY_S[0])
            return
        await self._follow(answer)

    async def _follow(self, answer: Assignments) -> None:
        actions = reconcile(answer.allocs, self._followed)
        wanted = [*actions.start, *actions.update]
        node = self._ports.node
        behind = 0
        for first in range(0, len(wanted), _FETCH_AT_ONCE):
            some = wanted[first : first + _FETCH_AT_ONCE]
            allocs = await self._server.get_allocs(node.id, node.secret_id, some)
            # Another server may have answered, which lacks what the first one knew of.
            allocs = [alloc for alloc in allocs if alloc.alloc_modify_index >= answer.allocs[alloc.id]]
            behind += len(some) - len(allocs)
            await self._workforce.follow_allocs(allocs)
            self._followed.update((alloc.id, answer.allocs[alloc.id]) for alloc in allocs)
        for alloc_id in () if self._spares(answer.index) else actions.destroy:
            del self._followed[alloc_id]
            self._workforce.remove_alloc(alloc_id)
        if answer.index != self.index:
            # The former one as long as it counts: another agent has to notice the new cluster, too.
            await self._ports.ledger.put_fact(_FACT, max(answer.index, self._former_index))
        self.index = answer.index
        if behind:
            raise Unavailable(f"{behind} assigned allocations came late or not at all; they are asked for again")
        self._after = answer.index
        self._on_followed()

    def _spares(self, index: int) -> bool:
        """Whether what is not assigned at this index has to stay nevertheless."""
        if index >= self._former_index or trio.current_time() >= self._spared_until_s:
            self._former_index = 0
        return self._former_index > 0
