"""The scaling policies of jobs, as an autoscaler looks for them. They live in their groups; nothing else is stored."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

from nomadpy.model.job import Job, ScalingPolicy, TaskGroup

_SPACE = uuid.UUID("6f2d1f0e-3c1b-5b1e-9a55-0d1f4c7e8a10")


def policy_id(namespace: str, job_id: str, group: str) -> str:
    """The id of a group's policy: always the same for the same group, also after the job was changed.

    >>> policy_id("default", "web", "a") == policy_id("default", "web", "a") != policy_id("default", "web", "b")
    True
    """
    return str(uuid.uuid5(_SPACE, "\0".join((namespace, job_id, group))))


def policies(job: Job, versions: Sequence[Job]) -> Iterator[ScalingPolicy]:
    """The policies of a job's groups. ``versions`` are its kept versions, newest first: they tell since when a policy
    has been there and since when as it is, as far back as they reach."""
    for group in job.task_groups:
        if group.scaling is None:
            continue
        created = changed = job.job_modify_index
        same = True
        for version in versions:
            scaling = _scaling(version, group)
            if scaling is None or version.create_index != job.create_index:
                break
            created = version.job_modify_index
            same = same and _wish(scaling) == _wish(group.scaling)
            changed = version.job_modify_index if same else changed
        yield group.scaling.replace(
            id=policy_id(job.namespace, job.id, group.name),
            target={"Namespace": job.namespace, "Job": job.id, "Group": group.name},
            create_index=created,
            modify_index=changed,
        )


def _scaling(job: Job, group: TaskGroup) -> ScalingPolicy | None:
    other = job.group(group.name)
    return other.scaling if other is not None else None


def _wish(policy: ScalingPolicy) -> ScalingPolicy:
    return policy.replace(id="", target={}, create_index=0, modify_index=0)
