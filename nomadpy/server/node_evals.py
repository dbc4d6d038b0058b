"""Which evaluations a change of a node calls for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nomadpy.model.evaluation import TRIGGER_NODE_UPDATE, Evaluation
from nomadpy.model.node import DISCONNECTED, DOWN, INITIALIZING, READY, Node, NodeEvent
from nomadpy.scheduler.facts import matches_any

if TYPE_CHECKING:
    from nomadpy.server.server import Server


def evals_for_node(server: Server, node: Node, trigger: str = TRIGGER_NODE_UPDATE) -> Iterator[Evaluation]:
    """One evaluation per job with allocations on the node, over or not as Nomad does, and one per system or sysbatch
    job that the node could run."""
    store = server.store
    keys: dict[tuple[str, str], None] = {}
    for row in store.allocs.rows_by_node(store.node_number(node.id)):
        keys[store.allocs.shape_of(row).job.key] = None
    for key in store.jobs.everywhere:
        job = store.jobs.current[key]
        if not job.stop and _matches(node, job.node_pool, job.datacenters):
            keys[key] = None
    for namespace, job_id in sorted(keys):
        current = store.job(namespace, job_id)
        if current is None:
            continue
        yield server.new_eval(
            namespace=namespace, job_id=job_id, type=current.type, priority=current.priority, trigger=trigger
        ).replace(node_id=node.id)


def calls_for_evals(old: str, new: str) -> bool:
    """Whether a node's change of status concerns the scheduler."""
    if old == new:
        return False
    return new == DOWN or DISCONNECTED in (old, new) or (new == READY and old in (INITIALIZING, DOWN))


def node_lost_event(now_ns: int) -> NodeEvent:
    """What the node's list of events says when its heartbeats stopped."""
    return NodeEvent(message="Node heartbeat missed", subsystem="Cluster", timestamp_ns=now_ns)


def _matches(node: Node, pool: str, datacenters: tuple[str, ...]) -> bool:
    return pool in ("all", node.node_pool) and matches_any(node.datacenter, datacenters)
