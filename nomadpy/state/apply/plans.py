"""Plans.

The applier checks once more what the scheduler decided: stops always pass, placements pass where they still fit. Space
and ports of allocations that the same plan stops count as free, so that a replacement may take its predecessor's place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from nomadpy.model.alloc import EVICT, AllocDeploymentStatus, RescheduleTracker
from nomadpy.model.demand import Demand, group_demand
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.resources import AllocatedDevice
from nomadpy.state import commands as c
from nomadpy.state.allocs import CLIENT, DESIRED_CODE, NewRows
from nomadpy.state.apply import deployments, ports
from nomadpy.state.apply.allocs import remember_status, set_client_status
from nomadpy.state.apply.evals import put_evals, refresh_status
from nomadpy.state.apply.fresh import place_fresh
from nomadpy.state.apply.newcomers import place_newcomers, spell_out
from nomadpy.state.jobs import COUNTER
from nomadpy.state.store import StateStore

Numbers = npt.NDArray[np.uint32]
Block = tuple[c.PlaceBlock, Job, TaskGroup, Numbers, npt.NDArray[np.bool_]]
_Thing = tuple[str, ...]  # ("core", number) or (vendor, type, name, id) of a device


class _Room:
    """How a plan changes what is free on nodes before its placements are stored: what its stops give back, and what
    the placements that were found to fit take."""

    def __init__(self) -> None:
        self.demand: dict[int, Demand] = {}
        self.rows: set[int] = set()
        self.with_ports: set[int] = set()  # nodes on which a stop gives ports back
        self.ports: dict[int, dict[str, int]] = {}
        self.things: dict[int, set[_Thing]] = {}

    def give(self, number: int, demand: Demand) -> None:
        """Counts what a stop gives back."""
        self.demand[number] = self.demand.get(number, Demand()) + demand

    def keep(self, row: int, number: int, demand: Demand) -> None:
        """Takes back what was given for a row that stays after all."""
        self.rows.discard(row)
        self.take(number, demand, 1)

    def take(self, number: int, demand: Demand, count: int) -> None:
        """Counts what an earlier block of the same plan uses against what its stops gave back."""
        taken = Demand(-demand.cpu * count, -demand.memory * count, -demand.disk * count, -demand.cores * count)
        self.demand[number] = self.demand.get(number, Demand()) + taken

    def take_things(self, number: int, detail: c.PlacedAlloc) -> None:
        """Counts ports, cores and device instances, which only one allocation can have."""
        ports = self.ports.setdefault(number, {})
        for port in detail.ports:
            ports[port.host_ip] = ports.get(port.host_ip, 0) | 1 << port.value
        self.things.setdefault(number, set()).update(_things(detail.reserved_cores, detail.devices))


def apply_plans(store: StateStore, index: int, command: c.ApplyPlans) -> list[int]:
    """Carries out plans one after another; returns for each how many of its placements no longer fitted. The
    evaluation of a plan that lost placements stays as it is stored, because it has to be decided again."""
    if _is_stale(store, command):
        return [max(1, _asked(plan)) for plan in command.plans]
    return _carry_out(store, index, command.now_ns, command.plans, command.evals)


def apply_decisions(store: StateStore, index: int, command: c.ApplyDecisions) -> list[int]:
    """The same, followed by the plans of jobs that had nothing."""
    newcomers = command.newcomers
    if _is_stale(store, command):
        return [max(1, _asked(plan)) for plan in command.plans] + [1] * len(newcomers.eval_ids)
    refused = _carry_out(store, index, command.now_ns, command.plans, command.evals)
    if place_newcomers(store, index, command.now_ns, command.view_index, newcomers):
        return refused + [0] * len(newcomers.eval_ids)
    spelled_out = spell_out(store, command.view_index, newcomers)
    known = [each for each in spelled_out if each is not None]
    plans, evals = tuple(plan for plan, _ in known), tuple(evaluation for _, evaluation in known)
    lost = iter(_carry_out(store, index, command.now_ns, plans, evals))
    return refused + [1 if each is None else next(lost) for each in spelled_out]


def _is_stale(store: StateStore, command: c.ApplyPlans | c.ApplyDecisions) -> bool:
    """Whether node numbers and evaluations are those of a state that a restore has replaced."""
    return 0 < command.view_index < store.restored_at


def _carry_out(
    store: StateStore, index: int, now_ns: int, plans: tuple[c.PlanResult, ...], evals: tuple[Evaluation, ...]
) -> list[int]:
    if place_fresh(store, index, now_ns, plans):
        refused = [0] * len(plans)
    else:
        refused = [_apply_plan(store, index, now_ns, plan) for plan in plans]
    lossy = {plan.eval_id for plan, lost in zip(plans, refused, strict=True) if lost}
    undone = {eval_id for eval_id in lossy if eval_id in store.evals}
    put_evals(store, index, now_ns, (e for e in evals if e.id not in undone))
    seen = {(e.namespace, e.job_id) for e in evals if e.id not in undone}
    keys = [(plan.namespace, plan.job_id) for plan in plans]
    for key in dict.fromkeys((*keys, *_losers(store, plans))):
        if key not in seen:
            refresh_status(store, index, key)
    return refused


def _losers(store: StateStore, plans: Iterable[c.PlanResult]) -> Iterator[tuple[str, str]]:
    """The jobs of allocations that were to make room."""
    for plan in plans:
        for detail in (detail for block in plan.places for detail in block.details.values()):
            rows = (store.allocs.row(alloc_id) for alloc_id in detail.preempted_alloc_ids)
            yield from (store.allocs.shape_of(row).job.key for row in rows if row is not None)


def _apply_plan(store: StateStore, index: int, now_ns: int, plan: c.PlanResult) -> int:
    room = _Room()
    for stop in plan.stops:
        _stop(store, index, now_ns, stop, room)
    for annotation in plan.annotate:
        _annotate(store, index, now_ns, annotation)
    for change in plan.deployment_updates:
        deployments.change_status(store, index, now_ns, change)
    if plan.deployment is not None:
        deployments.open_groups(store, index, now_ns, plan.deployment)
    for update in plan.in_place:
        _update_in_place(store, index, now_ns, update)
    if plan.stops or plan.annotate or plan.in_place:
        store.touch("allocs")
    return _place_all(store, index, now_ns, plan, room)


# --- stops, updates ---------------------------------------------------------------------------------------------------


def _stop(store: StateStore, index: int, now_ns: int, stop: c.StopAlloc, room: _Room) -> None:
    table = store.allocs
    row = table.row(stop.alloc_id)
    if row is None:
        return
    extra = table.edit(row)
    if stop.desired_status in DESIRED_CODE:
        table.set_desired(row, stop.desired_status)
    if stop.description:
        extra.desired_description = stop.description
    if stop.followup_eval_id:
        extra.followup_eval_id = stop.followup_eval_id
    if stop.preempted_by_alloc_id:
        extra.preempted_by = stop.preempted_by_alloc_id
    if stop.client_status and not table.is_over(row):
        set_client_status(store, index, now_ns, row, stop.client_status)
        remember_status(store, now_ns, row)
    if not table.is_over(row):
        _give_back(store, row, room)
    table.touch(row, index, now_ns, by_server=True)


def _give_back(store: StateStore, row: int, room: _Room) -> None:
    if row in room.rows:
        return
    table = store.allocs
    number = int(table.node[row])
    room.rows.add(row)
    room.give(number, table.shape_of(row).demand)
    if table.extra(row).ports:
        room.with_ports.add(number)


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
    if note.reconnected:
        extra.followup_eval_id, extra.next = "", -1
        remember_status(store, now_ns, row)
    if note.client_status and not table.is_over(row):
        set_client_status(store, index, now_ns, row, note.client_status)
        remember_status(store, now_ns, row)
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
    table.set_shape(row, table.shape_code(job, group))
    if not table.is_over(row):
        store.nodes.change(int(table.node[row]), old.demand, table.shape_of(row).demand)
    if old.job.create_index != job.create_index:
        # It belonged to a purged job of the same name and counts for the new one from now on.
        status = CLIENT[table.client[row]]
        store.jobs.count(job, group.name, index, **{COUNTER.get(status, status): 1})
        store.touch("job_summary")
    table.set_eval(row, update.eval_id)
    joins = update.deployment_id != table.deployment_id(row)
    table.set_deployment(row, update.deployment_id)
    extra = table.edit(row)
    extra.desired_description = "alloc updating in-place"
    extra.deployment_status = _undecided(extra.deployment_status)
    if joins:
        deployments.count_placed(store, index, now_ns, row)
    table.touch(row, index, now_ns, by_server=True)


def _undecided(known: AllocDeploymentStatus | None) -> AllocDeploymentStatus | None:
    """Health that is asked for again. The moment of the last verdict stays: its node may repeat it before it hears of
    the change, and that is no answer (``allocs``)."""
    return AllocDeploymentStatus(timestamp_ns=known.timestamp_ns) if known is not None and known.timestamp_ns else None


# --- placements -------------------------------------------------------------------------------------------------------


def _asked(plan: c.PlanResult) -> int:
    """How many placements a plan has."""
    return sum(-(-len(block.nodes) // 4) for block in plan.places)


def _place_all(store: StateStore, index: int, now_ns: int, plan: c.PlanResult, room: _Room) -> int:
    blocks: list[Block] = []
    refused = 0
    for block in plan.places:
        job = store.jobs.version((block.namespace, block.job_id), block.job_version)
        group = job.group(block.group) if job else None
        if job is None or group is None or not _is_sound(block, group):
            refused += -(-len(block.nodes) // 4)
            continue
        nodes = np.frombuffer(block.nodes, dtype="<u4")
        keep = _fitting(store, group_demand(group), nodes, block, room)
        refused += int(len(nodes) - np.count_nonzero(keep))
        blocks.append((block, job, group, nodes, keep))
    if plan.all_at_once and refused:
        return _asked(plan)
    for each in blocks:
        _place_block(store, index, now_ns, each)
    return refused


def _is_sound(block: c.PlaceBlock, group: TaskGroup) -> bool:
    """Whether the arrays of a block belong together."""
    if len(block.nodes) % 4 or len(block.name_indexes) != len(block.nodes):
        return False
    return not block.port_values or ports.are_sound(block, group)


def _fitting(
    store: StateStore, demand: Demand, nodes: Numbers, block: c.PlaceBlock, room: _Room
) -> npt.NDArray[np.bool_]:
    """Which placements still fit, position by position in the block. Where not all that a block puts on a node fit,
    none of them is placed there."""
    columns = store.nodes
    keep = nodes < columns.size
    if not keep.any():
        return keep
    known = np.where(keep, nodes, 0).astype(np.int64)
    keep &= columns.ready[known]
    vacated = {at: _vacate(store, detail, room) for at, detail in block.details.items() if detail.preempted_alloc_ids}
    counts = np.bincount(known[keep], minlength=columns.size)
    cpu_free, core_mhz = columns.cpu - columns.cpu_used, columns.core_mhz
    for number, given in room.demand.items():
        cpu_free[number] += given.cores * core_mhz[number]
    over = _lacking(cpu_free, counts, demand.cpu + demand.cores * core_mhz, room, "cpu")
    over |= _lacking(columns.memory - columns.memory_used, counts, demand.memory, room, "memory")
    over |= _lacking(columns.disk - columns.disk_used, counts, demand.disk, room, "disk")
    if block.port_values:
        collisions = _collisions(store, block, known, keep, room)
        over[collisions] = True
    keep &= ~over[known]
    for position, detail in sorted(block.details.items()):
        if 0 <= position < len(keep) and keep[position]:
            number = int(nodes[position])
            if _is_taken(store, number, detail, room):
                keep[position] = False
            else:
                room.take_things(number, detail)
    for position, rows in vacated.items():
        if not (0 <= position < len(keep) and keep[position]):
            for row in rows:
                room.keep(row, int(store.allocs.node[row]), store.allocs.shape_of(row).demand)
    for number, count in Counter(known[keep].tolist()).items():
        room.take(number, demand, count)
    return keep


def _vacate(store: StateStore, detail: c.PlacedAlloc, room: _Room) -> list[int]:
    """Counts what those that have to make room for a placement give back; answers their rows. Who was stopped by
    somebody else meanwhile gives nothing: that room may be promised already."""
    table = store.allocs
    named = [row for alloc_id in detail.preempted_alloc_ids if (row := table.row(alloc_id)) is not None]
    rows = [row for row in named if table.is_live(row) and row not in room.rows]
    for row in rows:
        _give_back(store, row, room)
    return rows


def _lacking(
    free: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    ask: int | npt.NDArray[np.int64],
    room: _Room,
    dimension: str,
) -> npt.NDArray[np.bool_]:
    for number, demand in room.demand.items():
        free[number] += getattr(demand, dimension)
    return (counts > 0) & (counts * ask > free)


def _collisions(
    store: StateStore,
    block: c.PlaceBlock,
    nodes: npt.NDArray[np.int64],
    keep: npt.NDArray[np.bool_],
    room: _Room,
) -> list[int]:
    """The nodes on which a port of the block is not free; for the others the ports count as taken by the plan."""
    found = []
    for number, sets, once in ports.by_node(ports.values_of(block)[keep], nodes[keep], block.port_hosts):
        used, placed = _used_ports(store, number, room), room.ports.setdefault(number, {})
        if not once or any((used.get(ip, 0) | placed.get(ip, 0)) & bits for ip, bits in sets.items()):
            found.append(number)
            continue
        for ip, bits in sets.items():
            placed[ip] = placed.get(ip, 0) | bits
    return found


def _is_taken(store: StateStore, number: int, detail: c.PlacedAlloc, room: _Room) -> bool:
    """Whether a live allocation that the plan leaves alone, or an earlier placement of it, has one of the things."""
    if detail.ports and _ports_taken(store, number, detail, room):
        return True
    wanted = _things(detail.reserved_cores, detail.devices)
    if not wanted:
        return False
    held = set(room.things.get(number, ()))
    for row in _remaining(store, number, room):
        extra = store.allocs.extra(row)
        held.update(_things(extra.reserved_cores or {}, extra.devices or {}))
    return not held.isdisjoint(wanted)


def _used_ports(store: StateStore, number: int, room: _Room) -> dict[str, int]:
    """The ports that live allocations hold on a node and the plan leaves alone."""
    used = store.nodes.used_ports(number)
    if number in room.with_ports:
        # Summed anew instead of subtracted: two allocations may share a port with ``ignore_collision``.
        used = {}
        for row in _remaining(store, number, room):
            for port in store.allocs.extra(row).ports:
                used[port.host_ip] = used.get(port.host_ip, 0) | 1 << port.value
    return used


def _ports_taken(store: StateStore, number: int, detail: c.PlacedAlloc, room: _Room) -> bool:
    used = _used_ports(store, number, room)
    placed = room.ports.get(number, {})
    for port in detail.ports:
        if not 0 <= port.value <= ports.PORT_MAX:
            return True
        held = used.get(port.host_ip, 0) | placed.get(port.host_ip, 0)
        if not port.ignore_collision and held >> port.value & 1:
            return True
    return False


def _remaining(store: StateStore, number: int, room: _Room) -> Iterator[int]:
    """The rows that hold something on a node and are not stopped by the plan."""
    table = store.allocs
    return (row for row in table.rows_by_node(number) if not table.is_over(row) and row not in room.rows)


def _things(cores: Mapping[str, Iterable[int]], devices: Mapping[str, Iterable[AllocatedDevice]]) -> set[_Thing]:
    held: set[_Thing] = {("core", str(core)) for given in cores.values() for core in given}
    held.update((d.vendor, d.type, d.name, i) for given in devices.values() for d in given for i in d.device_ids)
    return held


def _place_block(store: StateStore, index: int, now_ns: int, placed: Block) -> None:
    block, job, group, nodes, keep = placed
    table = store.allocs
    kept = nodes[keep]
    if not len(kept):
        return
    names = np.frombuffer(block.name_indexes, dtype="<u4")[keep]
    rows = NewRows(job, group, kept, names, block.eval_id, block.deployment_id, block.metrics)
    first = table.append([rows], index=index, now_ns=now_ns)
    store.nodes.use_many(kept.astype(np.int64), group_demand(group))
    row_of = {int(position): first + n for n, position in enumerate(np.flatnonzero(keep))}
    for position, detail in block.details.items():
        if position in row_of:
            _set_detail(store, index, now_ns, row_of[position], detail)
    if block.port_values:
        values = ports.values_of(block)[keep]
        ports.note(store, block, group, first, kept, values)
        for number, sets, _ in ports.by_node(values, kept.astype(np.int64), block.port_hosts):
            store.nodes.add_port_sets(number, sets)
    if block.deployment_id:
        canaries = [row_of[at] for at, detail in sorted(block.details.items()) if detail.canary and at in row_of]
        deployments.count_placed(store, index, now_ns, first, count=len(kept), canary_rows=canaries)
    store.jobs.count(job, group.name, index, starting=len(kept), queued=-len(kept))
    store.touch("allocs", "job_summary")


def _evict(store: StateStore, index: int, now_ns: int, alloc_id: str, *, by: int) -> None:
    table = store.allocs
    row = table.row(alloc_id)
    if row is None or not table.is_live(row):
        return
    winner = table.ids.uuid(by)
    table.set_desired(row, EVICT)
    extra = table.edit(row)
    extra.preempted_by = winner
    extra.desired_description = f"Preempted by alloc ID {winner}"
    table.touch(row, index, now_ns, by_server=True)


def _set_detail(store: StateStore, index: int, now_ns: int, row: int, detail: c.PlacedAlloc) -> None:
    table = store.allocs
    extra = table.edit(row)
    extra.ports, extra.devices, extra.reserved_cores = (
        detail.ports,
        detail.devices or None,
        detail.reserved_cores or None,
    )
    extra.tracker, extra.metrics, extra.preempted = (
        detail.reschedule_tracker,
        detail.metrics,
        detail.preempted_alloc_ids,
    )
    for alloc_id in detail.preempted_alloc_ids:
        _evict(store, index, now_ns, alloc_id, by=row)
    number = int(table.node[row])
    if detail.ports:
        store.nodes.add_ports(number, detail.ports)
    if detail.canary:
        extra.deployment_status = AllocDeploymentStatus(canary=True)
    previous = table.row(detail.previous_alloc_id) if detail.previous_alloc_id else None
    if previous is not None:
        extra.previous = previous
        table.edit(previous).next = row
        table.touch(previous, index, now_ns, by_server=True)
