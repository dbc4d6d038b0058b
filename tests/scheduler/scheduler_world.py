"""A small cluster in memory: a real state store, nodes and jobs with dull defaults, and a scheduler run by hand."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
from plan_checker import check_plan

from nomadpy.model.alloc import Allocation, AllocDeploymentStatus, AllocUpdate, DesiredTransition, TaskState
from nomadpy.model.evaluation import EVAL_PENDING, TRIGGER_JOB_REGISTER, Deployment, Evaluation
from nomadpy.model.ids import new_uuid
from nomadpy.model.job import EphemeralDisk, Job, Task, TaskGroup
from nomadpy.model.node import DriverInfo, Node, SchedulerConfiguration
from nomadpy.model.node_class import computed_class
from nomadpy.model.resources import (
    NetworkResource,
    NodeCpu,
    NodeDisk,
    NodeMemory,
    NodeNetwork,
    NodeNetworkAddress,
    NodeResources,
    Port,
    Resources,
)
from nomadpy.model.time import SECOND
from nomadpy.scheduler import Decision, Fleet, schedule
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore

EPOCH_NS = 1_700_000_000 * SECOND


def make_node(
    number: int = 0,
    *,
    cpu_mhz: int = 4000,
    memory_mb: int = 8192,
    disk_mb: int = 100_000,
    ip: str = "",
    drivers: tuple[str, ...] = ("docker", "exec"),
    resources: dict[str, Any] | None = None,
    **changes: Any,
) -> Node:
    """A ready node; its id ends in its number, so that a test can name it."""
    address = NodeNetworkAddress(address=ip or f"10.0.{number // 250}.{number % 250 + 1}")
    facts = NodeResources(
        cpu=NodeCpu(cpu_shares=cpu_mhz, reservable_cpu_cores=(0, 1, 2, 3)),
        memory=NodeMemory(memory_mb=memory_mb),
        disk=NodeDisk(disk_mb=disk_mb),
        node_networks=(NodeNetwork(addresses=(address,)),),
    ).replace(**(resources or {}))
    node = Node(
        id=f"00000000-0000-0000-0000-{number:012d}",
        name=f"node-{number}",
        datacenter="dc1",
        status="ready",
        attributes={"kernel.name": "linux"},
        drivers={name: DriverInfo(detected=True, healthy=True) for name in drivers},
        node_resources=facts,
    ).replace(**changes)
    return node.replace(computed_class=computed_class(node))


def make_task(*, cpu: int = 500, memory_mb: int = 256, **changes: Any) -> Task:
    return Task(name="web", driver="docker", resources=Resources(cpu=cpu, memory_mb=memory_mb)).replace(**changes)


def make_group(
    *, count: int = 1, ports: NetworkResource | None = None, task: Task | None = None, **changes: Any
) -> TaskGroup:
    networks = (ports,) if ports is not None else ()
    group = TaskGroup(name="app", count=count, tasks=(task or make_task(),), networks=networks)
    return group.replace(**{"ephemeral_disk": EphemeralDisk(size_mb=300), **changes})


def make_job(
    job_id: str = "job", *, count: int = 1, type: str = "service", group: TaskGroup | None = None, **changes: Any
) -> Job:
    groups = (group or make_group(count=count),)
    job = Job(
        id=job_id, name=job_id, namespace="default", type=type, priority=50, datacenters=("dc1",), node_pool="default"
    )
    return job.replace(**{"node_pool": "default", "task_groups": groups, **changes})


def dynamic_ports(*labels: str, **changes: Any) -> NetworkResource:
    return NetworkResource(dynamic_ports=tuple(Port(label=label).replace(**changes) for label in labels))


def static_port(value: int, **changes: Any) -> NetworkResource:
    return NetworkResource(reserved_ports=(Port(label="http", value=value).replace(**changes),))


class World:
    """A cluster that does nothing by itself. Every decision is checked by ``checker`` before it is applied."""

    def __init__(self, *nodes: Node, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.store = StateStore(id_key=7)
        self.now_ns = EPOCH_NS
        self.last: Decision | None = None
        for node in nodes:
            self.add_node(node)

    def apply(self, command: c.Command) -> Any:
        outcome = self.store.apply(self.store.index + 1, command)
        assert outcome.ok, outcome.message
        return outcome.value

    def add_node(self, node: Node) -> None:
        self.apply(c.RegisterNode(node=node, now_ns=self.now_ns))
        self.apply(c.UpdateNodeStatus(node_id=node.id, status=node.status, now_ns=self.now_ns))

    def node_id(self, number: int) -> str:
        return make_node(number).id

    def set_node(self, number: int, status: str) -> None:
        self.apply(c.UpdateNodeStatus(node_id=self.node_id(number), status=status, now_ns=self.now_ns))

    def configure(self, **changes: Any) -> None:
        self.apply(c.SetSchedulerConfig(config=SchedulerConfiguration(**changes)))

    def register(self, job: Job) -> Job:
        self.apply(c.RegisterJob(job=job, now_ns=self.now_ns))
        stored = self.store.job(job.namespace, job.id)
        assert stored is not None
        return stored

    def evaluation(self, job_id: str = "job", **changes: Any) -> Evaluation:
        job = self.store.job("default", job_id)
        made = Evaluation(
            id=new_uuid(self.rng),
            namespace="default",
            priority=50,
            type=job.type if job else "service",
            triggered_by=TRIGGER_JOB_REGISTER,
            job_id=job_id,
            status=EVAL_PENDING,
        )
        return made.replace(**changes)

    def decide(self, evaluation: Evaluation, **options: Any) -> Decision:
        """Schedules without applying; the fleet is left as it was."""
        fleet = options.pop("fleet", None) or Fleet(self.store)
        before = [column.copy() for column in (fleet.cpu_free, fleet.memory_free, fleet.disk_free, fleet.slots_free)]
        decision = schedule(self.store, evaluation, now_ns=self.now_ns, rng=self.rng, fleet=fleet, **options)
        after = (fleet.cpu_free, fleet.memory_free, fleet.disk_free, fleet.slots_free)
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        return decision

    def run(self, evaluation: Evaluation | None = None, job_id: str = "job") -> Decision:
        """Schedules one evaluation, checks the plan, and applies it."""
        decision = self.decide(evaluation or self.evaluation(job_id))
        check_plan(self.store, decision)
        evals = (decision.evaluation, *decision.created)
        refused = self.apply(c.ApplyPlans(plans=(decision.plan,), evals=evals, now_ns=self.now_ns))
        assert refused == [0], "the applier refused what the scheduler decided"
        self.last = decision
        return decision

    def deploy(self, job: Job) -> Decision:
        """Registers a job and schedules it."""
        self.register(job)
        return self.run(job_id=job.id)

    def report(self, status: str, *allocs: Allocation, failed: bool = False) -> None:
        """Lets the nodes report a client status, with the task ended now when the status is terminal."""
        over = status in ("complete", "failed")
        state = TaskState(
            state="dead" if over else "running",
            failed=failed or status == "failed",
            started_at_ns=self.now_ns,
            finished_at_ns=self.now_ns if over else 0,
        )
        updates = tuple(AllocUpdate(id=a.id, client_status=status, task_states={"web": state}) for a in allocs)
        self.apply(c.UpdateAllocs(updates=updates, now_ns=self.now_ns))

    def judge(self, *allocs: Allocation, healthy: bool = True) -> None:
        """Lets the nodes report that allocations run and whether they are healthy, or that they failed."""
        status, state = "running", TaskState(state="running")
        if not healthy:
            status, state = "failed", TaskState(state="dead", failed=True, finished_at_ns=self.now_ns)
        health = AllocDeploymentStatus(healthy=healthy, timestamp_ns=self.now_ns)
        updates = tuple(
            AllocUpdate(id=a.id, client_status=status, task_states={"web": state}, deployment_status=health)
            for a in allocs
        )
        self.apply(c.UpdateAllocs(updates=updates, now_ns=self.now_ns))

    def deployment(self, job_id: str = "job") -> Deployment:
        found = self.store.latest_deployment("default", job_id)
        assert found is not None
        return found

    def flag(self, alloc: Allocation, **wishes: bool) -> None:
        self.apply(c.UpdateAllocTransitions(transitions={alloc.id: DesiredTransition(**wishes)}, now_ns=self.now_ns))

    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)

    def allocs(self, job_id: str = "job") -> list[Allocation]:
        return self.store.allocs_by_job("default", job_id)

    def live(self, job_id: str = "job") -> list[Allocation]:
        """Allocations that neither side is done with, by name."""
        return sorted((a for a in self.allocs(job_id) if not a.terminal()), key=lambda a: (a.task_group, a.index))

    def names(self, job_id: str = "job") -> list[int]:
        return [alloc.index for alloc in self.live(job_id)]

    def by_node(self, job_id: str = "job") -> dict[int, int]:
        """Node number → live allocations there."""
        return dict(sorted(Counter(int(alloc.node_id[-12:]) for alloc in self.live(job_id)).items()))
