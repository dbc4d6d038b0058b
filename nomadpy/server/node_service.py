"""What clients ask of the servers: registration, heartbeats, orders and reports. Implements ``rpc.ServerEndpoint``."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import trio

from nomadpy.model.alloc import FAILED, UNKNOWN, Allocation, AllocUpdate
from nomadpy.model.errors import Forbidden, Invalid, NoLeader, NotFound
from nomadpy.model.evaluation import TRIGGER_ALLOC_FAILURE, TRIGGER_RECONNECT, Evaluation
from nomadpy.model.job import ReschedulePolicy
from nomadpy.model.node import DISCONNECTED, DOWN, READY, Node, NodeEvent
from nomadpy.model.node_class import computed_class
from nomadpy.rpc.contract import Assignments, NodeLease
from nomadpy.server.disconnected import status_of_returning
from nomadpy.server.node_evals import calls_for_evals, evals_for_node
from nomadpy.state import commands as c
from nomadpy.state.allocs import CLIENT

if TYPE_CHECKING:
    from nomadpy.server.server import Server

WAIT_S_MAX = 300.0


class NodeService:
    """The servers' side of the conversation with clients."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def register_node(self, node: Node) -> NodeLease:
        """Stores the node's facts and starts its lease. A changed computed class calls for another look at jobs that
        run everywhere."""
        server = self._server
        if not node.id or not node.secret_id or not node.name:
            raise Invalid("a node needs an id, a secret id and a name")
        node = node.replace(computed_class=computed_class(node))
        old = server.store.node(node.id)
        evals: tuple[Evaluation, ...] = ()
        if old is not None and old.status == READY and old.computed_class != node.computed_class:
            evals = tuple(evals_for_node(server, node))
        await server.propose(c.RegisterNode(now_ns=server.wall_ns(), node=node, evals=evals))
        return self._lease(node.id)

    async def heartbeat(self, node_id: str, secret_id: str, status: str) -> NodeLease:
        """Renews the lease, and changes the node's status when it says another one. A node that was disconnected is
        ready again once it has told what became of its allocations. Raises NoLeader where no lease counts."""
        server = self._server
        if not server.log.is_leader:
            raise NoLeader()
        node = self._authentic(node_id, secret_id)
        status = status_of_returning(server.store, node, status)
        if node.status != status:
            now_ns = server.wall_ns()
            evals = tuple(evals_for_node(server, node)) if calls_for_evals(node.status, status) else ()
            event = None
            if node.status in (DOWN, DISCONNECTED):
                event = NodeEvent(message="Node reregistered by heartbeat", subsystem="Cluster", timestamp_ns=now_ns)
            await server.propose(
                c.UpdateNodeStatus(now_ns=now_ns, node_id=node_id, status=status, event=event, evals=evals)
            )
        return self._lease(node_id)

    async def wait_assignments(self, node_id: str, secret_id: str, after: int, wait_s: float) -> Assignments:
        """The node's allocations as soon as they differ from those at index ``after``. Raises NoLeader as soon as this
        server does not lead (any more): what the next leader orders might come here late."""
        server = self._server
        self._hear(node_id, secret_id)
        with trio.move_on_after(min(max(wait_s, 0.0), WAIT_S_MAX)):
            while self._orders_index(number := self._number(node_id, secret_id)) <= after:
                if not server.log.is_leader:
                    raise NoLeader()
                await server.watch.changed(f"orders:{number}")
        # Asked anew, because a restore may have given the node another number, or have made it unknown.
        number = self._number(node_id, secret_id)
        table = server.store.allocs
        allocs = {table.ids.uuid(row): int(table.alloc_modify_index[row]) for row in table.rows_by_node(number)}
        return Assignments(index=self._orders_index(number), allocs=allocs)

    def _number(self, node_id: str, secret_id: str) -> int:
        self._authentic(node_id, secret_id)
        return self._server.store.node_number(node_id)

    def _orders_index(self, number: int) -> int:
        """The index of the last change to what a node should run. After a restart from a snapshot no order is
        remembered; the state as it is now answers for all of them, so that a node does not take the answer for an
        older one."""
        return self._server.orders_index.setdefault(number, self._server.store.index)

    async def get_allocs(self, node_id: str, secret_id: str, alloc_ids: list[str]) -> list[Allocation]:
        """Full allocations with their jobs; ids that are gone are left out."""
        self._hear(node_id, secret_id)
        found = (self._server.store.alloc(alloc_id) for alloc_id in alloc_ids)
        return [alloc for alloc in found if alloc is not None and alloc.node_id == node_id]

    async def update_allocs(self, node_id: str, secret_id: str, updates: list[AllocUpdate]) -> int:
        """Stores what the node reports; failures that may be rescheduled get an evaluation in the same entry. What is
        said of allocations that are gone is left out."""
        server = self._server
        self._hear(node_id, secret_id)
        own = self._known(node_id, updates)
        if len(own) < len(updates):
            # Only a leader can tell what is gone; to any other server, it may not have come yet.
            await server.consistent()
            own = self._known(node_id, updates)
        if not own:
            return server.store.index
        outcome = await server.propose(
            c.UpdateAllocs(now_ns=server.wall_ns(), updates=own, evals=tuple(self._follow_ups(own)))
        )
        return outcome.index

    def _known(self, node_id: str, updates: list[AllocUpdate]) -> tuple[AllocUpdate, ...]:
        number, table = self._server.store.node_number(node_id), self._server.store.allocs
        return tuple(u for u in updates if (row := table.row(u.id)) is not None and int(table.node[row]) == number)

    async def emit_node_events(self, node_id: str, secret_id: str, events: list[NodeEvent]) -> None:
        """Adds to the node's list of events."""
        self._hear(node_id, secret_id)
        server = self._server
        await server.propose(c.AddNodeEvents(now_ns=server.wall_ns(), node_id=node_id, events=tuple(events)))

    def _hear(self, node_id: str, secret_id: str) -> None:
        """Whatever a node asks is a sign of life: after silence its next beat may be half a minute away."""
        self._authentic(node_id, secret_id)
        self._server.heartbeats.heard(node_id, self._server.mono_ns())

    def _authentic(self, node_id: str, secret_id: str) -> Node:
        node = self._server.store.node(node_id)
        if node is None:
            raise NotFound("node not found")
        if not hmac.compare_digest(node.secret_id, secret_id):
            raise Forbidden("node secret ID does not match")
        return node

    def _lease(self, node_id: str) -> NodeLease:
        server = self._server
        node = server.store.node(node_id)
        ttl_s = server.heartbeats.renew(node_id, server.mono_ns())
        return NodeLease(
            heartbeat_ttl_s=ttl_s,
            index=server.store.index,
            status=node.status if node else "",
            servers=tuple(server.known_servers()),
            gossip=tuple(server.gossip_servers()),
        )

    def _follow_ups(self, updates: tuple[AllocUpdate, ...]) -> list[Evaluation]:
        """One evaluation per job that a report concerns: because an allocation failed and may be placed anew, or
        because one is back that was out of reach."""
        server, table = self._server, self._server.store.allocs
        now: dict[tuple[str, str], str] = {}
        for update in updates:
            row = table.row(update.id)
            known = CLIENT[table.client[row]] if row is not None else ""
            if row is None or known == update.client_status or table.desired[row] != 0:
                continue
            shape = table.shape_of(row)
            job = server.store.jobs.current.get(shape.job.key)
            if job is None or job.stop:
                continue
            if known == UNKNOWN:
                now[job.key] = TRIGGER_RECONNECT
            elif update.client_status == FAILED and _may_reschedule(shape.group.reschedule_policy):
                now[job.key] = TRIGGER_ALLOC_FAILURE
        return [self._follow_up(key, trigger) for key, trigger in now.items()]

    def _follow_up(self, key: tuple[str, str], trigger: str) -> Evaluation:
        job = self._server.store.jobs.current[key]
        return self._server.new_eval(
            namespace=job.namespace, job_id=job.id, type=job.type, priority=job.priority, trigger=trigger
        )


def _may_reschedule(policy: ReschedulePolicy | None) -> bool:
    return policy is not None and (policy.unlimited or policy.attempts > 0)
