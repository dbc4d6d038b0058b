"""Nodes and jobs with dull defaults, for tests of the state and the server."""

from __future__ import annotations

from typing import Any

from nomadpy.model.job import EphemeralDisk, Job, Task, TaskGroup
from nomadpy.model.node import DriverInfo, Node
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

EPOCH_NS = 1_700_000_000 * SECOND
SECRET = "5ec2e700-0000-0000-0000-000000000000"


def node_id(number: int) -> str:
    """The id of the node that ``make_node`` makes for a number."""
    return f"00000000-0000-0000-0000-{number:012d}"


def make_node(
    number: int = 0, *, cpu: int = 4000, memory_mb: int = 8192, disk_mb: int = 100_000, **changes: Any
) -> Node:
    """A node as its client registers it."""
    address = NodeNetworkAddress(address=f"10.0.{number // 250}.{number % 250 + 1}")
    node = Node(
        id=node_id(number),
        secret_id=SECRET,
        name=f"node-{number}",
        datacenter="dc1",
        attributes={"kernel.name": "linux"},
        drivers={"docker": DriverInfo(detected=True, healthy=True)},
        node_resources=NodeResources(
            cpu=NodeCpu(cpu_shares=cpu),
            memory=NodeMemory(memory_mb=memory_mb),
            disk=NodeDisk(disk_mb=disk_mb),
            node_networks=(NodeNetwork(addresses=(address,)),),
        ),
    ).replace(**changes)
    return node.replace(computed_class=computed_class(node))


def make_group(
    *,
    name: str = "app",
    count: int = 1,
    cpu: int = 500,
    memory_mb: int = 256,
    env: str = "",
    port: str = "",
    **changes: Any,
) -> TaskGroup:
    """A group of one task; ``port`` is the label of a dynamic port."""
    task = Task(
        name="web", driver="docker", resources=Resources(cpu=cpu, memory_mb=memory_mb), env={"V": env} if env else {}
    )
    networks = (NetworkResource(dynamic_ports=(Port(label=port),)),) if port else ()
    group = TaskGroup(
        name=name, count=count, tasks=(task,), networks=networks, ephemeral_disk=EphemeralDisk(size_mb=300)
    )
    return group.replace(**changes)


def make_job(job_id: str = "job", *, type: str = "service", group: TaskGroup | None = None, **changes: Any) -> Job:
    """A job of one group. Job fields and fields of the group that ``make_group`` names may be given."""
    of_group = {name: changes.pop(name) for name in ("count", "cpu", "memory_mb", "env", "port") if name in changes}
    job = Job(
        id=job_id,
        name=job_id,
        namespace="default",
        type=type,
        priority=50,
        datacenters=("dc1",),
        node_pool="default",
        task_groups=(group or make_group(**of_group),),
    )
    return job.replace(**changes)
