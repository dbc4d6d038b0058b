"""An independent look at a plan: whatever the scheduler thought, does it hold together?

It re-sums every allocation of every node instead of trusting any column, and shares no code with the scheduler.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from nomadpy.model.alloc import Allocation
from nomadpy.model.job import TaskGroup
from nomadpy.model.node import Node
from nomadpy.scheduler import Decision
from nomadpy.state.commands import PlaceBlock
from nomadpy.state.store import StateStore


def check_plan(store: StateStore, decision: Decision) -> None:
    """Fails unless the plan can be carried out on the state and the evaluation tells the truth about it."""
    plan = decision.plan
    stopped = [stop.alloc_id for stop in plan.stops]
    assert len(stopped) == len(set(stopped)), "an allocation is stopped twice"
    for alloc_id in stopped:
        assert store.alloc(alloc_id) is not None, "what is stopped exists"
    evicted = _check_evictions(store, decision)
    rows = [row for block in plan.places for row in _rows(store, block)]
    assert len(rows) == decision.placed
    _check_capacity(store, {*stopped, *evicted}, rows)
    _check_names(store, decision, set(stopped), rows)
    evaluation = decision.evaluation
    assert evaluation.status in ("complete", "blocked")
    assert bool(evaluation.failed_tg_allocs) == bool(evaluation.blocked_eval or evaluation.status == "blocked")
    if evaluation.blocked_eval:
        assert evaluation.blocked_eval in {each.id for each in decision.created}
    for metric in evaluation.failed_tg_allocs.values():
        assert metric.nodes_filtered + metric.nodes_exhausted <= metric.nodes_evaluated


def _check_evictions(store: StateStore, decision: Decision) -> list[str]:
    """Whoever makes room is less important by ten, wanted until now, on the very node, and goes for one placement."""
    job = store.job(decision.plan.namespace, decision.plan.job_id)
    evicted: list[str] = []
    for block in decision.plan.places:
        numbers = np.frombuffer(block.nodes, "<u4").tolist()
        for position, detail in block.details.items():
            for alloc_id in detail.preempted_alloc_ids:
                victim, node = store.alloc(alloc_id), store.columns.nodes[numbers[position]]
                assert job is not None
                assert victim is not None
                assert victim.job is not None
                assert node is not None
                assert victim.job.priority <= job.priority - 10
                assert victim.node_id == node.id
                assert not victim.terminal()
                assert victim.job_id != job.id
                evicted.append(alloc_id)
    assert len(evicted) == len(set(evicted)), "an allocation is evicted twice"
    assert set(evicted) == set(decision.evicted)
    return evicted


Row = tuple[PlaceBlock, TaskGroup, Node, int, int]


def _rows(store: StateStore, block: PlaceBlock) -> list[Row]:
    numbers = np.frombuffer(block.nodes, "<u4").tolist()
    names = np.frombuffer(block.name_indexes, "<u4").tolist()
    job = store.job_version(block.namespace, block.job_id, block.job_version)
    assert job is not None
    group = job.group(block.group)
    assert group is not None
    rows = []
    for position, (number, name) in enumerate(zip(numbers, names, strict=True)):
        node = store.columns.nodes[number]
        assert node is not None
        assert node.is_ready()
        assert node.node_pool == job.node_pool or job.node_pool == "all"
        rows.append((block, group, node, name, position))
    return rows


def _check_capacity(store: StateStore, stopped: set[str], rows: list[Row]) -> None:
    placed = defaultdict(list)
    for row in rows:
        placed[row[2].id].append(row)
    for node_id, here in placed.items():
        node = here[0][2]
        held = [a for a in store.allocs_by_node(node_id) if not a.client_terminal() and a.id not in stopped]
        groups = [_group_of(alloc) for alloc in held] + [group for _, group, _, _, _ in here]
        resources, reserved = node.node_resources, node.reserved_resources
        for kind, have in (
            ("cpu", resources.cpu.cpu_shares - reserved.cpu.cpu_shares),
            ("memory_mb", resources.memory.memory_mb - reserved.memory.memory_mb),
        ):
            wanted = sum(getattr(task.resources, kind) for group in groups for task in group.tasks)
            if kind == "cpu":
                cores = sum(task.resources.cores for group in groups for task in group.tasks)
                n_cores = resources.cpu.total_cpu_cores or len(resources.cpu.reservable_cpu_cores) or 1
                wanted += cores * (resources.cpu.cpu_shares // n_cores)
            assert wanted <= have, kind
        disk = sum(group.ephemeral_disk.size_mb for group in groups if group.ephemeral_disk)
        assert disk <= resources.disk.disk_mb - reserved.disk.disk_mb
        if node.node_max_allocs:
            assert len(groups) <= node.node_max_allocs
        _check_unique(held, here)


def _group_of(alloc: Allocation) -> TaskGroup:
    assert alloc.job is not None
    group = alloc.job.group(alloc.task_group)
    assert group is not None
    return group


def _check_unique(held: list[Allocation], here: list[Row]) -> None:
    """Ports, cores and devices of one node belong to one allocation each."""
    ports: Counter[tuple[str, int]] = Counter()
    cores: Counter[int] = Counter()
    devices: Counter[str] = Counter()
    for alloc in held:
        given = alloc.allocated_resources
        assert given is not None
        if alloc.desired_status == "evict":
            continue  # What it has to give up belongs to somebody else already.
        ports.update((p.host_ip, p.value) for p in given.shared.ports if not p.ignore_collision)
        cores.update(core for task in given.tasks.values() for core in task.cpu.reserved_cores)
        devices.update(i for task in given.tasks.values() for d in task.devices for i in d.device_ids)
    for block, group, node, _, position in here:
        detail = block.details.get(position)
        wanted = [port for network in group.networks[:1] for port in (*network.reserved_ports, *network.dynamic_ports)]
        in_columns = _column_ports(block, node, position)
        assert len(detail.ports if detail else ()) + len(in_columns) == len(wanted), "every port asked for is given"
        ports.update(in_columns)
        low, high = node.node_resources.min_dynamic_port, node.node_resources.max_dynamic_port
        for asked, (_, value) in zip(wanted, in_columns, strict=False):
            assert value == asked.value or (not asked.value and low <= value <= high)
        if detail is not None:
            ports.update((p.host_ip, p.value) for p in detail.ports if not p.ignore_collision)
            cores.update(core for given in detail.reserved_cores.values() for core in given)
            devices.update(i for given in detail.devices.values() for d in given for i in d.device_ids)
    for counter in (ports, cores, devices):
        assert not counter or max(counter.values()) == 1, f"given out twice: {counter.most_common(1)}"


def _column_ports(block: PlaceBlock, node: Node, position: int) -> list[tuple[str, int]]:
    if not block.port_values:
        return []
    numbers = np.frombuffer(block.nodes, "<u4")
    values = np.frombuffer(block.port_values, "<u2").reshape(len(numbers), -1)[position].tolist()
    addresses = {address.address for network in node.node_resources.node_networks for address in network.addresses}
    hosts = block.port_hosts[int(numbers[position])]
    assert set(hosts) <= addresses
    return list(zip(hosts, values, strict=True))


def _check_names(store: StateStore, decision: Decision, stopped: set[str], rows: list[Row]) -> None:
    """No two live allocations of a group share a name, except in system jobs and canaries until they are promoted."""
    plan = decision.plan
    job = store.job(plan.namespace, plan.job_id)
    if job is None or job.type in ("system", "sysbatch"):
        return
    names: Counter[tuple[str, int]] = Counter(
        (block.group, name) for block, _, _, name, position in rows if not _is_canary(block, position)
    )
    away = {note.alloc_id for note in plan.annotate if note.client_status == "unknown"}
    for alloc in store.allocs_by_job(plan.namespace, plan.job_id):
        if alloc.client_status == "unknown" or alloc.id in away:
            continue  # Another one may have its name until it returns.
        canary = alloc.deployment_status is not None and alloc.deployment_status.canary
        if not alloc.terminal() and alloc.id not in stopped and not canary:
            names[alloc.task_group, alloc.index] += 1
    assert not names or max(names.values()) == 1, f"used twice: {names.most_common(1)}"


def _is_canary(block: PlaceBlock, position: int) -> bool:
    detail = block.details.get(position)
    return detail is not None and detail.canary
