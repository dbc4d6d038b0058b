"""The environment of a task: Nomad's ``NOMAD_*`` variables, the job's own and, without an image, the agent's.

Later layers win: built-in, task meta, host environment (only names not yet present), the task's ``env`` block, then
what prestart hooks add.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from nomadpy.client.interpolate import Interpolator, node_values
from nomadpy.drivers.contract import FS_IMAGE, FS_NONE, TaskDirs
from nomadpy.model.alloc import Allocation
from nomadpy.model.errors import Invalid
from nomadpy.model.job import Job, Task, TaskGroup
from nomadpy.model.node import Node
from nomadpy.model.resources import AllocatedPort, AllocatedTaskResources, NetworkResource

_CLEANED_PREFIXES = ("NOMAD_ADDR_", "NOMAD_IP_", "NOMAD_PORT_", "NOMAD_HOST_PORT_", "NOMAD_META_")
_ODD = re.compile(r"[^A-Za-z0-9_]")


class EnvironmentSource(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the environment of one task follows from. ``denylist`` names what the host keeps to itself."""

    alloc: Allocation
    task: Task
    node: Node
    region: str
    dirs: TaskDirs
    fs_isolation: str
    host_env: Mapping[str, str] = {}
    denylist: frozenset[str] = frozenset()
    hook_env: Mapping[str, str] = {}


def job_and_group(alloc: Allocation) -> tuple[Job, TaskGroup]:
    """The job and the group of an allocation. Raises Invalid when the allocation does not carry them."""
    group = alloc.job.group(alloc.task_group) if alloc.job is not None else None
    if alloc.job is None or group is None:
        raise Invalid(f'allocation {alloc.id} carries no group "{alloc.task_group}"')
    return alloc.job, group


def build_environment(source: EnvironmentSource) -> tuple[dict[str, str], Interpolator]:
    """(the task's environment, an interpolator over it and the node's values)."""
    env = _built_in(source)
    env.update(_meta(source))
    if source.fs_isolation != FS_IMAGE:
        for name, value in source.host_env.items():
            if name not in source.denylist:
                env.setdefault(name, value)
    node = node_values(source.node, source.region)
    env.update(Interpolator(dict(env), node).texts(source.task.env))
    env.update(source.hook_env)
    clean = {clean_name(name): value for name, value in env.items()}
    return clean, Interpolator(clean, node)


def clean_name(name: str) -> str:
    """A variable's name as the task sees it: odd characters of labels become ``_``.

    >>> clean_name("NOMAD_PORT_my-port"), clean_name("my-own")
    ('NOMAD_PORT_my_port', 'my-own')
    """
    return _ODD.sub("_", name) if name.startswith(_CLEANED_PREFIXES) else name


def combined_meta(job: Job, group: TaskGroup, task: Task) -> dict[str, str]:
    """The meta that a task sees: task over group over job; unsent optional keys of a dispatched job are empty."""
    optional = job.parameterized_job.meta_optional if job.parameterized_job and job.dispatched else ()
    return {**dict.fromkeys(optional, ""), **job.meta, **group.meta, **task.meta}


def _built_in(source: EnvironmentSource) -> dict[str, str]:
    alloc, task, dirs = source.alloc, source.task, source.dirs
    job, group = job_and_group(alloc)
    inside = source.fs_isolation != FS_NONE
    env = {
        "NOMAD_ALLOC_DIR": "/alloc" if inside else dirs.shared_dir,
        "NOMAD_TASK_DIR": "/local" if inside else dirs.local_dir,
        "NOMAD_SECRETS_DIR": "/secrets" if inside else dirs.secrets_dir,
        "NOMAD_ALLOC_ID": alloc.id,
        "NOMAD_SHORT_ALLOC_ID": alloc.id[:8],
        "NOMAD_ALLOC_NAME": alloc.name,
        "NOMAD_ALLOC_INDEX": str(alloc.index) if "[" in alloc.name else "",
        "NOMAD_TASK_NAME": task.name,
        "NOMAD_GROUP_NAME": group.name,
        "NOMAD_JOB_ID": job.id,
        "NOMAD_JOB_NAME": job.name,
        "NOMAD_JOB_PARENT_ID": job.parent_id,
        "NOMAD_DC": source.node.datacenter,
        "NOMAD_REGION": source.region,
        "NOMAD_NAMESPACE": alloc.namespace,
        "NOMAD_PARENT_CGROUP": source.node.cgroup_parent,
    }
    resources = alloc.allocated_resources
    if resources is not None:
        env.update(_limits(resources.tasks.get(task.name)))
        env.update(_ports(resources.shared.ports, resources.shared.networks))
        if alloc.network_status is not None:
            env.update(_inner_ports(alloc, resources.shared.ports))
        env.update(_task_networks(task.name, {n: r.networks for n, r in resources.tasks.items()}))
    return {name: value for name, value in env.items() if value or name in ("NOMAD_TASK_NAME", "NOMAD_ALLOC_ID")}


