"""Rules for a whole job."""

from __future__ import annotations

from nomadpy.model.job import Job
from nomadpy.model.naming import Noun
from nomadpy.model.validate.group import check_group, check_preferences
from nomadpy.model.validate.placement import check_constraints
from nomadpy.model.validate.policies import check_parameterized, check_periodic
from nomadpy.model.validate.report import Problems, nested

JOB_TYPES = ("service", "batch", "system", "sysbatch")
BATCH_TYPES = ("batch", "sysbatch")
DESCRIPTION_MAX = 1000


class JobLimits(Noun):
    """What the servers' configuration allows: ``job_max_priority`` and ``job_max_count`` (over all groups)."""

    max_priority: int = 100
    max_count: int = 50_000


def check_job(job: Job, limits: JobLimits) -> Problems:
    """Problems of a canonical job."""
    yield from _identity(job)
    yield from _scope(job, limits)
    yield from check_constraints(job.constraints)
    yield from check_preferences(job, job.type)
    yield from _groups(job, limits)
    yield from _launchers(job)
    if job.ui is not None and len(job.ui.description) > DESCRIPTION_MAX:
        yield f"UI description must be under {DESCRIPTION_MAX} characters, currently {len(job.ui.description)}"


def _identity(job: Job) -> Problems:
    if not job.id:
        yield "Missing job ID"
    elif " " in job.id:
        yield "Job ID contains a space"
    elif "\0" in job.id:
        yield "Job ID contains a null character"
    if not job.name:
        yield "Missing job name"
    elif "\0" in job.name:
        yield "Job Name contains a null character"


def _scope(job: Job, limits: JobLimits) -> Problems:
    if not job.region and job.multiregion is None:
        yield "Missing job region"
    if not job.namespace:
        yield "Job must be in a namespace"
    if not job.type:
        yield "Missing job type"
    elif job.type not in JOB_TYPES:
        yield f'Invalid job type: "{job.type}"'
    if not 1 <= job.priority <= limits.max_priority:
        yield f"job priority must be between [1, {limits.max_priority}]"
    if not job.datacenters and job.multiregion is None:
        yield "Missing job datacenters"
    if "" in job.datacenters:
        yield "Job datacenter must be non-empty string"


def _groups(job: Job, limits: JobLimits) -> Problems:
    if not job.task_groups:
        yield "Missing job task groups"
    first: dict[str, int] = {}
    for number, group in enumerate(job.task_groups, 1):
        if not group.name:
            yield f"Job task group {number} missing name"
        elif first.setdefault(group.name, number) != number:
            yield f"Job task group {number} redefines '{group.name}' from group {first[group.name]}"
        if job.type == "system" and group.count > 1:
            yield (f"Job task group {group.name} has count {group.count}. Count cannot exceed 1 with system scheduler")
    total = sum(group.count for group in job.task_groups)
    if total > limits.max_count:
        yield f"total count was greater than configured job_max_count: {total} > {limits.max_count}"
    for group in job.task_groups:
        yield from nested(f"Task group {group.name}", check_group(group, job))


def _launchers(job: Job) -> Problems:
    if job.periodic is not None:
        if job.type not in BATCH_TYPES:
            yield 'Periodic can only be used with "batch" or "sysbatch" scheduler'
        yield from check_periodic(job.periodic)
    if job.parameterized_job is not None:
        if job.type not in BATCH_TYPES:
            yield 'Parameterized job can only be used with "batch" or "sysbatch" scheduler'
        yield from check_parameterized(job.parameterized_job)
