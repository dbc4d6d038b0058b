"""Commands about allocations and evaluations, and garbage collection."""

from __future__ import annotations

import sys

from nomadpy.model import alloc as a
from nomadpy.model.alloc import AllocState, AllocUpdate
from nomadpy.model.errors import NotFound
from nomadpy.model.evaluation import Deployment
from nomadpy.model.resources import AllocatedPort
from nomadpy.state import commands as c
from nomadpy.state.allocs import CLIENT, CLIENT_CODE
from nomadpy.state.apply.deployments import set_health
from nomadpy.state.apply.evals import drop_eval, put_evals, refresh_status, remove_job
from nomadpy.state.jobs import COUNTER
from nomadpy.state.store import StateStore


def update_evals(store: StateStore, index: int, command: c.UpdateEvals) -> None:
    """Stores evaluations, new or changed."""
    put_evals(store, index, command.now_ns, command.evals)


def update_from_clients(store: StateStore, index: int, command: c.UpdateAllocs) -> None:
    """Takes over what nodes report; reports of allocations that are gone are ignored."""
    keys: dict[tuple[str, str], None] = {}
    nodes: dict[int, None] = {}
    for update in command.updates:
        row = store.allocs.row(update.id)
        if row is None:
            continue
        _take_report(store, index, command.now_ns, row, update)
        keys[store.allocs.shape_of(row).job.key] = None
        nodes[int(store.allocs.node[row])] = None
    for number in nodes:
        node = store.nodes.nodes[number]
        if node is not None:
            store.nodes.nodes[number] = node.replace(last_alloc_update_index=index)
    if keys:
        store.touch("allocs")
    put_evals(store, index, command.now_ns, command.evals)
    for key in keys:
        refresh_status(store, index, key)


def _take_report(store: StateStore, index: int, now_ns: int, row: int, update: AllocUpdate) -> None:
    extra = store.allocs.edit(row)
    store.allocs.set_task_states(row, update.task_states)
    extra.client_description = sys.intern(update.client_description)
    if update.deployment_status is not None and _is_verdict(extra.deployment_status, update.deployment_status):
        set_health(store, index, now_ns, row, update.deployment_status)
    if update.network_status is not None:
        extra.network_status = update.network_status
    set_client_status(store, index, now_ns, row, update.client_status)
    store.changed_deployments.append(store.allocs.deployment_id(row))
    store.allocs.touch(row, index, update.modify_time_ns or now_ns, by_server=False)


def _is_verdict(known: a.AllocDeploymentStatus | None, reported: a.AllocDeploymentStatus) -> bool:
    """Whether the report decides about a health that is open. A node may repeat an old verdict when the allocation has
    joined another deployment meanwhile; it is known by its moment."""
    if known is None:
        return True
    return known.healthy is None and not (known.timestamp_ns and known.timestamp_ns == reported.timestamp_ns)


def set_client_status(store: StateStore, index: int, now_ns: int, row: int, status: str) -> None:
    """Changes what the client says of an allocation, with all that is counted by it: the node's use of resources and
    ports, and the job's summary."""
    table = store.allocs
    old = CLIENT[table.client[row]]
    if status == old or status not in CLIENT_CODE:
        return
    was_over = table.is_over(row)
    table.set_client(row, status)
    shape, number = table.shape_of(row), int(table.node[row])
    if table.is_over(row) != was_over:
        if was_over:
            store.nodes.use(number, shape.demand, table.extra(row).ports)
        else:
            store.nodes.release(number, shape.demand)
            if table.extra(row).ports:
                store.nodes.set_ports(number, live_ports(store, number))
    changes = {COUNTER.get(old, old): -1, COUNTER.get(status, status): 1}
    store.jobs.count(shape.job, shape.group.name, index, **changes)
    store.touch("job_summary")


def remember_status(store: StateStore, now_ns: int, row: int) -> None:
    """Enters the allocation's status into its history, where only what the servers decided about it stands: that it was
    lost sight of, that it is back for good, that it is lost. What its node reports is no answer to that."""
    extra = store.allocs.edit(row)
    extra.alloc_states = (*extra.alloc_states, AllocState(value=CLIENT[store.allocs.client[row]], time_ns=now_ns))


def live_ports(store: StateStore, number: int) -> list[AllocatedPort]:
    """The ports that allocations on a node hold."""
    table = store.allocs
    return [port for row in table.rows_by_node(number) if not table.is_over(row) for port in table.extra(row).ports]


def update_transitions(store: StateStore, index: int, command: c.UpdateAllocTransitions) -> None:
    """Records what operators or the drainer want of allocations."""
    rows = {alloc_id: store.allocs.row(alloc_id) for alloc_id in command.transitions}
    unknown = next((alloc_id for alloc_id, row in rows.items() if row is None), None)
    if unknown is not None:
        raise NotFound("allocation not found")
    for alloc_id, transition in command.transitions.items():
        row = rows[alloc_id]
        assert row is not None
        extra = store.allocs.edit(row)
        old = extra.transition or a.DesiredTransition()
        extra.transition = a.DesiredTransition(
            migrate=_newer(transition.migrate, old.migrate),
            reschedule=_newer(transition.reschedule, old.reschedule),
            force_reschedule=_newer(transition.force_reschedule, old.force_reschedule),
            no_shutdown_delay=_newer(transition.no_shutdown_delay, old.no_shutdown_delay),
            migrate_disable_placement=_newer(transition.migrate_disable_placement, old.migrate_disable_placement),
        )
        store.allocs.touch(row, index, command.now_ns, by_server=True)
    store.touch("allocs")
    put_evals(store, index, command.now_ns, command.evals)


def _newer(new: bool | None, old: bool | None) -> bool | None:
    return old if new is None else new


def collect(store: StateStore, index: int, command: c.Collect) -> None:
    """Removes what garbage collection chose, except what has come back to life since it chose: allocations that their
    clients have not declared over, evaluations that are not done, jobs that are not dead, active deployments."""
    table = store.allocs
    rows = {row for alloc_id in command.alloc_ids if (row := table.row(alloc_id)) is not None and table.is_over(row)}
    table.remove(rows)
    evals = [e for eval_id in command.eval_ids if (e := store.evals.get(eval_id)) is not None and e.terminal()]
    for eval_id in dict.fromkeys(e.id for e in evals):
        drop_eval(store, eval_id)
    jobs = [key for key in command.jobs if _may_be_forgotten(store, key)]
    for key in jobs:
        remove_job(store, index, key)
    deployments = [d for i in command.deployment_ids if (d := store.deployments.get(i)) is not None and not d.active()]
    for deployment in deployments:
        _drop_deployment(store, deployment)
    for name, what in (
        ("allocs", rows),
        ("evals", evals),
        ("deployments", deployments),
        ("jobs", jobs),
        ("job_summary", jobs),
    ):
        if what:
            store.touch(name)


def _may_be_forgotten(store: StateStore, key: tuple[str, str]) -> bool:
    job = store.jobs.current.get(key)
    return job is not None and job.status == "dead" and not store.allocs.n_live(key) and key not in store.open_evals


def _drop_deployment(store: StateStore, deployment: Deployment) -> None:
    if store.deployments.pop(deployment.id, None) is None:
        return
    key = (deployment.namespace, deployment.job_id)
    known = store.deployments_by_job[key]
    del known[deployment.id]
    if not known:
        del store.deployments_by_job[key]
