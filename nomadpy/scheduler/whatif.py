"""The state as it would be without some nodes, or with some that do not exist."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from nomadpy.model.alloc import Allocation
from nomadpy.model.evaluation import Deployment
from nomadpy.model.explanation import ExtraNodes
from nomadpy.model.job import Job
from nomadpy.model.node import DriverInfo, Node, NodePool, SchedulerConfiguration
from nomadpy.model.resources import (
    NodeCpu,
    NodeDisk,
    NodeMemory,
    NodeNetwork,
    NodeNetworkAddress,
    NodeReservedResources,
    NodeResources,
)
from nomadpy.scheduler.eligibility import eligibility
from nomadpy.scheduler.facts import Facts
from nomadpy.state.view import BoolColumn, Claim, IntColumn, NodeColumns, PlainAllocs, StateView

_AMPLE_DISK_MB = 1_000_000


class WhatIf:
    """Implements ``StateView``. Nodes keep their numbers; the ones that do not exist come after them."""

    def __init__(self, view: StateView, job: Job, *, without: Collection[str] = (), extra: Sequence[ExtraNodes] = ()):
        self._view = view
        self.extra, added = _make(view, job, extra)
        self._numbers = {node.id: view.columns.size + at for at, node in enumerate(added)}
        self._columns = _Columns(view.columns, [view.node_number(node_id) for node_id in without], added)

    @property
    def index(self) -> int:
        return self._view.index

    @property
    def columns(self) -> NodeColumns:
        return self._columns

    @property
    def scheduler_config(self) -> SchedulerConfiguration:
        return self._view.scheduler_config

    def job(self, namespace: str, job_id: str) -> Job | None:
        return self._view.job(namespace, job_id)

    def job_version(self, namespace: str, job_id: str, version: int) -> Job | None:
        return self._view.job_version(namespace, job_id, version)

    def node(self, node_id: str) -> Node | None:
        number = self._numbers.get(node_id)
        return self._view.node(node_id) if number is None else self._columns.nodes[number]

    def node_pool(self, name: str) -> NodePool | None:
        return self._view.node_pool(name)

    def node_number(self, node_id: str) -> int:
        found = self._numbers.get(node_id)
        return self._view.node_number(node_id) if found is None else found

    def alloc(self, alloc_id: str) -> Allocation | None:
        return self._view.alloc(alloc_id)

    def allocs_by_job(self, namespace: str, job_id: str) -> list[Allocation]:
        return self._view.allocs_by_job(namespace, job_id)

    def split_allocs(self, job: Job, deployment_id: str) -> tuple[dict[str, PlainAllocs], list[Allocation]]:
        return self._view.split_allocs(job, deployment_id)

    def allocs_by_node(self, node_id: str) -> list[Allocation]:
        return [] if node_id in self._numbers else self._view.allocs_by_node(node_id)

    def latest_deployment(self, namespace: str, job_id: str) -> Deployment | None:
        return self._view.latest_deployment(namespace, job_id)

    def is_untouched(self, namespace: str, job_id: str) -> bool:
        return self._view.is_untouched(namespace, job_id)

    def claims(self, number: int, priority: int) -> list[Claim]:
        return self._view.claims(number, priority)

    def lowest_priority(self) -> int | None:
        return self._view.lowest_priority()


class _Columns:
    """Implements ``NodeColumns`` over copies."""

    def __init__(self, real: NodeColumns, without: Sequence[int], added: Sequence[Node]) -> None:
        self._real = real
        self.size = real.size + len(added)
        self.nodes: list[Node | None] = [*real.nodes[: real.size], *added]
        self.facts_version = -1
        resources = [node.node_resources for node in added]
        self.cpu = _longer(real.cpu, [each.cpu.cpu_shares for each in resources])
        self.memory = _longer(real.memory, [each.memory.memory_mb for each in resources])
        self.disk = _longer(real.disk, [each.disk.disk_mb for each in resources])
        self.core_mhz = _longer(real.core_mhz, [each.cpu.core_mhz() for each in resources])
        none = [0] * len(added)
        self.cpu_used = _longer(real.cpu_used, none)
        self.memory_used = _longer(real.memory_used, none)
        self.disk_used = _longer(real.disk_used, none)
        self.alloc_count = _longer(real.alloc_count, none)
        self.ready: BoolColumn = np.concatenate([real.ready, np.ones(len(added), dtype=np.bool_)])
        self.ready[list(without)] = False

    def used_ports(self, number: int) -> dict[str, int]:
        return self._real.used_ports(number) if number < self._real.size else {}


def _longer(column: IntColumn, more: Sequence[int]) -> IntColumn:
    return np.concatenate([column, np.array(more, dtype=np.int64)])


def _make(view: StateView, job: Job, extra: Sequence[ExtraNodes]) -> tuple[tuple[ExtraNodes, ...], list[Node]]:
    """The nodes that do not exist, each like the node that meets the lasting conditions of most groups."""
    if not extra:
        return (), []
    model = _model(view, job)
    known: list[ExtraNodes] = []
    added: list[Node] = []
    for each in extra:
        disk = each.disk_mb or (model.node_resources.disk.disk_mb if model else _AMPLE_DISK_MB)
        known.append(each.replace(disk_mb=disk, like=model.id if model else ""))
        for _ in range(each.count):
            at = len(added) + 1
            base = model or _bare(job)
            resources = base.node_resources.replace(
                cpu=base.node_resources.cpu.replace(cpu_shares=each.cpu),
                memory=base.node_resources.memory.replace(memory_mb=each.memory_mb),
                disk=base.node_resources.disk.replace(disk_mb=disk),
            )
            node = base.replace(id=f"what-if-{at}", name=f"what-if-{at}", node_resources=resources)
            added.append(node.replace(reserved_resources=_without_shares(base.reserved_resources)))
    return tuple(known), added


def _without_shares(reserved: NodeReservedResources) -> NodeReservedResources:
    """The question gives what is left for allocations; reserved ports and cores stay reserved."""
    return reserved.replace(
        cpu=reserved.cpu.replace(cpu_shares=0),
        memory=reserved.memory.replace(memory_mb=0),
        disk=reserved.disk.replace(disk_mb=0),
    )


def _model(view: StateView, job: Job) -> Node | None:
    """The node that suits most groups, a ready one if there is any; None when none suits any of them."""
    facts = Facts(view.columns)
    suits: IntColumn = np.zeros(facts.size, dtype=np.int64)
    for group in job.task_groups:
        suits += 2 * eligibility(facts, job, group).suitable
    if not suits.any():
        return None
    node = facts.nodes[int(np.argmax(suits + facts.ready))]
    assert node is not None
    return node.replace(status="ready", scheduling_eligibility="eligible", drain_strategy=None)


def _bare(job: Job) -> Node:
    """A node about which no more is known than that it is where the job looks, and has the drivers."""
    datacenter = next((name for name in job.datacenters if "*" not in name), "dc1")
    drivers = {task.driver: DriverInfo(detected=True, healthy=True) for g in job.task_groups for task in g.tasks}
    address = NodeNetworkAddress(address="192.0.2.1")
    return Node(
        datacenter=datacenter,
        node_pool=job.node_pool if job.node_pool not in ("", "all") else "default",
        status="ready",
        drivers=drivers,
        node_resources=NodeResources(
            cpu=NodeCpu(), memory=NodeMemory(), disk=NodeDisk(), node_networks=(NodeNetwork(addresses=(address,)),)
        ),
    )
