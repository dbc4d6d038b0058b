"""Commands about nodes."""

from __future__ import annotations

from typing import Any

from nomadpy.model.errors import Conflict, Forbidden, Invalid, NotFound
from nomadpy.model.node import ELIGIBLE, INELIGIBLE, INITIALIZING, READY, LastDrain, Node, NodeEvent, NodePool
from nomadpy.state import commands as c
from nomadpy.state.apply.evals import put_evals
from nomadpy.state.apply.operator import POOL_NAME
from nomadpy.state.store import StateStore

EVENTS_KEPT = 10


def register(store: StateStore, index: int, command: c.RegisterNode) -> dict[str, Any]:
    """Creates a node or updates the facts its client reports; an unknown node pool comes into being."""
    node, old = command.node, store.nodes.get(command.node.id)
    if old is not None and old.secret_id != node.secret_id:
        raise Forbidden("node secret ID does not match")
    if node.node_pool == "all":
        raise Invalid('node is not allowed to register in node pool "all"', status=500)
    if not POOL_NAME.fullmatch(node.node_pool):
        text = f'invalid name "{node.node_pool}", must match regex {POOL_NAME.pattern}'
        raise Invalid(f"invalid node pool: {text}", status=500)
    if node.node_pool not in store.node_pools:
        store.node_pools[node.node_pool] = NodePool(name=node.node_pool, create_index=index, modify_index=index)
        store.touch("node_pools")
    if old is None:
        events: tuple[NodeEvent, ...] = (_event("Node registered", command.now_ns, index),)
        node = node.replace(status=INITIALIZING, status_updated_at=command.now_ns // 10**9, create_index=index)
    else:
        events = old.events
        if old.status not in (READY, INITIALIZING):
            events = (*events, _event("Node re-registered", command.now_ns, index))
        node = node.replace(
            status=old.status,
            status_description=old.status_description,
            status_updated_at=old.status_updated_at,
            scheduling_eligibility=old.scheduling_eligibility,
            drain_strategy=old.drain_strategy,
            last_drain=old.last_drain,
            last_missed_heartbeat_index=old.last_missed_heartbeat_index,
            last_alloc_update_index=old.last_alloc_update_index,
            create_index=old.create_index,
        )
    store.nodes.put(node.replace(events=events[-EVENTS_KEPT:], modify_index=index))
    store.touch("nodes")
    put_evals(store, index, command.now_ns, (e.replace(node_modify_index=index) for e in command.evals))
    return {"status": node.status}


def update_status(store: StateStore, index: int, command: c.UpdateNodeStatus) -> None:
    """Sets a node's status."""
    node = _node(store, command.node_id)
    if command.status not in ("initializing", "ready", "down", "disconnected"):
        raise Invalid(f'invalid node status "{command.status}"', status=500)
    changed = node.replace(status=command.status, status_updated_at=command.now_ns // 10**9)
    if node.status == READY and command.status != READY:
        changed = changed.replace(last_missed_heartbeat_index=index)
    _put(store, index, changed, command.event)
    put_evals(store, index, command.now_ns, (e.replace(node_modify_index=index) for e in command.evals))


def update_eligibility(store: StateStore, index: int, command: c.UpdateNodeEligibility) -> None:
    """Lets the scheduler use a node, or not."""
    node = _node(store, command.node_id)
    if command.eligibility not in (ELIGIBLE, INELIGIBLE):
        raise Invalid(f'invalid scheduling eligibility "{command.eligibility}"', status=500)
    if command.eligibility == ELIGIBLE and node.drain_strategy is not None:
        text = "can not set node's scheduling eligibility to eligible while it is draining"
        raise Invalid(text, status=500)
    _put(store, index, node.replace(scheduling_eligibility=command.eligibility), command.event)
    put_evals(store, index, command.now_ns, (e.replace(node_modify_index=index) for e in command.evals))


def update_drain(store: StateStore, index: int, command: c.UpdateNodeDrain) -> None:
    """Starts, changes or ends a drain; a draining node takes no new work."""
    node = _node(store, command.node_id)
    drain, old = command.drain, node.drain_strategy
    if command.completed is not None and command.completed != old:
        raise Conflict("the node's drain was changed or ended meanwhile")
    if drain is not None:
        drain = drain.replace(started_at_ns=old.started_at_ns if old is not None else command.now_ns)
        changed = node.replace(drain_strategy=drain, scheduling_eligibility=INELIGIBLE)
    else:
        eligibility = ELIGIBLE if command.mark_eligible else node.scheduling_eligibility
        changed = node.replace(drain_strategy=None, scheduling_eligibility=eligibility)
    if drain is not None or old is not None:
        changed = changed.replace(last_drain=_last_drain(node, command))
    _put(store, index, changed, command.event)
    put_evals(store, index, command.now_ns, (e.replace(node_modify_index=index) for e in command.evals))


def _last_drain(node: Node, command: c.UpdateNodeDrain) -> LastDrain:
    """What is remembered of the drain that the command starts, changes or ends."""
    known = node.last_drain if node.drain_strategy is not None else None
    last = known or LastDrain(started_at_ns=command.now_ns)
    if command.drain is not None:
        status = "draining"
    else:
        status = "complete" if command.completed is not None else "canceled"
    return last.replace(
        updated_at_ns=command.now_ns,
        status=status,
        accessor_id=command.accessor_id or last.accessor_id,
        meta=command.meta or last.meta,
    )


def add_events(store: StateStore, index: int, command: c.AddNodeEvents) -> None:
    """Adds to the node's list of events, of which the ten newest are kept."""
    node = _node(store, command.node_id)
    events = (*node.events, *(event.replace(create_index=index) for event in command.events))
    store.nodes.put(node.replace(events=events[-EVENTS_KEPT:], modify_index=index))
    store.touch("nodes")


def deregister(store: StateStore, index: int, command: c.DeregisterNodes) -> None:
    """Purges nodes; their allocations are for the evaluations to declare lost."""
    for node_id in command.node_ids:
        _node(store, node_id)
    for node_id in command.node_ids:
        store.nodes.remove(node_id)
    store.touch("nodes")
    put_evals(store, index, command.now_ns, (e.replace(node_modify_index=index) for e in command.evals))


def _node(store: StateStore, node_id: str) -> Node:
    node = store.nodes.get(node_id)
    if node is None:
        raise NotFound("node not found", status=500)
    return node


def _put(store: StateStore, index: int, node: Node, event: NodeEvent | None) -> None:
    events = node.events if event is None else (*node.events, event.replace(create_index=index))
    store.nodes.put(node.replace(events=events[-EVENTS_KEPT:], modify_index=index))
    store.touch("nodes")


def _event(message: str, now_ns: int, index: int) -> NodeEvent:
    return NodeEvent(message=message, subsystem="Cluster", timestamp_ns=now_ns, create_index=index)
