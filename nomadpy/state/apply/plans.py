"""Plans and deployments.

The applier checks once more what the scheduler decided: stops always pass, placements pass where they still fit. Space
and ports of allocations that the same plan stops count as free, so that a replacement may take its predecessor's place.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from nomadpy.model.alloc import AllocDeploymentStatus, RescheduleTracker
from nomadpy.model.demand import Demand
from nomadpy.model.evaluation import Deployment
from nomadpy.model.job import Job, TaskGroup
from nomadpy.state import commands as c
from nomadpy.state.allocs import DESIRED_CODE
from nomadpy.state.apply.allocs import set_client_status
from nomadpy.state.apply.evals import put_evals, refresh_status
from nomadpy.state.store import StateStore

Numbers = npt.NDArray[np.uint32]


class _Freed:
    """What a plan's stops give back on each node."""

    def __init__(self) -> None:
        self.demand: dict[int, Demand] = {}
        self.ports: dict[int, dict[str, int]] = {}

    def take(self, number: int, demand: Demand, count: int) -> None:
        """Counts what an earlier block of the same plan uses against what its stops gave back."""
        taken = Demand(-demand.cpu * count, -demand.memory * count, -demand.disk * count)
        self.demand[number] = self.demand.get(number, Demand()) + taken


def apply_plans(store: StateStore, index: int, command: c.ApplyPlans) -> list[int]:
    """Carries out plans one after another; returns for each how many of its placements no longer fitted."""
    refused = [_apply_plan(store, index, command.now_ns, plan) for plan in command.plans]
    put_evals(store, index, command.now_ns, command.evals)
    for key in dict.fromkeys((plan.namespace, plan.job_id) for plan in command.plans):
        refresh_status(store, index, key)
    return refused


def _apply_plan(store: StateStore, index: int, now_ns: int, plan: c.PlanResult) -> int:
    freed = _Freed()
    for stop in plan.stops:
        _stop(store, index, now_ns, stop, freed)
    for annotation in plan.annotate:
        _annotate(store, index, now_ns, annotation)
    for update in plan.in_place:
        _update_in_place(store, index, now_ns, update)
    if plan.deployment is not None:
        put_deployment(store, index, now_ns, plan.deployment)
    for change in plan.deployment_updates:
        _change_deployment(store, index, now_ns, change)
    if plan.stops or plan.annotate or plan.in_place:
        store.touch("allocs")
    return _place_all(store, index, now_ns, plan, freed)


# --- stops, updates ---------------------------------------------------------------------------------------------------


def _stop(store: StateStore, index: int, now_ns: int, stop: c.StopAlloc, freed: _Freed) -> None:
    table = store.allocs
    row = table.row(stop.alloc_id)
    if row is None:
        return
    extra = table.edit(row)
    if stop.desired_status in DESIRED_CODE:
        table.desired[row] = DESIRED_CODE[stop.desired_status]
    if stop.description:
        extra.desired_description = stop.description
    if stop.followup_eval_id:
        extra.followup_eval_id = stop.followup_eval_id
    if stop.preempted_by_alloc_id:
        extra.preempted_by = stop.preempted_by_alloc_id
    if stop.client_status:
        set_client_status(store, index, now_ns, row, stop.client_status)
    if not table.is_over(row):
        _give_back(store, row, freed)
    table.touch(row, index, now_ns, by_server=True)


def _give_back(store: StateStore, row: int, freed: _Freed) -> None:
    table = store.allocs
    number = int(table.node[row])
    freed.demand[number] = freed.demand.get(number, Demand()) + table.shape_of(row).demand
    ports = freed.ports.setdefault(number, {})
    for port in table.extra(row).ports:
        ports[port.host_ip] = ports.get(port.host_ip, 0) | 1 << port.value


