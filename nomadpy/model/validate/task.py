"""Rules for one task."""

from __future__ import annotations

from nomadpy.model.job import Task, TaskGroup
from nomadpy.model.resources import Resources
from nomadpy.model.time import format_duration
from nomadpy.model.validate.blocks import (
    check_artifacts,
    check_csi_plugin,
    check_lifecycle,
    check_logs,
    check_templates,
    check_volume_mounts,
)
from nomadpy.model.validate.identities import check_actions, check_identities, check_secrets, check_vault
from nomadpy.model.validate.placement import check_affinities, check_constraints, check_devices
from nomadpy.model.validate.policies import check_restart
from nomadpy.model.validate.report import QUANTITY_MAX, Problems, escapes_task_local, nested
from nomadpy.model.validate.services import check_task_services

CPU_MIN_MHZ = 1
MEMORY_MIN_MB = 10
UNLIMITED = -1


def check_task(task: Task, group: TaskGroup, job_type: str) -> Problems:
    """Problems of a task of a group."""
    yield from _names(task)
    if not task.driver:
        yield "Missing task driver"
    yield from _times(task, group, job_type)
    yield from _resources(task.resources)
    if task.log_config is None:
        yield "Missing Log Config"
    else:
        disk = group.ephemeral_disk.size_mb if group.ephemeral_disk is not None else 0
        yield from check_logs(task.log_config, disk)
    yield from check_constraints(task.constraints, at_task=True)
    if job_type == "system":
        if task.affinities:
            yield "System jobs may not have an affinity block"
    else:
        yield from check_affinities(task.affinities)
    if task.restart_policy is not None:
        yield from check_restart(task.restart_policy)
    yield from check_task_services(task, group)
    yield from check_templates(task.templates)
    yield from check_artifacts(task.artifacts)
    yield from check_volume_mounts(task.volume_mounts, group)
    yield from check_lifecycle(task)
    yield from check_identities(task)
    yield from check_secrets(task.secrets, task.vault)
    yield from check_actions(task.actions)
    yield from _rare_blocks(task)


def _names(task: Task) -> Problems:
    if not task.name:
        yield "Missing task name"
    if task.name == "alloc":
        yield 'Task cannot be named "alloc"'
    if "/" in task.name or "\\" in task.name:
        yield "Task name cannot include slashes"
    if task.name in (".", ".."):
        yield f'Task cannot be named "{task.name}"'
    if "\0" in task.name:
        yield "Task name cannot include null characters"


def _times(task: Task, group: TaskGroup, job_type: str) -> Problems:
    if task.kill_timeout_ns < 0:
        yield "KillTimeout must be a positive value"
    elif job_type == "service" and group.update is not None:
        deadline = group.update.progress_deadline_ns
        if 0 < deadline < task.kill_timeout_ns:
            yield (
                f"KillTimeout ({format_duration(task.kill_timeout_ns)}) longer than the group's ProgressDeadline "
                f"({format_duration(deadline)})"
            )
    if task.shutdown_delay_ns < 0:
        yield "ShutdownDelay must be a positive value"


def _resources(resources: Resources) -> Problems:
    if resources.cores > 0 and resources.cpu > 0:
        yield "Task can only ask for 'cpu' or 'cores' resource, not both."
    if resources.cores < 0:
        yield f"minimum cores value is 0; got {resources.cores}"
    if resources.cores <= 0 and resources.cpu < CPU_MIN_MHZ:
        yield f"minimum CPU value is {CPU_MIN_MHZ}; got {resources.cpu}"
    if resources.memory_mb < MEMORY_MIN_MB:
        yield f"minimum MemoryMB value is {MEMORY_MIN_MB}; got {resources.memory_mb}"
    ceiling = resources.memory_max_mb
    if ceiling not in (0, UNLIMITED) and ceiling < resources.memory_mb:
        yield f"MemoryMaxMB value ({ceiling}) should be larger than MemoryMB value ({resources.memory_mb})"
    if not 0 <= resources.secrets_mb <= max(resources.memory_mb, 0):
        yield (
            f"SecretsMB value ({resources.secrets_mb}) must be between 0 and the MemoryMB value ({resources.memory_mb})"
        )
    if resources.disk_mb > 0:
        yield "Task can't ask for disk resources, they have to be specified at the task group level."
    for name, value in (("CPU", resources.cpu), ("Cores", resources.cores), ("MemoryMB", resources.memory_mb)):
        if value > QUANTITY_MAX:
            yield f"maximum {name} value is {QUANTITY_MAX}; got {value}"
    if ceiling > QUANTITY_MAX:
        yield f"maximum MemoryMaxMB value is {QUANTITY_MAX}; got {ceiling}"
    yield from check_devices(resources.devices, resources.numa)


def _rare_blocks(task: Task) -> Problems:
    if task.dispatch_payload is not None:
        yield from nested("Dispatch Payload", _dispatch_file(task.dispatch_payload.file))
    if task.vault is not None:
        yield from nested("Vault", check_vault(task.vault))
    if task.csi_plugin_config is not None:
        yield from nested("CSI plugin", check_csi_plugin(task.csi_plugin_config))
    if task.schedule is not None:
        yield "task schedules requires Nomad Enterprise"


def _dispatch_file(file: str) -> Problems:
    if not file:
        yield "dispatch payload file must be specified"
    elif escapes_task_local(file):
        yield "destination escapes task directory"
