"""Routes about scaling policies and about the tags of job versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nomadpy.api.call import Call, Reply
from nomadpy.api.router import READ, WRITE, Operation, Param
from nomadpy.model.errors import NotFound
from nomadpy.model.job import Job, ScalingPolicy
from nomadpy.model.naming import Noun
from nomadpy.model.scaling import policies
from nomadpy.server import messages as m
from nomadpy.state.store import StateStore

_MAY_LIST, _MAY_READ = ("list-scaling-policies", "list-jobs"), ("read-scaling-policy", "read-job")
_TABLES = ("jobs", "job_version")


class ScalingPolicyListStub(Noun):
    """A scaling policy in the list."""

    id: str = ""
    enabled: bool = True
    type: str = ""
    target: dict[str, str] = {}
    create_index: int = 0
    modify_index: int = 0


def _policies(store: StateStore, job: Job) -> Iterator[ScalingPolicy]:
    return policies(job, store.jobs.versions.get(job.key, ()))


async def list_policies(call: Call) -> Reply:
    """The scaling policies of all jobs, or of one, by id."""
    store, namespace = call.server.store, call.namespace
    prefix, job_id, kind = call.text("prefix"), call.text("job"), call.text("type")
    if namespace != "*":
        call.caller.require(namespace, *_MAY_LIST)

    def read() -> tuple[Any, int]:
        jobs = [
            job
            for key, job in store.jobs.current.items()
            if namespace in ("*", key[0])
            and (not job_id or key[1] == job_id)
            and any(call.caller.allows(key[0], one) for one in _MAY_LIST)
        ]
        found = [policy for job in jobs for policy in _policies(store, job)]
        stubs = [
            ScalingPolicyListStub(
                id=policy.id,
                enabled=policy.enabled,
                type=policy.type,
                target=policy.target,
                create_index=policy.create_index,
                modify_index=policy.modify_index,
            )
            for policy in sorted(found, key=lambda policy: policy.id)
            if policy.id.startswith(prefix) and policy.type.startswith(kind)
        ]
        return stubs, max(1, store.max_index(*_TABLES))

    return await call.blocking(read, *_TABLES)


async def get_policy(call: Call) -> Reply:
    """One scaling policy, with the opaque part that is the autoscaler's."""
    store, ident = call.server.store, call.params["policy_id"]

    def read() -> tuple[Any, int]:
        for key, job in store.jobs.current.items():
            for policy in _policies(store, job):
                if policy.id == ident:
                    call.caller.require(key[0], *_MAY_READ)
                    return policy, policy.modify_index
        return NotFound("policy not found"), max(1, store.max_index(*_TABLES))

    return await call.blocking(read, *_TABLES)


async def tag(call: Call) -> Reply:
    """Gives a version of a job a name; a tagged version is kept."""
    request = await call.body(m.JobTagRequest)
    response = await call.server.jobs.tag(
        call.caller, call.namespace, call.params["job_id"], call.params["name"], request
    )
    return Reply(value=response, index=response.index)


async def untag(call: Call) -> Reply:
    """Takes a version's name away."""
    response = await call.server.jobs.untag(call.caller, call.namespace, call.params["job_id"], call.params["name"])
    return Reply(value=response, index=response.index)


_TAG = "/v1/job/{job_id}/versions/{name}/tag"

OPERATIONS: tuple[Operation, ...] = (
    Operation(methods=WRITE, path=_TAG, endpoint=tag, body=m.JobTagRequest, answer=m.JobTagResponse),
    Operation(methods=("DELETE",), path=_TAG, endpoint=untag, answer=m.JobTagResponse),
    Operation(methods=READ, path="/v1/scaling/policies", endpoint=list_policies, answer=list[ScalingPolicyListStub],
              query=(Param("prefix"), Param("job"), Param("type")), blocking=True),
    Operation(methods=READ, path="/v1/scaling/policy/{policy_id}", endpoint=get_policy, answer=ScalingPolicy,
              blocking=True),
)  # fmt: skip
