"""Ways to break the cluster, one rule each. An invariant that cannot tell a broken cluster from ours proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pretend_trio as trio
import pytest
from cluster_sim import run_seed
from pretend_disk import PretendFile
from pretend_world import Violation

from nomadpy.client.assignments import AssignmentFollower
from nomadpy.client.reconcile import reconcile
from nomadpy.model.node import DOWN
from nomadpy.model.time import SECOND
from nomadpy.raft.engine import Engine, Role
from nomadpy.raft.firewall import SafetyViolation
from nomadpy.raft.segment import WalCorrupt
from nomadpy.raft.snapshot import SnapshotCorrupt
from nomadpy.server import leader, node_watch
from nomadpy.server.broker import Broker
from nomadpy.server.lost_nodes import Lost, LostNodes, Verdict
from nomadpy.server.server import Server
from nomadpy.server.worker import Worker
from nomadpy.state import commands as c
from nomadpy.state.apply import plans
from nomadpy.state.snapshot_allocs import AllocReader
from nomadpy.state.store import StateStore

Mutation = Callable[[pytest.MonkeyPatch], None]


def sync_that_does_nothing(patch: pytest.MonkeyPatch) -> None:
    """The disk says that it synced, and did not."""
    patch.setattr(PretendFile, "sync", lambda self: None)


def acknowledged_before_commit(patch: pytest.MonkeyPatch) -> None:
    """A leader takes what it sent for stored on every server."""
    ours = Engine.tick

    def tick(self: Engine) -> None:
        inner = self._inner
        if self.role is Role.LEADER:
            matched = inner.__dict__["_SyncObj__raftMatchIndex"]
            for node in matched:
                matched[node] = inner.__dict__["_SyncObj__raftLog"][-1][1]
        ours(self)

    patch.setattr(Engine, "tick", tick)


def older_orders_obeyed(patch: pytest.MonkeyPatch) -> None:
    """A client follows whatever it is told, be it older than what it followed."""

    async def follow_once(self: AssignmentFollower) -> None:
        node = self._ports.node
        await self._follow(await self._server.wait_assignments(node.id, node.secret_id, self._after, 300.0))

    patch.setattr(AssignmentFollower, "_follow_once", follow_once)


def older_allocations_taken(patch: pytest.MonkeyPatch) -> None:
    """A client takes an allocation from a server that is behind for the one that it asked for."""

    async def follow(self: AssignmentFollower, answer: Any) -> None:
        actions, node = reconcile(answer.allocs, self._followed), self._ports.node
        wanted = [*actions.start, *actions.update]
        allocs = await self._server.get_allocs(node.id, node.secret_id, wanted) if wanted else []
        await self._workforce.follow_allocs(allocs)
        self._followed.update((alloc.id, answer.allocs[alloc.id]) for alloc in allocs)
        for alloc_id in actions.destroy:
            del self._followed[alloc_id]
            self._workforce.remove_alloc(alloc_id)
        await self._ports.ledger.put_fact("assignments_index", answer.index)
        self.index = self._after = answer.index

    patch.setattr(AssignmentFollower, "_follow", follow)


def two_schedulers_and_no_verification(patch: pytest.MonkeyPatch) -> None:
    """Two workers decide on the same state, and the applier believes them."""
    lead = leader.lead

    async def lead_with_two(server: Server) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lead, server)
            nursery.start_soon(Worker(server).run)

    patch.setattr(leader, "lead", lead_with_two)
    patch.setattr(plans, "place_fresh", lambda *_: False)
    patch.setattr(plans, "_lacking", lambda free, *_: np.zeros(len(free), bool))


def own_stops_held_against_others(patch: pytest.MonkeyPatch) -> None:
    """Whose lease ran out is lost, whatever this server was doing meanwhile, and however many they are."""

    def look(self: LostNodes, now_ns: int, nodes: frozenset[str], *_: Any) -> Verdict:
        expired = self._heartbeats.expired(now_ns)
        lost = tuple(Lost(node_id, "its lease ran out") for node_id in expired if node_id in nodes)
        return Verdict(lost=lost, wake_ns=now_ns + SECOND)

    async def mark_lost(server: Server, lost: Lost) -> None:
        await server.propose(c.UpdateNodeStatus(now_ns=server.wall_ns(), node_id=lost.node_id, status=DOWN))

    patch.setattr(LostNodes, "look", look)
    patch.setattr(node_watch, "_mark_lost", mark_lost)


def broker_not_rebuilt(patch: pytest.MonkeyPatch) -> None:
    """A new leader does not look for evaluations that the former one left."""
    ours = Server._take_office

    async def take_office(self: Server) -> None:
        await ours(self)
        self.broker = Broker()

    patch.setattr(Server, "_take_office", take_office)


def room_wakes_nobody(patch: pytest.MonkeyPatch) -> None:
    """Blocked evaluations are not tried again when room appears."""
    patch.setattr(Server, "_unblock", lambda self, numbers: [])


def requests_not_remembered(patch: pytest.MonkeyPatch) -> None:
    """A request that comes a second time is carried out a second time."""
    ours = StateStore.apply

    def apply(self: StateStore, index: int, command: Any) -> Any:
        return ours(self, index, msgspec.structs.replace(command, request_id=""))

    patch.setattr(StateStore, "apply", apply)


def requests_not_in_snapshots(patch: pytest.MonkeyPatch) -> None:
    """A server that takes over a snapshot forgets which requests were carried out."""
    ours = StateStore.adopt

    def adopt(self: StateStore, other: StateStore) -> None:
        ours(self, other)
        self._requests.clear()

    patch.setattr(StateStore, "adopt", adopt)


def side_records_not_restored(patch: pytest.MonkeyPatch) -> None:
    """Restoring a snapshot forgets what only some allocations have."""
    ours = AllocReader.take

    def take(self: AllocReader, name: str, data: bytes) -> bool:
        return True if name == "allocs.extra" else ours(self, name, data)

    patch.setattr(AllocReader, "take", take)


def stale_reads(patch: pytest.MonkeyPatch) -> None:
    """Whoever believes to lead answers reads without asking the others."""

    async def consistent(self: Server) -> None:
        await trio.checkpoint()

    patch.setattr(Server, "consistent", consistent)


# Mutation → the profile that finds it, and a seed near one that does.
MUTATIONS: dict[Mutation, tuple[str, int]] = {
    sync_that_does_nothing: ("brief", 0),
    acknowledged_before_commit: ("servers", 0),
    older_orders_obeyed: ("stale", 0),
    older_allocations_taken: ("stale", 0),
    two_schedulers_and_no_verification: ("tight", 6),
    own_stops_held_against_others: ("judge", 0),
    broker_not_rebuilt: ("brief", 0),
    room_wakes_nobody: ("brief", 0),
    requests_not_remembered: ("brief", 0),
    requests_not_in_snapshots: ("brief", 0),
    side_records_not_restored: ("brief", 0),
    stale_reads: ("stale", 0),
}


# What a broken cluster may end with; anything else is a mistake of the mutation itself.
_NOTICED = (Violation, SafetyViolation, WalCorrupt, SnapshotCorrupt)


def search(mutation: Mutation, *, seeds: int) -> tuple[int, str] | None:
    """The first seed that notices a mutation, and what it says; None when none of them does."""
    profile, first = MUTATIONS[mutation]
    with pytest.MonkeyPatch.context() as patch:
        mutation(patch)
        for seed in range(first, first + seeds):
            try:
                run_seed(seed, profile=profile)
            except Exception as error:
                leaf = _leaf(error)
                if not isinstance(leaf, _NOTICED):
                    raise
                return seed, f"{type(leaf).__name__}: {leaf}"
    return None


def _leaf(error: BaseException) -> BaseException:
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