def _annotate(store: StateStore, index: int, now_ns: int, note: c.AnnotateAlloc) -> None:
    table = store.allocs
    row = table.row(note.alloc_id)
    if row is None:
        return
    extra = table.edit(row)
    if note.followup_eval_id:
        extra.followup_eval_id = note.followup_eval_id
    if note.desired_description:
        extra.desired_description = note.desired_description
    if note.last_reschedule:
        extra.tracker = (extra.tracker or RescheduleTracker()).replace(last_reschedule=note.last_reschedule)
    if note.client_status:
        set_client_status(store, index, now_ns, row, note.client_status)
    table.touch(row, index, now_ns, by_server=True)


def _update_in_place(store: StateStore, index: int, now_ns: int, update: c.UpdateAllocInPlace) -> None:
    table = store.allocs
    row = table.row(update.alloc_id)
    if row is None:
        return
    old = table.shape_of(row)
    job = store.jobs.version(old.job.key, update.job_version)
    group = job.group(old.group.name) if job else None
    if job is None or group is None:
        return
    if not table.is_over(row):
        store.nodes.release(int(table.node[row]), old.demand)
    table.shape[row] = table.shape_code(job, group)
    if not table.is_over(row):
        store.nodes.use(int(table.node[row]), table.shape_of(row).demand)
    table.set_eval(row, update.eval_id)
    table.set_deployment(row, update.deployment_id)
    extra = table.edit(row)
    extra.desired_description = "alloc updating in-place"
    extra.deployment_status = None
    table.touch(row, index, now_ns, by_server=True)


# --- placements -------------------------------------------------------------------------------------------------------


def _place_all(store: StateStore, index: int, now_ns: int, plan: c.PlanResult, freed: _Freed) -> int:
    blocks = []
    refused = 0
    for block in plan.places:
        job = store.jobs.version((block.namespace, block.job_id), block.job_version)
        group = job.group(block.group) if job else None
        nodes = np.frombuffer(block.nodes, dtype="<u4")
        if job is None or group is None or len(block.name_indexes) != len(block.nodes):
            refused += len(nodes)
            continue
        keep = _fitting(store, store.allocs.shape_code(job, group), nodes, block, freed)
        refused += int(len(nodes) - np.count_nonzero(keep))
        blocks.append((block, job, group, nodes, keep))
    if plan.all_at_once and refused:
        return sum(len(block.nodes) // 4 for block in plan.places)
    for block, job, group, nodes, keep in blocks:
        _place_block(store, index, now_ns, block, job, group, nodes, keep)
    return refused


def _fitting(
    store: StateStore, shape: int, nodes: Numbers, block: c.PlaceBlock, freed: _Freed
) -> npt.NDArray[np.bool_]:
    """Which placements still fit, position by position in the block."""
    columns, demand = store.nodes, store.allocs.shapes[shape].demand
    keep = np.ones(len(nodes), dtype=np.bool_)
    if not len(nodes):
        return keep
    keep &= nodes < columns.size
    known = np.where(keep, nodes, 0).astype(np.int64)
    keep &= columns.ready[known]
    counts = np.bincount(known[keep], minlength=columns.size)
    over = _lacking(columns.cpu - columns.cpu_used, counts, demand.cpu, freed, "cpu")
    over |= _lacking(columns.memory - columns.memory_used, counts, demand.memory, freed, "memory")
    over |= _lacking(columns.disk - columns.disk_used, counts, demand.disk, freed, "disk")
    if over.any():
        keep &= ~over[known]
    for position, detail in block.details.items():
        if keep[position] and detail.ports and _ports_taken(store, int(nodes[position]), detail, freed):
            keep[position] = False
    for number, count in Counter(known[keep].tolist()).items():
        freed.take(number, demand, count)
    return keep


def _lacking(
    free: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], ask: int, freed: _Freed, dimension: str
) -> npt.NDArray[np.bool_]:
    if freed.demand:
        free = free.copy()
        for number, demand in freed.demand.items():
            free[number] += getattr(demand, dimension)
    return (counts > 0) & (counts * ask > free)


