"""An independent look at the state: everything that ``apply`` counts as it goes is summed anew from the records."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from nomadpy.model.alloc import Allocation
from nomadpy.model.job import Job, TaskGroup
from nomadpy.state.store import StateStore

_UNFINISHED, _FINISHED = ("running", "starting", "unknown"), ("complete", "failed", "lost")


def check_store(store: StateStore) -> None:
    """Fails unless every column, index, count and status agrees with the records."""
    allocs = [store.alloc_at(row) for row in store.allocs.rows()]
    assert len(allocs) == store.allocs.live
    check_ids(store, allocs)
    check_indexes(store, allocs)
    check_usage(store, allocs)
    check_summaries(store, allocs)
    check_statuses(store, allocs)
    check_evals(store)
    check_shapes(store, allocs)
    check_children(store)


def check_ids(store: StateStore, allocs: list[Allocation]) -> None:
    rows = list(store.allocs.rows())
    assert len({alloc.id for alloc in allocs}) == len(allocs)
    assert [store.allocs.row(alloc.id) for alloc in allocs] == rows


def check_indexes(store: StateStore, allocs: list[Allocation]) -> None:
    by_job, by_node, by_eval = defaultdict(list), defaultdict(list), defaultdict(list)
    for alloc in allocs:
        by_job[alloc.namespace, alloc.job_id].append(alloc)
        by_node[alloc.node_id].append(alloc)
        by_eval[alloc.eval_id].append(alloc)
        assert alloc.job is not None
        assert alloc.job.key == (alloc.namespace, alloc.job_id)
    for key in {*by_job, *store.jobs.current}:
        assert store.allocs_by_job(*key) == by_job[key]
    for number in range(store.nodes.size):
        _, node_id = store.nodes.identity(number)
        assert store.allocs_by_node(node_id) == by_node[node_id]
    for eval_id, made in by_eval.items():
        assert len({(alloc.namespace, alloc.job_id) for alloc in made}) == 1
        key = (made[0].namespace, made[0].job_id)
        assert [store.alloc_at(row) for row in store.allocs.rows_by_eval(eval_id, key)] == made
    for evaluation in store.evals.values():
        rows = store.allocs.rows_by_eval(evaluation.id, (evaluation.namespace, evaluation.job_id))
        assert len(rows) == len(by_eval.get(evaluation.id, ()))


def check_usage(store: StateStore, allocs: list[Allocation]) -> None:
    columns = store.columns
    used: Counter[tuple[int, str]] = Counter()
    ports: dict[int, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for alloc in allocs:
        if alloc.client_status in ("complete", "failed", "lost"):
            continue
        number = store.node_number(alloc.node_id)
        group = group_of(alloc)
        used[number, "count"] += 1
        used[number, "cpu"] += sum(task.resources.cpu for task in group.tasks)
        used[number, "memory"] += sum(task.resources.memory_mb for task in group.tasks)
        used[number, "disk"] += group.ephemeral_disk.size_mb if group.ephemeral_disk else 0
        assert alloc.allocated_resources is not None
        for port in alloc.allocated_resources.shared.ports:
            ports[number][port.host_ip].add(port.value)
    for number in range(columns.size):
        found = (columns.cpu_used, columns.memory_used, columns.disk_used, columns.alloc_count)
        wanted = [used[number, what] for what in ("cpu", "memory", "disk", "count")]
        assert [int(column[number]) for column in found] == wanted
        bits = {ip: set(np.flatnonzero(_bits(mask)).tolist()) for ip, mask in columns.used_ports(number).items()}
        assert {ip: some for ip, some in bits.items() if some} == ports[number]
        node = columns.nodes[number]
        assert bool(columns.ready[number]) == (node is not None and node.is_ready())


def _bits(mask: int) -> np.ndarray[Any, Any]:
    return np.array([digit == "1" for digit in reversed(f"{mask:b}")])


def group_of(alloc: Allocation) -> TaskGroup:
    assert alloc.job is not None
    group = alloc.job.group(alloc.task_group)
    assert group is not None
    return group


def check_summaries(store: StateStore, allocs: list[Allocation]) -> None:
    assert set(store.jobs.summaries) == set(store.jobs.current)
    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for alloc in allocs:
        current = store.job(alloc.namespace, alloc.job_id)
        assert alloc.job is not None
        if current is not None and current.create_index == alloc.job.create_index:
            word = "starting" if alloc.client_status == "pending" else alloc.client_status
            counts[alloc.namespace, alloc.job_id, alloc.task_group][word] += 1
    for (namespace, job_id), summary in store.jobs.summaries.items():
        job = store.jobs.current[namespace, job_id]
        assert summary.create_index == job.create_index
        assert {group.name for group in job.task_groups} <= set(summary.summary)
        for name, line in summary.summary.items():
            stored = counts[namespace, job_id, name]
            assert [getattr(line, word) for word in _UNFINISHED] == [stored[word] for word in _UNFINISHED], job_id
            # What ended stays counted when its allocation is collected.
            assert all(getattr(line, word) >= stored[word] for word in _FINISHED), job_id


def check_statuses(store: StateStore, allocs: list[Allocation]) -> None:
    for key, job in store.jobs.current.items():
        versions = store.jobs.versions[key]
        assert versions[0] == job
        assert [v.version for v in versions] == sorted({v.version for v in versions}, reverse=True)
        mine = [alloc for alloc in allocs if (alloc.namespace, alloc.job_id) == key]
        assert job.status == status_of(store, job, mine), job.id
        live = [alloc for alloc in mine if not alloc.terminal()]
        assert store.allocs.n_live(key) == len(live)
        assert store.allocs.live_versions(key) == {alloc.job.job_modify_index for alloc in live if alloc.job}
        assert len(list(store.live_rows(key))) == len(live)


def status_of(store: StateStore, job: Job, allocs: list[Allocation]) -> str:
    """The status by the rule, from scratch. A dead job without evaluations stays dead."""
    if job.type == "system" or job.is_periodic() or job.is_parameterized():
        return "dead" if job.stop else "running"
    if any(not alloc.terminal() for alloc in allocs) or any(d.active() for d in store.job_deployments(*job.key)):
        return "running"
    evals = [e for e in store.evals.values() if (e.namespace, e.job_id) == job.key]
    if any(not evaluation.terminal() for evaluation in evals):
        return "pending"
    return "dead" if job.stop or evals or job.status == "dead" else "pending"


def check_evals(store: StateStore) -> None:
    by_job = defaultdict(set)
    still_open: Counter[tuple[str, str]] = Counter()
    for evaluation in store.evals.values():
        key = (evaluation.namespace, evaluation.job_id)
        by_job[key].add(evaluation.id)
        still_open[key] += not evaluation.terminal()
    assert {key: set(ids) for key, ids in store.evals_by_job.items()} == by_job
    assert store.open_evals == +still_open


def check_shapes(store: StateStore, allocs: list[Allocation]) -> None:
    """Nothing is kept for versions, evaluations or metrics that no row names."""
    table = store.allocs
    assert len(table.shapes) == len(
        {(a.namespace, a.job_id, a.job.job_modify_index, a.task_group) for a in allocs if a.job}
    )
    assert len(table._evals) == len({alloc.eval_id for alloc in allocs if alloc.eval_id})
    assert set(table._by_job) == {(alloc.namespace, alloc.job_id) for alloc in allocs}


def check_children(store: StateStore) -> None:
    for (namespace, parent_id), children in store.jobs.children.items():
        assert children
        for child in children:
            job = store.job(namespace, child)
            assert job is not None
            assert job.parent_id == parent_id
        summary = store.jobs.summaries.get((namespace, parent_id))
        if summary is not None:
            statuses = Counter(store.jobs.current[namespace, child].status for child in children)
            assert summary.children.pending >= statuses["pending"]
            assert summary.children.running >= statuses["running"]


def fingerprint(store: StateStore) -> dict[str, Any]:
    """Everything that two servers have to agree on, in a form that compares equal when they do."""
    table, nodes = store.allocs, store.nodes
    rows = slice(0, table.size)
    return {
        "index": store.index,
        "cluster": (store.cluster_id, table.ids.key, store.scheduler_config),
        "tables": store.table_index,
        "allocs": [store.alloc_at(row) for row in table.rows()],
        "orders": table.alloc_modify_index[rows].tolist(),
        "jobs": (store.jobs.current, store.jobs.versions, store.jobs.summaries, store.jobs.submissions),
        "job notes": (store.jobs.scaling_events, store.jobs.periodic_launches, store.jobs.children),
        "evals": (store.evals, store.evals_by_job, store.open_evals),
        "deployments": (store.deployments, store.deployments_by_job),
        "nodes": (list(nodes.nodes), [nodes.identity(number) for number in range(nodes.size)]),
        "usage": [
            column.tolist() for column in (nodes.cpu_used, nodes.memory_used, nodes.disk_used, nodes.alloc_count)
        ],
        "capacity": [column.tolist() for column in (nodes.cpu, nodes.memory, nodes.disk, nodes.ready)],
        "ports": [nodes.used_ports(number) for number in range(nodes.size)],
        "facts": nodes.facts_version,
        "names": (store.namespaces, store.node_pools),
    }
