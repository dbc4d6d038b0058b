"""What all allocations of one group of one job version have in common."""

from __future__ import annotations

from functools import cached_property

from nomadpy.model.demand import Demand, group_demand
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.resources import (
    AllocatedCpu,
    AllocatedDevice,
    AllocatedMemory,
    AllocatedPort,
    AllocatedResources,
    AllocatedSharedResources,
    AllocatedTaskResources,
    NetworkResource,
    Port,
    Resources,
)
from nomadpy.state.view import Claim


class Shape:
    """A group of a job version, with everything that follows from it computed once, when it is asked for."""

    def __init__(self, job: Job, group: TaskGroup, demand: Demand | None = None) -> None:
        self.job = job
        self.group = group
        self.demand: Demand = group_demand(group) if demand is None else demand

    @cached_property
    def base(self) -> AllocatedResources:
        """What every allocation is given."""
        group = self.group
        return AllocatedResources(
            tasks={
                task.name: AllocatedTaskResources(
                    cpu=AllocatedCpu(cpu_shares=task.resources.cpu),
                    memory=AllocatedMemory(
                        memory_mb=task.resources.memory_mb, memory_max_mb=task.resources.memory_max_mb
                    ),
                )
                for task in group.tasks
            },
            task_lifecycles={task.name: task.lifecycle for task in group.tasks},
            shared=AllocatedSharedResources(networks=group.networks[:1], disk_mb=self._disk_mb),
        )

    @cached_property
    def task_resources(self) -> dict[str, Resources]:
        """What each task asks for."""
        return {task.name: task.resources for task in self.group.tasks}

    @cached_property
    def resources(self) -> Resources:
        """What all tasks ask for together."""
        group = self.group
        return Resources(
            cpu=sum(task.resources.cpu for task in group.tasks),
            memory_mb=sum(task.resources.memory_mb for task in group.tasks),
            disk_mb=self._disk_mb,
            networks=group.networks[:1],
        )

    @cached_property
    def shared_resources(self) -> Resources:
        """What the tasks share."""
        return Resources(disk_mb=self._disk_mb, networks=self.group.networks[:1])

    @property
    def _disk_mb(self) -> int:
        return self.group.ephemeral_disk.size_mb if self.group.ephemeral_disk else 0

    def claim(self, alloc_id: str) -> Claim:
        """What an allocation of this shape holds of its node."""
        job, group = self.job, self.group
        return Claim(
            alloc_id=alloc_id,
            namespace=job.namespace,
            job_id=job.id,
            group=group.name,
            priority=job.priority,
            demand=self.demand,
            migrate_parallel=group.migrate.max_parallel if group.migrate is not None else 0,
        )


def given_resources(
    shape: Shape,
    ports: tuple[AllocatedPort, ...],
    cores: dict[str, tuple[int, ...]],
    devices: dict[str, tuple[AllocatedDevice, ...]],
) -> AllocatedResources:
    """What one allocation was given: the shape's resources with its own ports, cores and devices filled in."""
    base = shape.base
    if ports:
        network = _assigned(shape.group.networks[0], ports) if shape.group.networks else NetworkResource()
        shared = AllocatedSharedResources(networks=(network,), disk_mb=base.shared.disk_mb, ports=ports)
        base = base.replace(shared=shared)
    if not cores and not devices:
        return base
    tasks = dict(base.tasks)
    for name, given in cores.items():
        tasks[name] = tasks[name].replace(cpu=tasks[name].cpu.replace(reserved_cores=given))
    for name, held in devices.items():
        tasks[name] = tasks[name].replace(devices=held)
    return base.replace(tasks=tasks)


def _assigned(network: NetworkResource, ports: tuple[AllocatedPort, ...]) -> NetworkResource:
    by_label = {port.label: port for port in ports}

    def fill(wanted: tuple[Port, ...]) -> tuple[Port, ...]:
        return tuple(
            port.replace(value=by_label[port.label].value, to=by_label[port.label].to)
            if port.label in by_label
            else port
            for port in wanted
        )

    return network.replace(
        ip=ports[0].host_ip,
        reserved_ports=fill(network.reserved_ports),
        dynamic_ports=fill(network.dynamic_ports),
    )
