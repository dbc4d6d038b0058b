"""Jobs with what has become of them, as one list: what a page about all jobs shows and follows."""

from __future__ import annotations

from typing import Any

from nomadpy.api.call import Call, Order, Reply, numbered
from nomadpy.api.router import Operation, Param
from nomadpy.model.alloc import AllocListStub
from nomadpy.model.evaluation import Deployment
from nomadpy.model.job import Job
from nomadpy.model.naming import Noun
from nomadpy.state.store import StateStore


class JobName(Noun):
    id: str = ""
    namespace: str = "default"


class StatusesRequest(Noun):
    """``jobs`` limits the answer to those that are named; missing ones are skipped."""

    jobs: tuple[JobName, ...] = ()
    include_children: bool = False


_NEWEST_FIRST: Order[Job] = Order(lambda job: f"{job.modify_index}.{job.id}", numbered, descending=True)
_TABLES = ("jobs", "job_summary", "allocs", "deployments")


async def statuses(call: Call) -> Reply:
    """The jobs with their allocations and newest deployment, last changed first."""
    store = call.server.store
    request = await call.body(StatusesRequest, optional=True)
    children = request.include_children or call.flag("include_children") or bool(request.jobs)
    wanted = {(name.namespace, name.id) for name in request.jobs}

    def read() -> tuple[Any, int]:
        jobs = [
            job
            for key, job in store.jobs.current.items()
            if (key in wanted if wanted else call.namespace in ("*", key[0]))
            and (children or not job.parent_id)
            and call.caller.allows(key[0], "read-job")
        ]
        jobs.sort(key=lambda job: (job.modify_index, job.id), reverse=not call.reverse)
        page = call.page(jobs, Job, _NEWEST_FIRST, lambda job: _status(store, job))
        return page, store.max_index(*_TABLES)

    return await call.blocking(read, *_TABLES)


def _status(store: StateStore, job: Job) -> dict[str, Any]:
    stubs = [store.alloc_stub_at(row) for row in store.allocs.rows_by_job(job.key)]
    deployment = store.latest_deployment(*job.key)
    is_parent = job.is_periodic() or job.is_parameterized()
    return {
        "ID": job.id,
        "Namespace": job.namespace,
        "Name": job.name,
        "Type": job.type,
        "NodePool": job.node_pool,
        "Datacenters": list(job.datacenters),
        "Priority": job.priority,
        "Version": job.version,
        "SubmitTime": job.submit_time_ns,
        "ModifyIndex": job.modify_index,
        "Allocs": [_alloc(stub) for stub in stubs if stub.desired_status == "run" or stub.client_status == "running"],
        "GroupCountSum": sum(group.count for group in job.task_groups),
        "ChildStatuses": _children(store, job) if is_parent else None,
        "ParentID": job.parent_id,
        "LatestDeployment": None if deployment is None else _deployment(deployment),
        "Stop": job.stop,
        "IsPack": "pack.name" in job.meta,
        "Status": job.status,
    }


def _children(store: StateStore, job: Job) -> list[str]:
    return [
        child.status
        for key, child in sorted(store.jobs.current.items())
        if key[0] == job.namespace and child.parent_id == job.id
    ]


def _alloc(stub: AllocListStub) -> dict[str, Any]:
    health = stub.deployment_status
    return {
        "ID": stub.id,
        "Group": stub.task_group,
        "ClientStatus": stub.client_status,
        "NodeID": stub.node_id,
        "DeploymentStatus": {
            "Canary": health is not None and health.canary,
            "Healthy": health.healthy if health is not None else None,
        },
        "JobVersion": stub.job_version,
        "FollowupEvalID": stub.followup_eval_id,
        "HasPausedTask": False,
    }


def _deployment(deployment: Deployment) -> dict[str, Any]:
    groups = deployment.task_groups.values()
    canaries = [group for group in groups if group.desired_canaries]
    return {
        "ID": deployment.id,
        "IsActive": deployment.active(),
        "JobVersion": deployment.job_version,
        "Status": deployment.status,
        "StatusDescription": deployment.status_description,
        "AllAutoPromote": bool(canaries) and all(group.auto_promote for group in canaries),
        "RequiresPromotion": any(not group.promoted for group in canaries),
    }


OPERATIONS: tuple[Operation, ...] = (
    Operation(methods=("GET", "POST"), path="/v1/jobs/statuses", endpoint=statuses, body=StatusesRequest,
              query=(Param("filter"), Param("reverse"), Param("include_children", "boolean")), blocking=True,
              paged=True),
)  # fmt: skip
