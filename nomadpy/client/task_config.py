"""From an allocation's task to what its driver is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nomadpy.client.driver_config import interpolate_config
from nomadpy.client.interpolate import Interpolator
from nomadpy.drivers.contract import DeviceNode, Driver, Mount, TaskConfig, TaskLimits
from nomadpy.model.resources import AllocatedPort, AllocatedTaskResources, DNSConfig, NetworkResource
from nomadpy.model.service import LogConfig

if TYPE_CHECKING:
    from nomadpy.client.ports import Ports
    from nomadpy.client.task_runner import TaskPlace


class LaunchFacts(NamedTuple):
    """One attempt: its id, place and surroundings, with what the hooks found."""

    task_id: str
    place: TaskPlace
    ports: Ports
    env: dict[str, str]
    names: Interpolator
    mounts: tuple[Mount, ...]
    devices: tuple[DeviceNode, ...] = ()


def task_config(facts: LaunchFacts) -> TaskConfig:
    """Everything the driver needs, interpolated. Raises Invalid for an unknown reference in ``config``."""
    place, node = facts.place, facts.ports.node
    alloc, job, task = place.alloc, place.job, place.task
    network = place.group.networks[0] if place.group.networks else NetworkResource()
    shared = alloc.allocated_resources.shared if alloc.allocated_resources else None
    ports = shared.ports if shared else ()
    return TaskConfig(
        id=facts.task_id,
        alloc_id=alloc.id,
        job_id=job.id,
        job_name=job.name,
        parent_job_id=job.parent_id,
        namespace=alloc.namespace,
        group_name=place.group.name,
        task_name=task.name,
        node_id=node.id,
        node_name=node.name,
        user=task.user,
        config=interpolate_config(task.config, facts.names),
        env=facts.env,
        limits=_limits(facts),
        dirs=place.alloc_dir.task_dirs(task.name),
        log_config=task.log_config or LogConfig(),
        kill_signal=task.kill_signal,
        ports=ports,
        host_ip=_host_ip(ports, shared.networks if shared else ()),
        network_mode=network.mode,
        hostname=facts.names.text(network.hostname),
        dns=_dns(network.dns, facts.names),
        mounts=facts.mounts,
        devices=facts.devices,
    )


def invalid_config(driver: Driver, config: dict[str, Any]) -> str:
    """Every problem of a task's ``config`` in one text, "" when there is none."""
    return "; ".join(driver.check_config(config))


def _limits(facts: LaunchFacts) -> TaskLimits:
    given = facts.place.alloc.allocated_resources
    resources = given.tasks.get(facts.place.task.name) if given else None
    resources = resources or AllocatedTaskResources()
    return TaskLimits(
        cpu_shares=resources.cpu.cpu_shares,
        node_cpu_mhz=facts.ports.node.node_resources.cpu.cpu_shares,
        reserved_cores=resources.cpu.reserved_cores,
        memory_mb=resources.memory.memory_mb,
        memory_max_mb=resources.memory.memory_max_mb,
    )


def _host_ip(ports: tuple[AllocatedPort, ...], networks: tuple[NetworkResource, ...]) -> str:
    return next((port.host_ip for port in ports if port.host_ip), networks[0].ip if networks else "")


def _dns(dns: DNSConfig | None, names: Interpolator) -> DNSConfig | None:
    if dns is None:
        return None
    return DNSConfig(
        servers=tuple(names.text(server) for server in dns.servers),
        searches=tuple(names.text(search) for search in dns.searches),
        options=tuple(names.text(option) for option in dns.options),
    )