def _ports_taken(store: StateStore, number: int, detail: c.PlacedAlloc, freed: _Freed) -> bool:
    used, free = store.nodes.used_ports(number), freed.ports.get(number, {})
    for port in detail.ports:
        held = used.get(port.host_ip, 0) & ~free.get(port.host_ip, 0)
        if not port.ignore_collision and held >> port.value & 1:
            return True
    return False


def _place_block(
    store: StateStore,
    index: int,
    now_ns: int,
    block: c.PlaceBlock,
    job: Job,
    group: TaskGroup,
    nodes: Numbers,
    keep: npt.NDArray[np.bool_],
) -> None:
    table = store.allocs
    kept = nodes[keep]
    if not len(kept):
        return
    shape = table.shape_code(job, group)
    names = np.frombuffer(block.name_indexes, dtype="<u4")[keep]
    first = table.append(shape, kept, names, index=index, now_ns=now_ns)
    table.set_origin(first, len(kept), eval_id=block.eval_id, deployment_id=block.deployment_id, metrics=block.metrics)
    store.nodes.use_many(kept.astype(np.int64), table.shapes[shape].demand)
    row_of = {int(position): first + n for n, position in enumerate(np.flatnonzero(keep))}
    for position, detail in block.details.items():
        if position in row_of:
            _set_detail(store, index, now_ns, row_of[position], detail)
    store.jobs.count(job.key, group.name, index, starting=len(kept), queued=-len(kept))
    store.touch("allocs", "job_summary")


def _set_detail(store: StateStore, index: int, now_ns: int, row: int, detail: c.PlacedAlloc) -> None:
    table = store.allocs
    extra = table.edit(row)
    extra.ports, extra.devices, extra.reserved_cores = detail.ports, detail.devices, detail.reserved_cores
    extra.tracker, extra.metrics, extra.preempted = (
        detail.reschedule_tracker,
        detail.metrics,
        detail.preempted_alloc_ids,
    )
    number = int(table.node[row])
    if detail.ports:
        store.nodes.use(number, Demand(), detail.ports)
        store.nodes.alloc_count[number] -= 1  # the allocation itself was counted with its block
    if detail.canary:
        extra.deployment_status = AllocDeploymentStatus(canary=True)
    previous = table.row(detail.previous_alloc_id) if detail.previous_alloc_id else None
    if previous is not None:
        extra.previous = previous
        table.edit(previous).next = row
        table.touch(previous, index, now_ns, by_server=True)


# --- deployments ------------------------------------------------------------------------------------------------------


def put_deployment(store: StateStore, index: int, now_ns: int, deployment: Deployment) -> None:
    """Stores a deployment, new or changed."""
    old = store.deployments.get(deployment.id)
    store.deployments[deployment.id] = deployment.replace(
        create_index=old.create_index if old else index,
        create_time_ns=old.create_time_ns if old else now_ns,
        modify_index=index,
        modify_time_ns=now_ns,
    )
    store.deployments_by_job.setdefault((deployment.namespace, deployment.job_id), {})[deployment.id] = None
    store.touch("deployments")


def _change_deployment(store: StateStore, index: int, now_ns: int, change: c.DeploymentUpdate) -> None:
    old = store.deployments.get(change.deployment_id)
    if old is not None:
        changed = old.replace(status=change.status, status_description=change.description)
        put_deployment(store, index, now_ns, changed)


def update_deployments(store: StateStore, index: int, command: c.UpdateDeployments) -> None:
    """Stores changed deployments and what the watcher wants of their allocations."""
    for deployment in command.deployments:
        put_deployment(store, index, command.now_ns, deployment)
    for alloc_id, transition in command.transitions.items():
        row = store.allocs.row(alloc_id)
        if row is not None:
            store.allocs.edit(row).transition = transition
            store.allocs.touch(row, index, command.now_ns, by_server=True)
            store.touch("allocs")
    put_evals(store, index, command.now_ns, command.evals)
    for key in dict.fromkeys((d.namespace, d.job_id) for d in command.deployments):
        refresh_status(store, index, key)
