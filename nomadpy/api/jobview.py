"""Jobs as lists and the scale route show them."""

from __future__ import annotations

from typing import Any

from nomadpy.model.job import Job, JobSummary, TaskGroup
from nomadpy.model.wire import to_wire
from nomadpy.server.messages import JobScaleStatus, TaskGroupScaleStatus
from nomadpy.state.store import StateStore


def job_stub(store: StateStore, job: Job, *, meta: bool) -> dict[str, Any]:
    """The job in a list, in wire form, because ``Meta`` appears only when it is asked for."""
    summary = store.jobs.summaries.get(job.key) or JobSummary(job_id=job.id, namespace=job.namespace)
    stub = {
        "ID": job.id,
        "ParentID": job.parent_id,
        "Name": job.name,
        "Namespace": job.namespace,
        "Datacenters": list(job.datacenters),
        "NodePool": job.node_pool,
        "Multiregion": to_wire(job.multiregion),
        "Type": job.type,
        "Priority": job.priority,
        "Periodic": job.is_periodic(),
        "ParameterizedJob": job.is_parameterized(),
        "Stop": job.stop,
        "Status": job.status,
        "StatusDescription": job.status_description,
        "JobSummary": to_wire(summary),
        "CreateIndex": job.create_index,
        "ModifyIndex": job.modify_index,
        "JobModifyIndex": job.job_modify_index,
        "SubmitTime": job.submit_time_ns,
    }
    if meta:
        stub["Meta"] = job.meta or None
    return stub


def job_scale_status(store: StateStore, job: Job) -> JobScaleStatus:
    """What each group wants and has, with its scaling events."""
    return JobScaleStatus(
        job_id=job.id,
        namespace=job.namespace,
        job_create_index=job.create_index,
        job_modify_index=job.job_modify_index,
        job_stopped=job.stop,
        task_groups={group.name: _group_status(store, job, group) for group in job.task_groups},
    )


def _group_status(store: StateStore, job: Job, group: TaskGroup) -> TaskGroupScaleStatus:
    stubs = [store.alloc_stub_at(row) for row in store.live_rows(job.key)]
    mine = [stub for stub in stubs if stub.task_group == group.name]
    health = [stub.deployment_status.healthy for stub in mine if stub.deployment_status is not None]
    return TaskGroupScaleStatus(
        desired=group.count,
        placed=len(mine),
        running=sum(1 for stub in mine if stub.client_status == "running"),
        healthy=sum(1 for healthy in health if healthy),
        unhealthy=sum(1 for healthy in health if healthy is False),
        events=store.jobs.scaling_events.get(job.key, {}).get(group.name, ()),
    )