def _limits(resources: AllocatedTaskResources | None) -> dict[str, str]:
    if resources is None:
        return {}
    env = {"NOMAD_CPU_LIMIT": str(resources.cpu.cpu_shares), "NOMAD_MEMORY_LIMIT": str(resources.memory.memory_mb)}
    if resources.memory.memory_max_mb > 0:
        env["NOMAD_MEMORY_MAX_LIMIT"] = str(resources.memory.memory_max_mb)
    if resources.cpu.reserved_cores:
        env["NOMAD_CPU_CORES"] = format_cores(resources.cpu.reserved_cores)
    return env


def format_cores(cores: tuple[int, ...]) -> str:
    """Core ids as a set with ranges.

    >>> format_cores((4, 3, 7, 5))
    '3-5,7'
    """
    runs: list[list[int]] = []
    for core in sorted(set(cores)):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address.

    >>> join_address("::1", 80), join_address("10.0.0.1", 80)
    ('[::1]:80', '10.0.0.1:80')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ports(ports: tuple[AllocatedPort, ...], networks: tuple[NetworkResource, ...]) -> dict[str, str]:
    if not ports:
        return {
            name: value
            for network in networks
            for port in (*network.reserved_ports, *network.dynamic_ports)
            for name, value in _port(port.label, network.ip, port.value, port.to).items()
        }
    return {
        name: value for port in ports for name, value in _port(port.label, port.host_ip, port.value, port.to).items()
    }


def _port(label: str, host_ip: str, value: int, to: int) -> dict[str, str]:
    inner = to if to > 0 else value
    return {
        f"NOMAD_IP_{label}": host_ip,
        f"NOMAD_HOST_IP_{label}": host_ip,
        f"NOMAD_PORT_{label}": str(inner),
        f"NOMAD_ALLOC_PORT_{label}": str(inner),
        f"NOMAD_HOST_PORT_{label}": str(value),
        f"NOMAD_ADDR_{label}": join_address(host_ip, value),
        f"NOMAD_HOST_ADDR_{label}": join_address(host_ip, value),
    }


def _inner_ports(alloc: Allocation, ports: tuple[AllocatedPort, ...]) -> dict[str, str]:
    status = alloc.network_status
    if status is None or not status.address:
        return {}
    env = {}
    for port in ports:
        env[f"NOMAD_ALLOC_IP_{port.label}"] = status.address
        env[f"NOMAD_ALLOC_INTERFACE_{port.label}"] = status.interface_name
        env[f"NOMAD_ALLOC_ADDR_{port.label}"] = join_address(status.address, port.to if port.to > 0 else port.value)
    return env


def _task_networks(own: str, networks_by_task: Mapping[str, tuple[NetworkResource, ...]]) -> dict[str, str]:
    """The variables of networks that belong to tasks instead of the group, as old job files have them."""
    env: dict[str, str] = {}
    for task, networks in networks_by_task.items():
        for network in networks:
            for port in (*network.reserved_ports, *network.dynamic_ports):
                env[f"NOMAD_IP_{task}_{port.label}"] = network.ip
                env[f"NOMAD_PORT_{task}_{port.label}"] = str(port.value)
                env[f"NOMAD_ADDR_{task}_{port.label}"] = join_address(network.ip, port.value)
                if task == own:
                    env.update(_port(port.label, network.ip, port.value, port.to))
                    env[f"NOMAD_{'IPv6' if ':' in network.ip else 'IPv4'}_{port.label}"] = network.ip
    return env


def _meta(source: EnvironmentSource) -> dict[str, str]:
    job, group = job_and_group(source.alloc)
    env = {}
    for key, value in combined_meta(job, group, source.task).items():
        env[f"NOMAD_META_{key.upper()}"] = value
        env[f"NOMAD_META_{key}"] = value
    return env
