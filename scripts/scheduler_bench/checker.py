"""Whether what a server stored could really run: capacity, constraints, ports, counts, names, indexes.

Written from the records of nodes, jobs and allocations alone. It uses nothing of the scheduler and none of the sums that
the state keeps; those are compared with sums of its own.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import numpy as np

from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.node import Node
from nomadpy.model.resources import Constraint
from nomadpy.state.store import StateStore

SAMPLE = 2000
_PORTS_FROM, _PORTS_TO = 20_000, 32_000


class Wrong(Exception):
    """Something that was stored cannot be."""


def check(store: StateStore, *, complete: bool = True) -> int:
    """How many live allocations there are, all of them right; raises Wrong otherwise. ``complete``: every job has as many
    as it wants."""
    table = store.allocs
    size = table.size
    rows = np.flatnonzero((table.desired[:size] == 0) & (table.client[:size] < 2))
    shape_of, node_of, name_of = table.shape[rows], table.node[rows].astype(np.int64), table.name_index[rows]
    nodes = list(store.nodes.nodes)
    groups = _groups_by_shape(store, np.unique(shape_of).tolist())
    _check_capacity(store, nodes, groups, shape_of, node_of)
    _check_where(nodes, groups, shape_of, node_of)
    _check_names(store, groups, shape_of, name_of, complete=complete)
    _check_ports(store, groups, rows, shape_of, node_of)
    _check_indexes(store, rows, shape_of, node_of)
    _check_sample(store, rows)
    if complete:
        _check_evals(store)
    return len(rows)


Groups = dict[int, tuple[Job, TaskGroup]]


def _groups_by_shape(store: StateStore, codes: list[int]) -> Groups:
    found = {}
    for code in codes:
        shape = store.allocs.shapes[code]
        current = store.jobs.current.get(shape.job.key)
        if current is None or current.job_modify_index != shape.job.job_modify_index:
            raise Wrong(f"allocations of a version of {shape.job.id} that is not the current one")
        group = next((each for each in current.task_groups if each.name == shape.group.name), None)
        if group is None:
            raise Wrong(f"allocations of a group that {shape.job.id} has not")
        found[code] = (current, group)
    return found


def _check_capacity(store: StateStore, nodes: list[Node | None], groups: Groups, shape_of: Any, node_of: Any) -> None:
    asks = np.zeros((3, max(groups, default=0) + 1), dtype=np.int64)
    for code, (_, group) in groups.items():
        asks[0, code] = sum(task.resources.cpu for task in group.tasks)
        asks[1, code] = sum(task.resources.memory_mb for task in group.tasks)
        asks[2, code] = group.ephemeral_disk.size_mb if group.ephemeral_disk else 0
    has = np.array(
        [
            (
                node.node_resources.cpu.cpu_shares - node.reserved_resources.cpu.cpu_shares,
                node.node_resources.memory.memory_mb - node.reserved_resources.memory.memory_mb,
                node.node_resources.disk.disk_mb - node.reserved_resources.disk.disk_mb,
            )
            if node is not None
            else (0, 0, 0)
            for node in nodes
        ],
        dtype=np.int64,
    )
    kept = (store.nodes.cpu_used, store.nodes.memory_used, store.nodes.disk_used)
    for dimension, name in enumerate(("cpu", "memory", "disk")):
        used = np.zeros(len(nodes), dtype=np.int64)
        np.add.at(used, node_of, asks[dimension][shape_of])
        if (used > has[:, dimension]).any():
            raise Wrong(f"more {name} is used than node {int(np.argmax(used > has[:, dimension]))} has")
        if (used != kept[dimension]).any():
            raise Wrong(f"the state's sum of {name} is wrong")
    if (np.bincount(node_of, minlength=len(nodes)) != store.nodes.alloc_count).any():
        raise Wrong("the state's number of allocations per node is wrong")


# --- where --------------------------------------------------------------------------------------------------------------


def _check_where(nodes: list[Node | None], groups: Groups, shape_of: Any, node_of: Any) -> None:
    known: dict[Any, Any] = {}

    def mask(key: Any, test: Any) -> Any:
        if key not in known:
            known[key] = np.array([node is not None and bool(test(node)) for node in nodes])
        return known[key]

    order = np.argsort(shape_of, kind="stable")
    codes, starts = np.unique(shape_of[order], return_index=True)
    ends = [*starts[1:].tolist(), len(order)]
    for code, start, end in zip(codes.tolist(), starts.tolist(), ends, strict=True):
        job, group = groups[code]
        allowed = mask("ready", lambda n: n.status == "ready" and n.drain_strategy is None) & mask(
            ("where", job.datacenters, job.node_pool),
            lambda n, job=job: (
                (n.datacenter in job.datacenters or "*" in job.datacenters) and job.node_pool in (n.node_pool, "all")
            ),
        )
        for task in group.tasks:
            allowed = allowed & mask(
                ("driver", task.driver), lambda n, d=task.driver: d in n.drivers and n.drivers[d].healthy
            )
        constraints = [*job.constraints, *group.constraints, *(c for task in group.tasks for c in task.constraints)]
        for each in constraints:
            allowed = allowed & mask(each, lambda n, c=each: _holds(n, c))
        used = node_of[order[start:end]]
        if not allowed[used].all():
            raise Wrong(f"{job.id} runs on node {int(used[np.argmin(allowed[used])])}, where it must not")


def _holds(node: Node, constraint: Constraint) -> bool:
    left, right = _value(node, constraint.l_target), _value(node, constraint.r_target)
    if left is None:
        return False
    match constraint.operand:
        case "=":
            return left == right
        case "!=":
            return left != right
        case "regexp":
            return re.search(str(right), left) is not None
        case ">=":
            return int(left) >= int(right or 0)
        case "set_contains":
            return set(str(right).split(",")) <= set(left.split(","))
    raise Wrong(f"the checker does not know the operand {constraint.operand}")


def _value(node: Node, target: str) -> str | None:
    if not target.startswith("${"):
        return target
    word = target[2:-1]
    if word.startswith("attr."):
        return node.attributes.get(word[5:])
    if word.startswith("meta."):
        return node.meta.get(word[5:])
    return {"node.class": node.node_class, "node.datacenter": node.datacenter, "node.unique.name": node.name}.get(word)


# --- what ---------------------------------------------------------------------------------------------------------------


def _check_names(store: StateStore, groups: Groups, shape_of: Any, name_of: Any, *, complete: bool) -> None:
    pairs = shape_of.astype(np.uint64) << np.uint64(32) | name_of
    if len(np.unique(pairs)) != len(pairs):
        raise Wrong("two allocations of a group have the same name")
    counts = dict(zip(*(each.tolist() for each in np.unique(shape_of, return_counts=True)), strict=True))
    limits = np.zeros(max(groups, default=0) + 1, dtype=np.int64)
    for code, (job, group) in groups.items():
        limits[code] = group.count
        if complete and counts[code] != group.count:
            raise Wrong(f"{job.id} has {counts[code]} allocations and wants {group.count}")
    if (name_of >= limits[shape_of]).any():
        raise Wrong("an allocation's number is not below the count")
    if complete:
        wanted = sum(group.count > 0 for job in store.jobs.current.values() for group in job.task_groups)
        if wanted != len(groups):
            raise Wrong(f"{wanted - len(groups)} groups have no allocations at all")


def _check_ports(store: StateStore, groups: Groups, rows: Any, shape_of: Any, node_of: Any) -> None:
    wanting = {
        code: {port.label for network in group.networks for port in network.dynamic_ports}
        for code, (_, group) in groups.items()
        if any(network.dynamic_ports for network in group.networks)
    }
    taken: set[tuple[int, str, int]] = set()
    if not wanting:
        return
    for row, code, number in zip(rows.tolist(), shape_of.tolist(), node_of.tolist(), strict=True):
        if code not in wanting:
            continue
        resources = store.alloc_at(row).allocated_resources
        ports = resources.shared.ports if resources is not None else ()
        if {port.label for port in ports} != wanting[code]:
            raise Wrong(f"allocation {row} lacks ports")
        for port in ports:
            key = (number, port.host_ip, port.value)
            if key in taken or not _PORTS_FROM <= port.value <= _PORTS_TO:
                raise Wrong(f"port {port.value} of node {number} was given twice, or is not one to give")
            taken.add(key)


# --- how it is kept -----------------------------------------------------------------------------------------------------


def _check_indexes(store: StateStore, rows: Any, shape_of: Any, node_of: Any) -> None:
    table, live = store.allocs, set(rows.tolist())
    by_node = Counter(node_of.tolist())
    for number in range(len(store.nodes.nodes)):
        found = [int(row) for row in table.rows_by_node(number) if int(row) in live]
        if len(found) != by_node[number] or any(int(table.node[row]) != number for row in found):
            raise Wrong(f"the index of node {number} is wrong")
    by_job = Counter(table.shapes[code].job.key for code in shape_of.tolist())
    for key in store.jobs.current:
        found = [int(row) for row in table.rows_by_job(key) if int(row) in live]
        if len(found) != by_job[key] or len(set(found)) != len(found) or table.n_live(key) != by_job[key]:
            raise Wrong(f"the index of job {key[1]} is wrong")


def _check_sample(store: StateStore, rows: Any) -> None:
    for row in random.Random(1).sample(rows.tolist(), min(SAMPLE, len(rows))):
        alloc = store.alloc_at(row)
        if store.alloc(alloc.id) != alloc:
            raise Wrong(f"allocation {alloc.id} is not found by its id")
        job = store.jobs.current[alloc.namespace, alloc.job_id]
        if alloc.name != f"{job.id}.{alloc.task_group}[{store.allocs.name_index[row]}]":
            raise Wrong(f"allocation {alloc.id} has the name {alloc.name}")
        node = store.node(alloc.node_id)
        if node is None or node.name != alloc.node_name or alloc.eval_id not in store.evals or alloc.metrics is None:
            raise Wrong(f"allocation {alloc.id} names a node, an evaluation or metrics that do not exist")


def _check_evals(store: StateStore) -> None:
    bad = next((each for each in store.evals.values() if each.status != "complete"), None)
    if bad is not None:
        raise Wrong(f"evaluation {bad.id} of {bad.job_id} is {bad.status}: {bad.failed_tg_allocs}")
    for job in store.jobs.current.values():
        if job.status != "running":
            raise Wrong(f"job {job.id} is {job.status}")
        for group, line in store.jobs.summaries[job.key].summary.items():
            count = sum(each.count for each in job.task_groups if each.name == group)
            if line.starting + line.running != count or line.queued:
                raise Wrong(f"the summary of {job.id} is wrong: {line}")


def fingerprint(store: StateStore) -> tuple[Any, ...]:
    """What two states must have in common to be called the same."""
    table = store.allocs
    columns = [
        getattr(table, name)[: table.size] for name in ("node", "name_index", "desired", "client", "create_index")
    ]
    return (
        store.index,
        table.size,
        len(store.jobs.current),
        len(store.evals),
        *(hash(column.tobytes()) for column in columns),
        hash(store.nodes.cpu_used.tobytes()),
    )
