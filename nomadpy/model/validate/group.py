"""Rules for one task group."""

from __future__ import annotations

from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.validate.blocks import check_volumes
from nomadpy.model.validate.network import check_networks
from nomadpy.model.validate.placement import check_affinities, check_constraints, check_spreads
from nomadpy.model.validate.policies import (
    check_disconnect,
    check_migrate,
    check_reschedule,
    check_restart,
    check_scaling,
    check_update,
)
from nomadpy.model.validate.report import QUANTITY_MAX, Problems, nested
from nomadpy.model.validate.services import check_group_services
from nomadpy.model.validate.task import check_task

DISK_MIN_MB = 10
SYSTEM_SCALING = "Task groups with job type system do not support scaling blocks"
BATCH_TYPES = ("batch", "sysbatch")
SYSTEM_TYPES = ("system", "sysbatch")


def check_group(group: TaskGroup, job: Job) -> Problems:
    """Problems of a group of a job."""
    if "\0" in group.name:
        yield "Task group name contains null character"
    if group.count < 0:
        yield "Task group count can't be negative"
    yield from check_constraints(group.constraints)
    yield from check_preferences(group, job.type)
    yield from _policies(group, job)
    yield from _disk_and_times(group, job.type)
    yield from check_volumes(group, job.type)
    yield from check_networks(group)
    yield from check_group_services(group)
    yield from _tasks(group)
    for task in group.tasks:
        yield from nested(f"Task {task.name}", check_task(task, group, job.type))


def check_preferences(block: TaskGroup | Job, job_type: str) -> Problems:
    """Problems of the affinities and spreads of a job or a group; system jobs run everywhere and may not have any."""
    if job_type == "system":
        if block.affinities:
            yield "System jobs may not have an affinity block"
        if block.spreads:
            yield "System jobs may not have a spread block"
        return
    yield from check_affinities(block.affinities)
    yield from check_spreads(block.spreads)


def _policies(group: TaskGroup, job: Job) -> Problems:
    if group.restart_policy is None:
        yield f"Task Group {group.name} should have a restart policy"
    else:
        yield from check_restart(group.restart_policy)
    reschedule = group.reschedule_policy
    if job.type in SYSTEM_TYPES:
        if reschedule is not None:
            yield "System or sysbatch jobs should not have a reschedule policy"
    elif reschedule is None:
        yield f"Task Group {group.name} should have a reschedule policy"
    else:
        yield from check_reschedule(reschedule)
    if group.update is not None:
        if job.type not in ("service", "system"):
            yield f'Job type "{job.type}" does not allow update block'
        yield from check_update(group.update)
        if job.type == "system" and group.update.canary > 100:
            yield (
                "Canary count of a system job is the percentage of its nodes that are updated first and can not be "
                f"greater than 100: {group.update.canary} > 100"
            )
    if group.migrate is not None:
        if job.type != "service":
            yield f'Job type "{job.type}" does not allow migrate block'
        yield from check_migrate(group.migrate)
    disconnection = group.disconnection()
    if disconnection is not None:
        yield from check_disconnect(disconnection, job.type)
    if group.scaling is not None:
        if job.type == "system":
            yield SYSTEM_SCALING
        yield from check_scaling(group.scaling, group.count)


def _disk_and_times(group: TaskGroup, job_type: str) -> Problems:
    disk = group.ephemeral_disk
    if disk is None:
        yield f"Task Group {group.name} should have an ephemeral disk object"
    elif disk.size_mb < DISK_MIN_MB:
        yield f"minimum DiskMB value is {DISK_MIN_MB}; got {disk.size_mb}"
    elif disk.size_mb > QUANTITY_MAX:
        yield f"maximum DiskMB value is {QUANTITY_MAX}; got {disk.size_mb}"
    if group.shutdown_delay_ns is not None and group.shutdown_delay_ns < 0:
        yield "ShutdownDelay must be a positive value"
    if group.max_run_duration_ns is not None:
        if group.max_run_duration_ns <= 0:
            yield "max_run_duration must be greater than zero"
        if job_type not in BATCH_TYPES:
            yield f'max_run_duration can only be used in batch and sysbatch jobs, not in job type "{job_type}"'


def _tasks(group: TaskGroup) -> Problems:
    if not group.tasks:
        yield "Missing tasks for task group"
        return
    first: dict[str, int] = {}
    for number, task in enumerate(group.tasks, 1):
        if not task.name:
            yield f"Task {number} missing name"
        elif first.setdefault(task.name, number) != number:
            yield f"Task {number} redefines '{task.name}' from task {first[task.name]}"
    if sum(task.leader for task in group.tasks) > 1:
        yield "Only one task may be marked as leader"
    if all(task.lifecycle is not None for task in group.tasks):
        yield f"Task group {group.name} must have at least one main task"
