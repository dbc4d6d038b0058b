"""Whether a new version of a job differs at all, and whether running allocations can follow it without a restart."""

from __future__ import annotations

from typing import Any, Literal

from nomadpy.model.job import Job, Task, TaskGroup
from nomadpy.model.resources import NetworkResource, Port
from nomadpy.model.service import LogConfig

UpdateKind = Literal["ignore", "in-place", "destructive"]

_BOOKKEEPING: dict[str, Any] = {
    "status": "",
    "status_description": "",
    "stable": False,
    "version": 0,
    "version_tag": None,
    "submit_time_ns": 0,
    "create_index": 0,
    "modify_index": 0,
    "job_modify_index": 0,
    "nomad_token_id": "",
}


def spec_equal(a: Job, b: Job) -> bool:
    """Whether two jobs want the same, whatever the servers have noted on them."""
    return a is b or _specification(a) == _specification(b)


def group_update_kind(old: Job, new: Job, group: str) -> UpdateKind:
    """What allocations of ``group`` placed for ``old`` need in order to become allocations of ``new``.

    "destructive" also when either job lacks the group. Whether a node still suits is not asked here.
    """
    if old.job_modify_index == new.job_modify_index:
        return "ignore"
    before, after = old.group(group), new.group(group)
    if before is None or after is None or _group_shape(before) != _group_shape(after):
        return "destructive"
    tasks = {task.name: task for task in after.tasks}
    for task in before.tasks:
        other = tasks.get(task.name)
        if other is None or _task_shape(task) != _task_shape(other):
            return "destructive"
        if _merged_meta(old, before, task) != _merged_meta(new, after, other):
            return "destructive"
    return "in-place"


def _specification(job: Job) -> Job:
    groups = tuple(_without_policy_indexes(group) for group in job.task_groups)
    return job.replace(task_groups=groups, **_BOOKKEEPING)


def _without_policy_indexes(group: TaskGroup) -> TaskGroup:
    if group.scaling is None:
        return group
    return group.replace(scaling=group.scaling.replace(id="", create_index=0, modify_index=0))


def _group_shape(group: TaskGroup) -> tuple[Any, ...]:
    connects = sorted(
        ((service.name, service.port_label, service.connect) for service in group.services if service.connect),
        key=lambda entry: entry[:2],
    )
    restart = group.restart_policy
    return (
        len(group.tasks),
        group.ephemeral_disk,
        [_network_shape(network) for network in group.networks],
        group.consul,
        connects,
        group.volumes,
        restart is not None and restart.render_templates,
    )


def _network_shape(network: NetworkResource) -> tuple[Any, ...]:
    return (
        network.mode,
        network.mbits,
        network.hostname,
        network.dns,
        network.cni,
        [_port_shape(port) for port in network.reserved_ports],
        # A dynamic port's value is chosen by the scheduler and not part of what was asked for.
        [_port_shape(port.replace(value=0)) for port in network.dynamic_ports],
    )


def _port_shape(port: Port) -> tuple[Any, ...]:
    return port.label, port.value, port.to, port.host_network


def _task_shape(task: Task) -> tuple[Any, ...]:
    resources = task.resources
    restart = task.restart_policy
    return (
        (task.driver, task.user, task.config, task.env),
        (task.artifacts, task.vault, task.secrets, task.consul, task.templates),
        (task.csi_plugin_config, task.volume_mounts),
        (resources.cpu, resources.cores, resources.memory_mb, resources.memory_max_mb, resources.secrets_mb),
        (resources.devices, resources.numa, [_network_shape(network) for network in resources.networks]),
        (task.identity, task.identities),
        (task.log_config or LogConfig()).disabled,
        restart is not None and restart.render_templates,
    )


def _merged_meta(job: Job, group: TaskGroup, task: Task) -> dict[str, str]:
    return {**job.meta, **group.meta, **task.meta}
